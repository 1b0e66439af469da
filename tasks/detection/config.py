"""The schema of detection recipes; defaults are ViTDet's Mask R-CNN (Li et al. 2022). Imports no detectron2.

Source of every default: detectron2, configs/common/models/mask_rcnn_{fpn,vitdet}.py and
projects/ViTDet/configs/common/coco_loader_lsj.py. Sizes in pixels of the network's input unless said otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tasks.recipe import DataConfig, Recipe


@dataclass
class DetectionConfig:
    """Input, adaptation of the encoder, pyramid, and the three heads."""

    img_size: int = 1024  # side of the square training crop; longer side of test images
    scale_range: list[float] = field(default_factory=lambda: [0.1, 2.0])  # large-scale jitter
    flip: bool = True
    classes: int | None = None  # default: as many as the json's categories
    with_masks: bool = True  # False: Faster R-CNN, boxes only

    window_size: int = 14  # in patches; 0 makes all attention global
    global_blocks: list[int] | None = None  # default: the last block of each quarter
    rel_pos: bool = True
    grad_checkpointing: bool = False  # recompute the encoder's blocks in the backward pass

    channels: int = 256  # of the pyramid and of all convolutions of the heads
    # One size a pyramid level: strides of patch size * (1/4, 1/2, 1, 2, 4).
    anchor_sizes: list[int] = field(default_factory=lambda: [32, 64, 128, 256, 512])
    anchor_ratios: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])
    rpn_convs: int = 2
    rpn_batch_per_image: int = 256  # anchors that give a loss
    rpn_pre_nms_topk: list[int] = field(default_factory=lambda: [2000, 1000])  # a level; training, test
    rpn_post_nms_topk: list[int] = field(default_factory=lambda: [1000, 1000])  # training, test

    roi_batch_per_image: int = 512  # proposals that give a loss
    box_pool: int = 7
    box_convs: int = 4
    box_fc: int = 1024
    mask_pool: int = 14
    mask_convs: int = 4

    test_score_thresh: float = 0.05
    test_nms_thresh: float = 0.5
    test_detections_per_image: int = 100


@dataclass
class DetectionRecipe(Recipe):
    """A recipe with a ``detection:`` section."""

    task: str = "detection"
    data: DataConfig = field(default_factory=lambda: DataConfig(name="coco"))
    detection: DetectionConfig = field(default_factory=DetectionConfig)
