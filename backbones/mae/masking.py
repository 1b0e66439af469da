"""Mask sampling: which patches the encoder sees, and how to put the sequence back in order (paper Sec. 4.1, Table 1f).

Every image of a batch has the same number of masked patches, whatever the sampling, so that a batch stays one tensor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from backbones.errors import UserError, unknown

SAMPLINGS = ("random", "block", "grid")

# BEiT's block-wise masking (Bao et al. 2022, Algorithm 1): blocks of at least 16 of 196 patches, sides 0.3 to 1 / 0.3.
_SMALLEST_BLOCK = 16 / 196
_ASPECT = (0.3, 1 / 0.3)
# A block that is too long for the image is drawn again; on a very long and thin image nearly all are, so that ends.
_REDRAWS = 40


@dataclass(frozen=True)
class Masking:
    """Per-sample choice of visible patches, for N images of L patches of which V are visible.

    Attributes:
        ids_keep: (N, V) indices of the visible patches, in the (shuffled) order in which the encoder sees them.
        ids_masked: (N, L - V) indices of the masked patches.
        ids_restore: (N, L); position of each patch in [visible, masked], so that gathering by it restores the order.
    """

    ids_keep: Tensor
    ids_masked: Tensor
    ids_restore: Tensor

    @property
    def mask(self) -> Tensor:
        """(N, L) float: 1 where a patch is masked, 0 where it is visible."""
        return (self.ids_restore >= self.ids_keep.shape[1]).float()


def draw_masking(
    sampling: str, batch: int, grid: tuple[int, int], mask_ratio: float, device: torch.device | str = "cpu"
) -> Masking:
    """Masks of a batch, from torch's global generators (`device`'s for random, the CPU's for block, none for grid).

    Args:
        sampling: ``random``, ``block`` or ``grid``.
        grid: rows and columns of patches.
        mask_ratio: share of patches to mask.

    Raises:
        UserError: unknown sampling, or a mask ratio that a grid cannot have.
    """
    if sampling == "random":
        return random_masking(batch, grid[0] * grid[1], mask_ratio, device)
    if sampling == "block":
        return block_masking(batch, grid, mask_ratio, device)
    if sampling == "grid":
        return grid_masking(batch, grid, mask_ratio, device)
    raise unknown("mask sampling", sampling, SAMPLINGS)


def visible_count(patches: int, mask_ratio: float) -> int:
    """Number of visible patches: ``patches * (1 - mask_ratio)`` rounded down, as in the official code."""
    return int(patches * (1 - mask_ratio))


def mask_from_noise(noise: Tensor, mask_ratio: float) -> Masking:
    """The patches with the smallest `noise` (N, L) stay visible (paper Sec. 3: random sampling without replacement)."""
    return _from_order(noise.argsort(dim=1), visible_count(noise.shape[1], mask_ratio))


def _from_order(ids_shuffle: Tensor, visible: int) -> Masking:
    """The first `visible` patches of each image's order (N, L) are visible."""
    return Masking(ids_shuffle[:, :visible], ids_shuffle[:, visible:], ids_shuffle.argsort(dim=1))


def random_masking(batch: int, patches: int, mask_ratio: float, device: torch.device | str = "cpu") -> Masking:
    """Uniform random masking, drawn from the global generator of `device`."""
    return mask_from_noise(torch.rand(batch, patches, device=device), mask_ratio)


@torch.compiler.disable  # draws until every image has its count: no graph, and cheap on the CPU
def block_masking(batch: int, grid: tuple[int, int], mask_ratio: float, device: torch.device | str = "cpu") -> Masking:
    """Block-wise masking as BEiT's: rectangles are added until enough patches are masked.

    Unlike BEiT's, the count is exact: of the last rectangle, only the first rows (and part of one) are masked. Drawn on the
    CPU for all images at once and sent to `device` without waiting for it.
    """
    masked = _draw_blocks(batch, grid, grid[0] * grid[1] - visible_count(grid[0] * grid[1], mask_ratio))
    order = masked.flatten(1).to(torch.uint8).argsort(dim=1, stable=True)
    if torch.device(device).type == "cuda":
        order = order.pin_memory().to(device, non_blocking=True)
    return _from_order(order.to(device), visible_count(grid[0] * grid[1], mask_ratio))


def _draw_blocks(batch: int, grid: tuple[int, int], count: int) -> Tensor:
    """(N, rows, columns) bool with exactly `count` patches set in each image."""
    sides = torch.tensor(grid)
    row, column = torch.arange(grid[0]).view(1, -1, 1), torch.arange(grid[1]).view(1, 1, -1)
    smallest = max(1, round(_SMALLEST_BLOCK * grid[0] * grid[1]))
    masked = torch.zeros(batch, *grid, dtype=torch.bool)
    left = torch.full((batch,), count)
    draws = 0
    while left.any():
        size = _draw_sizes(smallest + torch.rand(batch) * (left - smallest).clamp(min=0))
        fits = (size <= sides).all(dim=1) | (draws >= _REDRAWS)
        size = size.minimum(sides)
        start = (torch.rand(batch, 2) * (sides - size + 1)).long()
        (top, leftmost), (bottom, rightmost) = (x.view(batch, 2, 1, 1).unbind(1) for x in (start, start + size))
        new = (row >= top) & (row < bottom) & (column >= leftmost) & (column < rightmost) & ~masked
        new &= fits.view(-1, 1, 1)
        new &= new.flatten(1).cumsum(dim=1).view_as(new) <= left.view(-1, 1, 1)
        masked |= new
        left -= new.sum(dim=(1, 2))
        draws += 1
    return masked


def _draw_sizes(area: Tensor) -> Tensor:
    """Rows and columns (N, 2) of rectangles of about `area` patches (N,), of log-uniform aspect ratio."""
    low, high = (math.log(a) for a in _ASPECT)
    root_aspect = (0.5 * torch.empty_like(area).uniform_(low, high)).exp()
    return torch.stack([area.sqrt() * root_aspect, area.sqrt() / root_aspect], dim=1).round().long().clamp(min=1)


def grid_masking(batch: int, grid: tuple[int, int], mask_ratio: float, device: torch.device | str = "cpu") -> Masking:
    """Grid-wise masking: one patch of each k x k stays visible, the same in every image.

    Raises:
        UserError: `mask_ratio` is not ``1 - 1 / k**2``, or k does not divide both sides of the grid.
    """
    k = grid_stride(grid, mask_ratio)
    rows, columns = torch.meshgrid(*(torch.arange(n, device=device) % k for n in grid), indexing="ij")
    order = ((rows > 0) | (columns > 0)).flatten().to(torch.uint8).argsort(stable=True)
    return _from_order(order.expand(batch, -1), grid[0] * grid[1] // k**2)


def grid_stride(grid: tuple[int, int], mask_ratio: float) -> int:
    """k of the k x k of which grid sampling keeps one patch: 2 for 75 %."""
    k = round((1 - mask_ratio) ** -0.5)
    if k < 2 or abs(1 - mask_ratio - k**-2) > 1e-3:
        raise UserError(
            f"mae.mask_sampling=grid keeps one patch of each k x k, which mae.mask_ratio={mask_ratio} is not: "
            "give 0.75 (2 x 2), 0.8889 (3 x 3) or 0.9375 (4 x 4)"
        )
    if grid[0] % k or grid[1] % k:
        raise UserError(
            f"mae.mask_sampling=grid at mae.mask_ratio={mask_ratio} needs sides that are multiples of {k} patches, "
            f"not {grid[0]} x {grid[1]}: change encoder.img_size"
        )
    return k
