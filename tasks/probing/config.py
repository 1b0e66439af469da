"""Keys of a probing recipe: which features are kept, and what is done with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from backbones.errors import UserError
from tasks.recipe import BLOCKS, COUNT, MOST, NOT_NEGATIVE, POSITIVE, Range, Ranges, Recipe, Words

METHODS = ("knn", "probe")
SELECTIONS = ("val", "train_split")
POOLS = ("token", "avg", "own")
NORMS = ("last", "all", "none")
STORES = ("fp16", "fp32")


@dataclass
class FeaturesConfig:
    """Which features of the frozen encoder, in which form on disk."""

    RANGES: ClassVar[Ranges] = {
        "pools": Words(POOLS),
        "norm": Words(NORMS),
        "store": Words(STORES),
        "layers": BLOCKS,
        "batch_size": COUNT,
        "eval_crop_ratio": Range(0, 1, above=True),
    }

    pools: list[str] = field(default_factory=lambda: ["token"])  # token: class token | avg: mean of the patch tokens
    layers: list[int] = field(default_factory=lambda: [-1])  # blocks, negative ones from the end
    norm: str = "last"  # what the encoder's final norm is applied to: last (the last block) | all | none
    store: str = "fp32"  # fp32 | fp16, on disk; computed with in float32 either way
    batch_size: int = 64  # images at once in each process, while features are made
    # Default: the encoder's own; where nothing tells, 224 / 256 up to 224 px, 1 above (FINETUNE.md).
    eval_crop_ratio: float | None = None


@dataclass
class KnnConfig:
    """Weighted k-nearest neighbours (Wu et al. 2018; DINO, eval_knn.py)."""

    RANGES: ClassVar[Ranges] = {
        "k": COUNT,
        "temperature": Range(0.0125, MOST),
        "train_chunk": COUNT,
        "query_chunk": COUNT,
    }

    k: list[int] = field(default_factory=lambda: [10, 20, 100, 200])
    temperature: float = 0.07
    train_chunk: int = 8192  # training images compared at once; changes memory and speed, not results
    query_chunk: int = 4096  # validation images compared at once


@dataclass
class ProbeConfig:
    """One linear head for every learning rate, pooling and layer."""

    RANGES: ClassVar[Ranges] = {
        "lrs": POSITIVE,
        "init_std": NOT_NEGATIVE,
        "label_smoothing": Range(0, 0.999999),
    }

    # In the unit of the optimizer's lr, or of its blr if that is given; every other setting is the same for all heads.
    lrs: list[float] = field(default_factory=lambda: [0.1])
    batch_norm: bool = True  # non-affine BatchNorm before the linear layer
    init_std: float = 0.01  # of the linear layer's truncated normal initialisation
    label_smoothing: float = 0.0


@dataclass
class ProbingRecipe(Recipe):
    """A recipe with ``task: probing``."""

    RANGES: ClassVar[Ranges] = {**Recipe.RANGES, "method": Words(METHODS), "select_on": Words(SELECTIONS)}

    task: str = "probing"
    method: str = "knn"  # knn | probe
    # What the best head of a probe is chosen by: val, the validation set itself, or train_split, a tenth of the training images
    # that is held out (by the seed), as DINOv3's and CAPI's evaluations have it.
    select_on: str = "val"
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    knn: KnnConfig = field(default_factory=KnnConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)

    def check_values(self) -> None:
        """k-NN trains nothing."""
        from tasks.datasets.options import check_options

        if self.method == "knn" and not self.evaluate_only:
            raise UserError("k-NN trains nothing: give schedule.iterations=0")
        check_options(self.data)

    def implied_protocol(self) -> str:
        """``knn`` or ``probe``."""
        return self.method
