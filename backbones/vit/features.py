"""Features of whole images from an encoder: which tokens of which blocks, normalised or not. No files, no data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from backbones.errors import UserError, unknown

KINDS = ("cls", "mean", "patch")
NORMS = ("last", "all", "none")


@dataclass(frozen=True)
class Feature:
    """One feature of an image.

    Attributes:
        kind: ``cls``: the class token. ``mean``: mean over the patch tokens, without class token and registers. ``patch``: the
            patch tokens in row-major order.
        layer: index of the block whose output it is, from 0.
        norm: whether the tokens go through the encoder's final norm (before the mean).
        shape: (D,), or (L, D) for ``patch``.
    """

    kind: str
    layer: int
    norm: bool
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.kind}-layer{self.layer}"


def choose(
    encoder: VisionTransformer, kinds: Sequence[str] = ("cls",), layers: Sequence[int] = (-1,), norm: str = "last"
) -> list[Feature]:
    """Features of every kind at every layer, kinds outermost, each once.

    Args:
        kinds: of `KINDS`.
        layers: block indices, negative ones from the end.
        norm: what the encoder's final norm is applied to: ``last`` (the last block's tokens only), ``all`` (as timm's
            ``forward_intermediates(norm=True)``) or ``none``. An encoder without one (fine-tuned with global pooling) is left
            at that: `Feature.norm` is False throughout.

    Raises:
        UserError: unknown kind, layer or norm, or ``cls`` of an encoder without a class token.
    """
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS, where="--norm")
    if not kinds or not layers:
        raise UserError(f"--features and --layers want at least one each: give some of {', '.join(KINDS)}, and -1")
    depth = len(encoder.blocks)
    for kind in kinds:
        if kind not in KINDS:
            raise unknown("feature", kind, KINDS, where="--features")
        if kind == "cls" and encoder.cls_token is None:
            raise UserError("--features cls: this encoder has no class token: give mean or patch")
    for layer in layers:
        if not -depth <= layer < depth:
            raise UserError(
                f"--layers {layer}: the encoder has {depth} blocks: give 0 to {depth - 1}, or -{depth} to -1"
            )
    has_norm = not isinstance(encoder.norm, nn.Identity)
    width, patches = encoder.embed_dim, encoder.patch_embed.num_patches
    return [
        Feature(
            kind,
            layer,
            norm=has_norm and (norm == "all" or (norm == "last" and layer == depth - 1)),
            shape=(patches, width) if kind == "patch" else (width,),
        )
        for kind in dict.fromkeys(kinds)
        for layer in dict.fromkeys(layer % depth for layer in layers)
    ]


@torch.no_grad()
def image_features(encoder: VisionTransformer, images: Tensor, wanted: Sequence[Feature]) -> list[Tensor]:
    """The features (N, *shape) that `choose` gave, of (N, 3, H, W) normalised images with every patch visible."""
    layers = sorted({feature.layer for feature in wanted})
    taken = encoder.forward_intermediates(
        images,
        indices=layers,
        return_prefix_tokens=True,
        stop_early=True,
        output_fmt="NLC",
        intermediates_only=True,
    )
    tokens = dict(zip(layers, taken, strict=True))
    return [_of(feature, tokens[feature.layer], encoder.norm) for feature in wanted]


def _of(feature: Feature, tokens: Tensor | tuple[Tensor, Tensor], norm: nn.Module) -> Tensor:
    # An encoder without class token and registers gives its patch tokens alone.
    patches, prefix = tokens if isinstance(tokens, tuple) else (tokens, tokens[:, :0])
    chosen = prefix[:, 0] if feature.kind == "cls" else patches
    if feature.norm:
        chosen = norm(chosen)
    return chosen.mean(dim=1) if feature.kind == "mean" else chosen
