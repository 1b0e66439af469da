"""What a segmentation recipe can say beyond `tasks.recipe`. Plain fields only: reading a recipe must not import mmseg.

The defaults are mmseg's recipe for MAE ViT-B (configs/mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from tasks.recipe import (
    BLOCKS,
    COUNT,
    MOST,
    NATURAL,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    DataConfig,
    EncoderConfig,
    Range,
    Ranges,
    Recipe,
    Words,
)

HEADS = ("upernet", "linear")
INFERENCES = ("slide", "whole")


@dataclass
class SegmentationConfig:
    """Layout and augmentation of the data, decoder, and inference. Sizes in pixels; crops are `encoder.img_size`."""

    RANGES: ClassVar[Ranges] = {
        "head": Words(HEADS),
        "inference": Words(INFERENCES),
        "num_classes": COUNT,
        "resize_scale": Range(1, MOST, members=(2, 2)),
        "resize_ratio": Range(0, MOST, above=True, members=(2, 2)),
        "cat_max_ratio": SHARE,
        "flip": SHARE,
        "out_blocks": BLOCKS,
        "rescales": Range(0, MOST, above=True, members=(4, 4)),
        "channels": COUNT,
        "pool_scales": COUNT,
        "aux_channels": COUNT,
        "aux_weight": NOT_NEGATIVE,
        "class_weight": NOT_NEGATIVE,
        "dropout": SHARE,
        "slide_crop": COUNT,
        "slide_stride": COUNT,
        "tta_scales": POSITIVE,
        "pictures": NATURAL,
    }

    # Folders of images and of class maps below the data set's root. The layout of ADEChallengeData2016 by default.
    train_images: str = "images/training"
    train_maps: str = "annotations/training"
    val_images: str = "images/validation"
    val_maps: str = "annotations/validation"
    image_suffix: str | None = None  # such as .jpg; default: all of tasks.segmentation.folders.SUFFIXES
    map_suffix: str = ".png"  # the map of a/x.jpg is a/x.png
    num_classes: int | None = None  # default: lines of classes.txt, or 150 for the data set ade20k
    class_names: list[str] | None = None  # in order of label, in place of classes.txt
    reduce_zero_label: bool = True  # map value 0 is unlabelled and class i has value i + 1

    resize_scale: list[int] = field(default_factory=lambda: [2048, 512])  # most on the long side, on the short one
    resize_ratio: list[float] = field(default_factory=lambda: [0.5, 2.0])  # random factor on resize_scale in training
    cat_max_ratio: float = 0.75  # draw a crop again where one class covers more of it
    flip: float = 0.5  # probability of a horizontal flip
    photometric_distortion: bool = True

    freeze_encoder: bool = False  # no gradient, no drop path, no optimiser state: neck and heads alone learn
    head: str = "upernet"  # upernet | linear: BatchNorm and a 1x1 convolution on normalised patch features, as DINOv2
    # Blocks or stages, counted from 0, whose features the head sees: four for upernet, any for linear; the last is among them.
    out_blocks: list[int] = field(default_factory=lambda: [3, 5, 7, 11])
    class_token: bool = True
    rel_pos_bias: bool = True  # learnt from zero while fine-tuning (App. A.4); none under a frozen encoder
    # Sizes of the levels against the patch grid: strides of 4 to 32 pixels for patches of 16. Nets with stages have their own.
    rescales: list[float] = field(default_factory=lambda: [4, 2, 1, 0.5])
    channels: int = 768  # of UPerHead
    pool_scales: list[int] = field(default_factory=lambda: [1, 2, 3, 6])  # of its pyramid pooling
    aux_channels: int = 256  # of the auxiliary FCNHead
    aux_weight: float = 0.4  # of its loss; 0: no such head
    # Weight of each class in both heads' losses; default: all 1. Small data sets learn nothing but a vast background.
    class_weight: list[float] | None = None
    dropout: float = 0.1  # before the classifier of UPerHead and FCNHead
    grad_checkpointing: bool = False

    inference: str = "slide"  # slide | whole
    slide_crop: int | None = None  # default: encoder.img_size
    slide_stride: int = 341
    # Test-time augmentation: factors on resize_scale (the usual six are 0.5, 0.75, ... 1.75), and every view mirrored too.
    tta_scales: list[float] = field(default_factory=lambda: [1.0])
    tta_flip: bool = False
    pictures: int = 8  # validation images drawn with ground truth and prediction into the run's predictions/


@dataclass
class SegmentationRecipe(Recipe):
    """A recipe with a ``segmentation:`` section."""

    task: str = "segmentation"
    encoder: EncoderConfig = field(default_factory=lambda: EncoderConfig(img_size=512, drop_path=0.1))
    data: DataConfig = field(default_factory=lambda: DataConfig(name="ade20k"))
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)

    def check_values(self) -> None:
        """See `Recipe`."""
        from tasks.datasets.options import check_options

        check_options(self.data, ())

    def implied_protocol(self) -> str:
        """Frozen features are a protocol of their own."""
        return "segmentation_frozen" if self.segmentation.freeze_encoder else "segmentation"
