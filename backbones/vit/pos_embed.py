"""Fixed 2-D sin-cos position embeddings and resampling of learnt ones; nothing about masking or models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sincos_1d(dim: int, positions: Tensor) -> Tensor:
    """Sines then cosines of `positions` (M,) at ``dim / 2`` frequencies 10000^(-2i/dim): (M, dim), in double precision."""
    omega = 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angles = positions.reshape(-1, 1).double() * omega
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sincos_2d(dim: int, grid: tuple[int, int], prefix_tokens: int = 0) -> Tensor:
    """Fixed 2-D sin-cos position embedding of MAE (paper App. A.1, "fixed 2-D sin-cos").

    The first half of the channels encodes the column, the second half the row, as the published weights have it.

    Args:
        dim: width, a multiple of 4.
        grid: (rows, columns) of patches.
        prefix_tokens: tokens before the patches (the class token): rows of zeros.

    Returns:
        (1, prefix_tokens + rows * columns, dim) in float32.
    """
    if dim % 4:
        raise ValueError(f"2-D sin-cos positions need a width that is a multiple of 4, not {dim}")
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    patches = torch.cat([sincos_1d(dim // 2, columns), sincos_1d(dim // 2, rows)], dim=1)
    prefix = torch.zeros(prefix_tokens, dim, dtype=torch.float64)
    return torch.cat([prefix, patches]).float().unsqueeze(0)


def resample_grid(pos: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Bicubic resampling of patch positions (1, h*w, D) from grid `old` to grid `new`: (1, h'*w', D).

    Without anti-aliasing, as detectron2 (`modeling/backbone/utils.py:get_abs_pos`) and mmseg do it.
    """
    if old == new:
        return pos
    grid = pos.reshape(1, *old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid.float(), size=new, mode="bicubic", align_corners=False)
    return grid.permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1).to(pos.dtype)
