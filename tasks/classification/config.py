"""Keys of a classification recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from tasks.recipe import NOT_NEGATIVE, SHARE, Range, Ranges, Recipe


@dataclass
class HeadConfig:
    """What is trained, and on which features."""

    RANGES: ClassVar[Ranges] = {
        "tune_blocks": NOT_NEGATIVE,
        "init_std": NOT_NEGATIVE,
        "label_smoothing": Range(0, 0.999999),
    }

    frozen_encoder: bool = False  # probes: only the head trains
    # Partial fine-tuning: 0 no block, 0.5 the MLP of the last block, n the last n blocks; the last norm trains as well.
    tune_blocks: float | None = None
    # avg: mean of patch tokens, then a norm | token: the encoder's norm, then the class token
    # attentive: the encoder's norm, then a learnt query that attends over the patch tokens, and an MLP
    pool: str = "avg"
    batch_norm: bool = False  # non-affine BatchNorm before the linear layer (linear probe)
    init_std: float = 2e-5  # of the linear layer's truncated normal initialisation
    label_smoothing: float = 0.0


@dataclass
class AugmentationConfig:
    """Training augmentation, in timm's words, and the evaluation crop."""

    RANGES: ClassVar[Ranges] = {
        "scale": Range(0, 1, above=True),
        "hflip": SHARE,
        "erasing": SHARE,
        "mixup": NOT_NEGATIVE,
        "cutmix": NOT_NEGATIVE,
        "eval_crop_ratio": Range(0, 1, above=True),
    }

    crop: str = "inception"  # inception: timm's random resized crop | tf: one draw without rejection (linear probe)
    scale: list[float] = field(default_factory=lambda: [0.08, 1.0])
    hflip: float = 0.5
    auto_augment: str | None = None  # such as rand-m9-mstd0.5-inc1
    erasing: float = 0.0  # probability of random erasing
    mixup: float = 0.0
    cutmix: float = 0.0
    # Default: the encoder's own; where nothing tells, 224 / 256 up to 224 px, 1 above (FINETUNE.md).
    eval_crop_ratio: float | None = None


@dataclass
class ClassificationRecipe(Recipe):
    """A recipe with ``task: classification``."""

    task: str = "classification"
    from_scratch: bool = False  # supervised training (Table 11): refuses a checkpoint
    # Evaluation only, of a fine-tuned checkpoint: imagenet_a | imagenet_r | imagenet_sketch | imagenet_c | imagenet_v2 |
    # imagenet_real (`tasks.classification.robustness`).
    test_set: str | None = None
    head: HeadConfig = field(default_factory=HeadConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)

    def implied_protocol(self) -> str:
        """By what trains: nothing (robustness), a part, everything from scratch, a probe's head only, or everything."""
        if self.test_set is not None:
            return "robustness"
        if self.head.tune_blocks is not None:
            return "partial"
        if self.from_scratch:
            return "scratch"
        if self.head.frozen_encoder:
            return "attentive" if self.head.pool == "attentive" else "linear"
        return "finetune"
