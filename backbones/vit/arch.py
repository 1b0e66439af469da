"""The paper's architecture names, such as ``vit_base_patch16``: text alone, no torch."""

from __future__ import annotations

import re

from backbones.errors import UserError, unknown

# name: (width, depth, heads). Base, large and huge are the paper's (Dosovitskiy et al., Table 1); tiny and small
# are DeiT's; micro and mini are ours, for laptops and tests.
SIZES: dict[str, tuple[int, int, int]] = {
    "micro": (128, 4, 4),
    "mini": (128, 6, 4),
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}

_ARCH = re.compile(r"vit_(?P<size>[a-z]+)_patch(?P<patch>\d+)")

_OTHER = re.compile(r"vit_w(\d+)_d(\d+)_h(\d+)_patch(\d+)")  # what no preset fits


def parse_arch(arch: str) -> tuple[int, int, int, int]:
    """(width, depth, heads, patch size in pixels) of a name such as ``vit_base_patch16``.

    Raises:
        UserError: the name has another form or an unknown size.
    """
    if other := _OTHER.fullmatch(arch):
        width, depth, heads, patch = map(int, other.groups())
        if min(width, depth, heads, patch) < 1 or width % heads or width % 4:
            raise UserError(f'architecture "{arch}": give a width that is a multiple of 4 and of the number of heads')
        return width, depth, heads, patch
    match = _ARCH.fullmatch(arch)
    if match is None or int(match["patch"]) < 1:
        raise UserError(f'unknown architecture "{arch}": give vit_SIZE_patchP with SIZE one of {", ".join(SIZES)}')
    if match["size"] not in SIZES:
        raise unknown("architecture", arch, [f"vit_{size}_patch{match['patch']}" for size in SIZES])
    return (*SIZES[match["size"]], int(match["patch"]))


def arch_name(width: int, depth: int, heads: int, patch: int) -> str:
    """The inverse of `parse_arch`."""
    for size, preset in SIZES.items():
        if preset == (width, depth, heads):
            return f"vit_{size}_patch{patch}"
    return f"vit_w{width}_d{depth}_h{heads}_patch{patch}"
