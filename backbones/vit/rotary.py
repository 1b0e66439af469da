"""Attention of timm's `Eva` (DINOv3, EVA-02, Perception Encoder, RoPE-ViT) inside windows: rotary positions of the whole image.

Each window's tokens are rotated by their own place in the image: it sees the positions that global attention sees.
Shapes: N images, T tokens, C width, D channels a head, h x w patches.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import apply_rot_embed_cat
from torch import Tensor

from backbones.vit.decomposed import attend_decomposed


def attend_rotary(
    attn: Any, x: Tensor, rope: Tensor | None, grid: tuple[int, int], window: int = 0, bias: Tensor | None = None
) -> Tensor:
    """timm's rotary attention on tokens (N, [prefix +] h*w, C), inside windows when `window` is not 0.

    Args:
        rope: sines and cosines of the whole image, (h*w, 2 D) or, with a table a head, (heads, h*w, 2 D).
        bias: additive, (heads, T, T) or (T, T).
    """
    size = (window, window) if window else grid
    windows = None
    if window:
        windows = _windows(x.unflatten(1, grid), size)
        x = windows.flatten(3, 4).flatten(0, 2)
        if rope is not None:
            rope = rope_of_windows(rope, grid, size)
            rope = rope.repeat(len(x) // len(rope), 1, 1, 1)
    if hasattr(attn, "rel_pos_h"):
        y = _decomposed(attn, x, rope, size)
    else:
        mask = None if bias is None else bias.to(x.dtype)
        y = attn(x, rope=rope, attn_mask=mask)
    return y if windows is None else _whole(y, windows.shape, grid)


def rope_of_windows(rope: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Table of the whole image -> (windows, 1 or heads, T, 2 D), windows row by row; the padding is not rotated."""
    table = (rope if rope.ndim == 3 else rope.unsqueeze(0)).unflatten(1, grid)
    still = torch.cat([torch.zeros_like(table[0, 0, 0]).chunk(2)[0], torch.ones_like(table[0, 0, 0]).chunk(2)[0]])
    below, right = -grid[0] % size[0], -grid[1] % size[1]
    heads, h, w, _ = table.shape
    table = torch.cat([table, still.expand(heads, h, right, -1)], dim=2)
    table = torch.cat([table, still.expand(heads, below, w + right, -1)], dim=1)
    windows = table.unflatten(2, (-1, size[1])).unflatten(1, (-1, size[0])).transpose(2, 3)
    return windows.flatten(3, 4).flatten(1, 2).transpose(0, 1)


def _windows(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, h, w, C) -> (N, rows, columns, H, W, C), zeros below and to the right (ViTDet)."""
    _, h, w, _ = x.shape
    x = F.pad(x, (0, 0, 0, -w % size[1], 0, -h % size[0]))
    return x.unflatten(2, (-1, size[1])).unflatten(1, (-1, size[0])).transpose(2, 3)


def _whole(y: Tensor, shape: torch.Size, grid: tuple[int, int]) -> Tensor:
    """Tokens of windows of this `shape` -> (N, h*w, C) without the padding."""
    windows = y.reshape(*shape[:5], -1).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return windows[:, : grid[0], : grid[1]].flatten(1, 2)


def _decomposed(attn: Any, x: Tensor, rope: Tensor | None, size: tuple[int, int]) -> Tensor:
    """timm's forward pass with decomposed relative positions; no prefix tokens."""
    q, k, v = _queries_keys_values(attn, x)
    if rope is not None:
        half = getattr(attn, "rotate_half", False)
        q, k = (apply_rot_embed_cat(each, rope, half=half).type_as(v) for each in (q, k))
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = (each.repeat_interleave(groups, dim=1) for each in (k, v))
    y = attn.norm(attend_decomposed(torch.stack([q, k, v]), attn.rel_pos_h, attn.rel_pos_w, size))
    if attn.gate is not None:
        y = y * attn.gate(x).sigmoid()
    return attn.proj_drop(attn.proj(y))


def _queries_keys_values(attn: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each (N, heads, T, D), normalised as the module does."""
    if attn.qkv is None:
        parts = [attn.q_proj(x), attn.k_proj(x), attn.v_proj(x)]
    else:
        fused = attn.qkv(x)
        if getattr(attn, "q_bias", None) is not None:
            fused = fused + torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
        parts = list(fused.chunk(3, dim=-1))
    q, k, v = (part.unflatten(-1, (-1, attn.head_dim)).transpose(1, 2) for part in parts)
    return attn.q_norm(q), attn.k_norm(k), v
