"""Keys of a pre-training recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from tasks.recipe import COUNT, NATURAL, NOT_NEGATIVE, Range, Ranges, Recipe


@dataclass
class MAEConfig:
    """The decoder and the objective; defaults are the released models' (Table 1's, but for normalised pixels)."""

    RANGES: ClassVar[Ranges] = {
        "decoder_embed_dim": COUNT,
        "decoder_depth": NATURAL,
        "decoder_num_heads": COUNT,
        "mask_ratio": Range(0, 1),
        "pca_components": COUNT,
        "vocabulary": Range(2),
    }

    decoder_embed_dim: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    mask_ratio: float = 0.75
    mask_sampling: str = "random"  # random | block | grid (Table 1f)
    encoder_mask_tokens: bool = False  # mask tokens go through the encoder too (Table 1c)
    target: str = "pixels_norm"  # pixels_norm | pixels | pca | tokens (Table 1d)
    pca_components: int = 96  # target: pca
    # target: tokens. A run's tokenizer.safetensors; null: a codebook of `vocabulary` patches fitted to the training images.
    tokenizer: str | None = None
    vocabulary: int = 8192


@dataclass
class CropConfig:
    """Augmentation (paper Sec. 4.1, Table 1e): by default random resized crop and flip only."""

    RANGES: ClassVar[Ranges] = {
        "scale": Range(0, 1, above=True),
        "color_jitter": NOT_NEGATIVE,
    }

    # random: random resized crop; fixed: a window of fixed size somewhere, its side 224/256 of the image's short side;
    # none: the middle of the image, and no flip whatever `hflip` says.
    crop: str = "random"
    scale: list[float] = field(default_factory=lambda: [0.2, 1.0])  # share of the image's area, crop: random
    hflip: bool = True
    # Strength s: brightness, contrast and saturation change by a factor of 1 - s to 1 + s, hue by up to s / 4 of the circle.
    color_jitter: float = 0.0


@dataclass
class PretrainingRecipe(Recipe):
    """A recipe with ``task: pretraining``."""

    task: str = "pretraining"
    mae: MAEConfig = field(default_factory=MAEConfig)
    augmentation: CropConfig = field(default_factory=CropConfig)

    def implied_protocol(self) -> str:
        return "pretrain"
