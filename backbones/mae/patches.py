"""Images as sequences of pixel patches, and picking patches out of them. No model, no masks.

Shapes: N images, L patches, P = patch**2 * 3 pixel values of a patch.
"""

from __future__ import annotations

from torch import Tensor


def patchify(images: Tensor, patch: int) -> Tensor:
    """(N, 3, H, W) -> (N, L, P): patches in row-major order, pixels as (row, column, channel)."""
    n, c, h, w = images.shape
    x = images.reshape(n, c, h // patch, patch, w // patch, patch)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(n, (h // patch) * (w // patch), patch * patch * c)


def unpatchify(patches: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """(N, L, P) -> (N, 3, H, W): the inverse of `patchify` for a grid of (rows, columns)."""
    n, _, p = patches.shape
    x = patches.reshape(n, *grid, patch, patch, p // patch**2)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(n, -1, grid[0] * patch, grid[1] * patch)


def take(tokens: Tensor, ids: Tensor) -> Tensor:
    """(N, L, C) at indices (N, K) -> (N, K, C)."""
    return tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
