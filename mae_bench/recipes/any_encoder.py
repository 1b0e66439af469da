"""Recipes for encoders that no row was written for: a protocol's defaults, the data set's entry and the nearest size class.

What depends on the encoder's shape is fitted: numbers of blocks are those at the same share of the depth, images become whole
patches, and detection runs at the patch size that its values are for, as the ViTDet rows do with ViT-H/14.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backbones.errors import UserError, unknown
from backbones.vit.arch import parse_arch
from mae_bench.recipes import protocol_files
from mae_bench.recipes.protocol_files import Layer

_BLOCKS = (("segmentation", "out_blocks"), ("features", "layers"), ("detection", "global_blocks"))
_DENSE = (
    "detection",
    "segmentation",
)  # tasks whose pixels belong to the scene: encoders of larger patches see fewer of them


@dataclass(frozen=True)
class EncoderFacts:
    """What a recipe has to know of an encoder.

    `patch` is the side in pixels that images have to be a multiple of (the patch, or the last stage's stride); `plain` is False
    for nets whose stages have several strides, which no patch embedding can be resampled for.
    """

    arch: str
    width: int
    depth: int
    patch: int
    img_size: int | None = None  # pixels, that it was trained at
    parameters: int | None = None
    plain: bool = True

    @property
    def size(self) -> float:
        """Parameters, or about as many as a ViT of this width and depth has."""
        return self.parameters or 12 * self.depth * self.width**2


def facts_of(arch: str) -> EncoderFacts:
    """Facts of an architecture by its name (`backbones.vit.arch.parse_arch`)."""
    width, depth, _, patch = parse_arch(arch)
    return EncoderFacts(arch, width, depth, patch)


def name_for(protocol: str, data: str, arch: str) -> str:
    """The name of such a recipe, in the form that rows have."""
    return f"{protocol}/{arch.replace(':', '-')}_{data}"


def from_name(name: str) -> list[Layer] | None:
    """Layers of ``PROTOCOL/ARCH_DATA`` where the protocol has an entry for the data set and `arch` is a plain ViT's name."""
    protocol, _, short = name.partition("/")
    if protocol not in protocol_files.protocols():
        return None
    for data in sorted(protocol_files.data_sets(protocol), key=len, reverse=True):
        if short.endswith(f"_{data}"):
            try:
                return layers_for(protocol, data, facts_of(short.removesuffix(f"_{data}")))
            except UserError:
                return None
    return None


def layers_for(protocol: str, data: str, encoder: EncoderFacts) -> list[Layer]:
    """Layers of the recipe of a protocol on a data set for any encoder.

    Args:
        data: an entry of the protocol, or the name of another set, which takes the protocol's `other_data`.

    Raises:
        UserError: the protocol is unknown, or has no values for sets that it does not know.
    """
    entry = data
    known = protocol_files.data_sets(protocol)
    if data not in known and (entry := protocol_files.other_data(protocol) or "") == "":
        raise unknown("data set", data, known, where=f"protocol {protocol}")
    written_for: str | None = protocol_files.entry_says(protocol, entry, "arch")
    size_class = None if written_for else _nearest(protocol, encoder)
    names = {"protocol": protocol, "data": {"name": protocol_files.data_name(protocol, entry)}}
    called = {
        **({} if encoder.arch == size_class else {"arch": encoder.arch}),
        **({} if entry == data else {"data": data}),
    }
    layers = protocol_files.combination(protocol, entry, size_class, Layer(names, f"protocol {protocol}"), called)
    native = protocol_files.entry_says(protocol, entry, "size") == "native"
    reference = facts_of(written_for or size_class or encoder.arch)
    fitted = _fit(protocol_files.merged(layers), encoder, reference, small=bool(written_for), native=native)
    if data not in known:
        fitted["data"] = {"name": data}
    return [*layers, Layer(fitted, f"fitted to {encoder.arch} from {reference.arch}")]


def _nearest(protocol: str, encoder: EncoderFacts) -> str:
    """The size class whose parameters are nearest by ratio."""
    classes = protocol_files.architectures(protocol)
    if not classes:
        raise UserError(f"protocol {protocol} has no sizes: give a recipe by name")
    return min(classes, key=lambda name: abs(math.log(facts_of(name).size / encoder.size)))


def _fit(
    values: dict[str, Any], encoder: EncoderFacts, reference: EncoderFacts, *, small: bool, native: bool
) -> dict[str, Any]:
    """Values that differ for an encoder of another depth or patch than the one that `values` were written for."""
    fitted: dict[str, Any] = {"encoder": {"arch": encoder.arch}}
    task = values["task"]
    size = values.get("encoder", {}).get("img_size", 224)
    if task == "detection":
        size = encoder.img_size or size  # of pre-training; the input's is detection.img_size
    elif small and native and encoder.img_size:
        size = encoder.img_size
    elif small and task not in _DENSE:
        size = size // reference.patch * encoder.patch  # as many patches a side
    fitted["encoder"]["img_size"] = max(1, size // encoder.patch) * encoder.patch
    if encoder.plain and task == "detection" and encoder.patch != reference.patch:
        fitted["detection"] = {"patch_size": values["detection"].get("patch_size") or reference.patch}
    if encoder.depth != reference.depth:
        for section, key in _BLOCKS:
            blocks = values.get(section, {}).get(key)
            if blocks:
                fitted.setdefault(section, {})[key] = _blocks(blocks, encoder.depth / reference.depth)
    return fitted


def _blocks(blocks: Sequence[int], scale: float) -> list[int]:
    """Blocks, counted from 0, that end at the same share of another depth; negative ones count from the end as they do."""
    return [block if block < 0 else max(0, round((block + 1) * scale) - 1) for block in blocks]
