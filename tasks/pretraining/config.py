"""Keys of a pre-training recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from backbones.errors import UserError
from tasks.recipe import COUNT, MOST, NATURAL, SHARE, Range, Ranges, Recipe, Words

SAMPLINGS = ("random", "block", "grid")
TARGETS = ("pixels_norm", "pixels", "pca", "tokens")
CROPS = ("random", "fixed", "none")


@dataclass
class MAEConfig:
    """The decoder and the objective; defaults are the released models' (Table 1's, but for normalised pixels)."""

    RANGES: ClassVar[Ranges] = {
        "mask_sampling": Words(SAMPLINGS),
        "target": Words(TARGETS),
        "decoder_embed_dim": COUNT,
        "decoder_depth": NATURAL,
        "decoder_num_heads": COUNT,
        "mask_ratio": Range(0, 1),
        "pca_components": COUNT,
        "vocabulary": Range(2, MOST),
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
        "crop": Words(CROPS),
        "scale": Range(0, 1, above=True, members=(2, 2)),
        "color_jitter": SHARE,
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

    def check_values(self) -> None:
        """See `Recipe`."""
        from tasks.datasets.options import check_options

        check_options(self.data)
        if self.augmentation.scale[0] > self.augmentation.scale[1]:
            raise UserError(f"augmentation.scale={self.augmentation.scale}: give [smallest, largest]")

    def implied_protocol(self) -> str:
        return "pretrain"
