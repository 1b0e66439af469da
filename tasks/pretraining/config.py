"""Keys of a pre-training recipe."""

from __future__ import annotations

from dataclasses import dataclass, field

from tasks.recipe import Recipe


@dataclass
class MAEConfig:
    """The decoder and the objective; defaults are the paper's (Table 1, shaded entries)."""

    decoder_embed_dim: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    mask_ratio: float = 0.75
    norm_pix_loss: bool = True


@dataclass
class CropConfig:
    """Augmentation: random resized crop and flip only (paper Sec. 4.1)."""

    scale: list[float] = field(default_factory=lambda: [0.2, 1.0])
    hflip: bool = True


@dataclass
class PretrainingRecipe(Recipe):
    """A recipe with ``task: pretraining``."""

    task: str = "pretraining"
    mae: MAEConfig = field(default_factory=MAEConfig)
    augmentation: CropConfig = field(default_factory=CropConfig)

    def protocol(self) -> str:
        return "pretrain"
