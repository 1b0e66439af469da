"""The schema of detection recipes; defaults are ViTDet's Mask R-CNN (Li et al. 2022). Imports no detectron2.

``pyramid: fpn`` is the earlier detector of the MAE paper's Table 4 (Li et al. 2021): other pyramid, norms and positions.

Source of every default: detectron2, configs/common/models/mask_rcnn_{fpn,vitdet}.py and
projects/ViTDet/configs/common/coco_loader_lsj.py. Sizes in pixels of the network's input unless said otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from tasks.recipe import COUNT, MOST, NATURAL, NOT_NEGATIVE, POSITIVE, SHARE, DataConfig, Range, Ranges, Recipe, Words

PYRAMIDS = ("simple", "fpn", "stages")


@dataclass
class DetectionConfig:
    """Input, adaptation of the encoder, pyramid, and the three heads."""

    RANGES: ClassVar[Ranges] = {
        "img_size": COUNT,
        "pyramid": Words(PYRAMIDS),
        "scale_range": Range(0, MOST, above=True, members=(2, 2)),
        "classes": COUNT,
        "window_size": NATURAL,
        "global_blocks": Range(0, 1000, members=(0, 1000)),
        "patch_size": COUNT,
        "channels": COUNT,
        "anchor_sizes": COUNT,
        "anchor_ratios": POSITIVE,
        "rpn_convs": NATURAL,
        "rpn_batch_per_image": COUNT,
        "rpn_pre_nms_topk": Range(1, MOST, members=(2, 2)),
        "rpn_post_nms_topk": Range(1, MOST, members=(2, 2)),
        "roi_batch_per_image": COUNT,
        "box_pool": COUNT,
        "box_convs": NATURAL,
        "box_fc": COUNT,
        "mask_pool": COUNT,
        "mask_convs": NATURAL,
        "federated_classes": COUNT,
        "repeat_threshold": NOT_NEGATIVE,
        "test_score_thresh": SHARE,
        "test_nms_thresh": SHARE,
        "test_detections_per_image": COUNT,
        "pictures": NATURAL,
    }

    img_size: int = 1024  # side of the square training crop; longer side of test images
    scale_range: list[float] = field(default_factory=lambda: [0.1, 2.0])  # large-scale jitter
    flip: bool = True
    classes: int | None = None  # default: as many as the json's categories
    with_masks: bool = True  # False: Faster R-CNN, boxes only

    # simple: ViTDet's, with LayerNorm. fpn: Li et al. 2021's four stages and FPN, with BatchNorm over all processes. stages:
    # FPN with LayerNorm on the stages of a hierarchical net, as ViTDet's own baselines (Swin, MViTv2) have it.
    pyramid: str = "simple"
    cascade: bool = False  # Cascade Mask R-CNN: three box heads, at IoU 0.5, 0.6, 0.7
    window_size: int = 14  # in patches; 0 makes all attention global
    global_blocks: list[int] | None = None  # default: the last block of each quarter
    patch_size: int | None = (
        None  # pixels; the encoder's patch embedding is resampled to it. Default: the encoder's own
    )
    rel_pos: bool = True  # decomposed, a table a block (simple); bias tables that blocks share (fpn)
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

    # LVIS: negatives of a step are this many classes, drawn by the root of their training images; and a sigmoid a class.
    federated_loss: bool = False
    federated_classes: int = 50
    # Images with a class rarer than this share of them are seen more often (Gupta et al. 2019, App. B.2).
    repeat_threshold: float | None = None

    decay_all: bool = False  # weight decay also for norms and positions, as ViTDet's ViT-H has it

    test_score_thresh: float = 0.05
    test_nms_thresh: float = 0.5
    test_detections_per_image: int = 100
    pictures: int = 8  # validation images drawn at the end, what was found beside what is there


@dataclass
class DetectionRecipe(Recipe):
    """A recipe with a ``detection:`` section."""

    task: str = "detection"
    data: DataConfig = field(default_factory=lambda: DataConfig(name="coco"))
    detection: DetectionConfig = field(default_factory=DetectionConfig)

    def check_values(self) -> None:
        """See `Recipe`."""
        from tasks.datasets.options import check_options
        from tasks.detection.layout import OPTIONS

        check_options(self.data, OPTIONS)

    def implied_protocol(self) -> str:
        """Tables keep the two detectors apart, and LVIS from COCO; the protocol of LVIS takes other sets like it."""
        if self.data.name == "lvis" or (
            self.protocol == "lvis" and self.detection.federated_loss and self.data.name != "coco"
        ):
            return "lvis"
        return "detection_fpn" if self.detection.pyramid == "fpn" else "detection"
