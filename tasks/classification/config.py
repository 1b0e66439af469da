"""Keys of a classification recipe."""

from __future__ import annotations

from dataclasses import dataclass, field

from tasks.recipe import Recipe


@dataclass
class HeadConfig:
    """What is trained, and on which features."""

    frozen_encoder: bool = False  # linear probe: only the head trains
    pool: str = "avg"  # avg: mean of patch tokens, then a norm | token: the encoder's norm, then the class token
    batch_norm: bool = False  # non-affine BatchNorm before the linear layer (linear probe)
    init_std: float = 2e-5  # of the linear layer's truncated normal initialisation
    label_smoothing: float = 0.0


@dataclass
class AugmentationConfig:
    """Training augmentation, in timm's words, and the evaluation crop."""

    crop: str = "inception"  # inception: timm's random resized crop | tf: one draw without rejection (linear probe)
    scale: list[float] = field(default_factory=lambda: [0.08, 1.0])
    hflip: float = 0.5
    auto_augment: str | None = None  # such as rand-m9-mstd0.5-inc1
    erasing: float = 0.0  # probability of random erasing
    mixup: float = 0.0
    cutmix: float = 0.0
    eval_crop_ratio: float | None = None  # default: 224 / 256 up to 224 px, 1 above (FINETUNE.md)


@dataclass
class ClassificationRecipe(Recipe):
    """A recipe with ``task: classification``."""

    task: str = "classification"
    head: HeadConfig = field(default_factory=HeadConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)

    def protocol(self) -> str:
        """Linear probe when only the head trains, else fine-tuning (from scratch too, when there is no checkpoint)."""
        return "linear" if self.head.frozen_encoder else "finetune"
