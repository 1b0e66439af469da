"""Keys of a probing recipe: which features are kept, and what is done with them."""

from __future__ import annotations

from dataclasses import dataclass, field

from tasks.recipe import Recipe


@dataclass
class FeaturesConfig:
    """Which features of the frozen encoder, in which form on disk."""

    pools: list[str] = field(default_factory=lambda: ["token"])  # token: class token | avg: mean of the patch tokens
    layers: list[int] = field(default_factory=lambda: [-1])  # blocks, negative ones from the end
    norm: str = "last"  # what the encoder's final norm is applied to: last (the last block) | all | none
    store: str = "fp16"  # fp16 | fp32, on disk; computed with in float32 either way
    batch_size: int = 64  # images at once in each process, while features are made
    eval_crop_ratio: float | None = None  # default: 224 / 256 up to 224 px, 1 above (FINETUNE.md)


@dataclass
class KnnConfig:
    """Weighted k-nearest neighbours (Wu et al. 2018; DINO, eval_knn.py)."""

    k: list[int] = field(default_factory=lambda: [10, 20, 100, 200])
    temperature: float = 0.07
    train_chunk: int = 8192  # training images compared at once; changes memory and speed, not results
    query_chunk: int = 4096  # validation images compared at once


@dataclass
class ProbeConfig:
    """One linear head for every learning rate, pooling and layer."""

    # In the unit of the optimizer's lr, or of its blr if that is given; every other setting is the same for all heads.
    lrs: list[float] = field(default_factory=lambda: [0.1])
    batch_norm: bool = True  # non-affine BatchNorm before the linear layer
    init_std: float = 0.01  # of the linear layer's truncated normal initialisation
    label_smoothing: float = 0.0


@dataclass
class ProbingRecipe(Recipe):
    """A recipe with ``task: probing``."""

    task: str = "probing"
    method: str = "knn"  # knn | probe
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    knn: KnnConfig = field(default_factory=KnnConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)

    def protocol(self) -> str:
        """``knn`` or ``probe``."""
        return self.method
