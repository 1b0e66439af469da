"""Features of whole images from an encoder: which tokens of which outputs, normalised or not. No files, no data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from backbones.encoders.contract import Encoder
from backbones.errors import UserError, unknown

KINDS = ("cls", "mean", "own", "patch")
NORMS = ("last", "all", "none")


@dataclass(frozen=True)
class Feature:
    """One feature of an image.

    Attributes:
        kind: ``cls``: the class token. ``mean``: mean over the patch tokens, without class token and registers. ``own``: as the
            encoder itself pools for its head. ``patch``: the patch tokens in row-major order.
        layer: index of the block or stage whose output it is, from 0.
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
    encoder: Encoder, kinds: Sequence[str] = ("cls",), layers: Sequence[int] = (-1,), norm: str = "last"
) -> list[Feature]:
    """Features of every kind at every layer, kinds outermost, each once.

    Args:
        kinds: of `KINDS`.
        layers: indices of blocks (`Encoder.stages`), negative ones from the end.
        norm: what the encoder's final norm is applied to: ``last`` (the last block's tokens only), ``all`` (as timm's
            ``forward_intermediates(norm=True)``; the plain ViT alone) or ``none``. An encoder without one (fine-tuned with
            global pooling) is left at that: `Feature.norm` is False throughout.

    Raises:
        UserError: unknown kind, layer or norm, or what this encoder does not have.
    """
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS, where="--norm")
    if not kinds or not layers:
        raise UserError(f"--features and --layers want at least one each: give some of {', '.join(KINDS)}, and -1")
    depth = len(encoder.stages)
    for kind in kinds:
        if kind not in KINDS:
            raise unknown("feature", kind, KINDS, where="--features")
        if kind == "cls" and not encoder.class_token:
            raise UserError("--features cls: this encoder has no class token: give own, mean or patch")
    for layer in layers:
        if not -depth <= layer < depth:
            raise UserError(
                f"--layers {layer}: the encoder has {depth} blocks: give 0 to {depth - 1}, or -{depth} to -1"
            )
    places = list(dict.fromkeys(layer % depth for layer in layers))
    if "own" in kinds and (places != [depth - 1] or norm == "none"):
        raise UserError("--features own: the encoder pools its last output, normalised: leave --layers and --norm away")
    if encoder.plain is None and norm == "all" and places != [depth - 1]:
        raise UserError(f"--norm all is for the plain ViT, this is a {encoder.arch}: give last or none")
    has_norm = encoder.plain is None or not isinstance(encoder.plain.norm, nn.Identity)
    chosen = [
        Feature(kind, layer, norm=has_norm and (norm == "all" or (norm == "last" and layer == depth - 1)), shape=())
        for kind in dict.fromkeys(kinds)
        for layer in places
    ]
    return [replace(feature, shape=_shape(encoder, feature)) for feature in chosen]


def _shape(encoder: Encoder, feature: Feature) -> tuple[int, ...]:
    if feature.kind == "own":
        return (encoder.own_width,)
    last = feature.norm and feature.layer == len(encoder.stages) - 1
    width, stride = encoder.stages[feature.layer].width, encoder.stages[feature.layer].stride
    width = encoder.width if last else width
    if feature.kind != "patch":
        return (width,)
    if encoder.plain is not None:
        return (encoder.plain.patch_embed.num_patches, width)
    height, across = encoder.img_size
    return (-(-height // stride) * -(-across // stride), width)


@torch.no_grad()
def image_features(encoder: Encoder, images: Tensor, wanted: Sequence[Feature]) -> list[Tensor]:
    """The features (N, *shape) that `choose` gave, of (N, 3, H, W) normalised images with every patch visible."""
    pooled = [feature for feature in wanted if feature.kind == "own"]
    if encoder.plain is not None and not pooled:
        return _of_plain(encoder.plain, images, wanted)
    final = encoder.forward_features(images) if any(feature.norm for feature in [*wanted, *pooled]) else images
    layers = sorted({feature.layer for feature in wanted if not feature.norm and feature.kind != "own"})
    maps = dict(zip(layers, encoder.tokens(images, layers), strict=True)) if layers else {}
    return [
        _of_final(encoder, feature, final)
        if feature.norm or feature.kind == "own"
        else _of(feature, maps[feature.layer], nn.Identity())
        for feature in wanted
    ]


def _of_final(encoder: Encoder, feature: Feature, final: Tensor) -> Tensor:
    return encoder.patches(final) if feature.kind == "patch" else encoder.pool(final, feature.kind)


def _of_plain(encoder: VisionTransformer, images: Tensor, wanted: Sequence[Feature]) -> list[Tensor]:
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
