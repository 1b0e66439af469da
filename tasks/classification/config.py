"""Keys of a classification recipe."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar

from backbones.errors import UserError
from tasks.recipe import NOT_NEGATIVE, SHARE, Range, Ranges, Recipe, Words

_NUMBER = r"\d{1,4}(\.\d{1,4})?"
_RAND_AUGMENT = re.compile(
    rf"rand(-(m\d{{1,2}}|n\d{{1,2}}|mmax\d{{1,2}}|inc[01]|mstd{_NUMBER}|p{_NUMBER}|t\w{{1,12}}))*"
)
POOLS = ("avg", "token", "attentive", "own")
CROPS = ("inception", "tf")
TEST_SETS = ("imagenet_a", "imagenet_r", "imagenet_sketch", "imagenet_c", "imagenet_v2", "imagenet_real")


@dataclass
class HeadConfig:
    """What is trained, and on which features."""

    RANGES: ClassVar[Ranges] = {
        "pool": Words(POOLS),
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
        "crop": Words(CROPS),
        "scale": Range(0, 1, above=True, members=(2, 2)),
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

    RANGES: ClassVar[Ranges] = {**Recipe.RANGES, "test_set": Words(TEST_SETS)}

    task: str = "classification"
    from_scratch: bool = False  # supervised training (Table 11): refuses a checkpoint
    # Evaluation only, of a fine-tuned checkpoint: imagenet_a | imagenet_r | imagenet_sketch | imagenet_c | imagenet_v2 |
    # imagenet_real (`tasks.classification.robustness`).
    test_set: str | None = None
    head: HeadConfig = field(default_factory=HeadConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)

    def check_values(self) -> None:
        """See `Recipe`."""
        from tasks.datasets.options import check_options

        check_options(self.data)
        policy = self.augmentation.auto_augment
        if policy is not None and not _RAND_AUGMENT.fullmatch(policy):
            raise UserError(
                f"augmentation.auto_augment={policy}: give timm's RandAugment, such as rand-m9-mstd0.5-inc1"
            )
        if self.augmentation.scale[0] > self.augmentation.scale[1]:
            raise UserError(f"augmentation.scale={self.augmentation.scale}: give [smallest, largest]")

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
