"""BEiT's relative position bias: a learnt scalar a head and 2-D offset, added to attention; class token included.

MAE turns it on for semantic segmentation, initialised as zero (App. A.4), since BEiT's code, which it follows, has
it. The decomposed relative positions of ViTDet are in `backbones.vit.decomposed`.
"""

from __future__ import annotations

from math import isqrt, prod
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Attention
from torch import Tensor, nn


def add_bias_tables(attn: Any, grid: tuple[int, int], class_token: bool) -> None:
    """Gives an attention module zero tables: ``rel_bias`` (heads, 2h - 1, 2w - 1) for offsets between patches and, with
    a class token, ``rel_bias_cls`` (heads, 3) for class token to patch, patch to class token, class token to itself.
    """
    h, w = grid
    attn.register_parameter("rel_bias", nn.Parameter(torch.zeros(attn.num_heads, 2 * h - 1, 2 * w - 1)))
    if class_token:
        attn.register_parameter("rel_bias_cls", nn.Parameter(torch.zeros(attn.num_heads, 3)))


def bias_of_tables(table: Tensor, table_cls: Tensor | None, grid: tuple[int, int], prefix_tokens: int = 1) -> Tensor:
    """The additive bias (heads, T, T) of [prefix_tokens +] h * w tokens, rows queries, columns keys.

    A table of another grid is resampled, as absolute positions are. Registers are treated as the class token is.
    """
    h, w = grid
    size = (2 * h - 1, 2 * w - 1)
    if table.shape[1:] != size:
        table = F.interpolate(table[None].float(), size=size, mode="bicubic", align_corners=False)[0]
    rows, columns = torch.arange(h, device=table.device), torch.arange(w, device=table.device)
    # (h, 1, h, 1) and (1, w, 1, w): offset of query to key along each axis, from 0.
    by_row = (rows[:, None] - rows + h - 1)[:, None, :, None]
    by_column = (columns[:, None] - columns + w - 1)[None, :, None, :]
    bias = table[:, by_row, by_column].reshape(-1, h * w, h * w)
    if table_cls is None:
        return bias
    to_patch, from_patch, to_itself = table_cls.unbind(1)
    first = torch.cat([to_itself[:, None].expand(-1, prefix_tokens), to_patch[:, None].expand(-1, h * w)], dim=1)
    rest = torch.cat([from_patch[:, None, None].expand(-1, h * w, prefix_tokens), bias], dim=2)
    return torch.cat([first[:, None].expand(-1, prefix_tokens, -1), rest], dim=1)


def tables_of_beit(table: Tensor) -> tuple[Tensor, Tensor]:
    """BEiT's stored table ((2h - 1) * (2w - 1) + 3, heads), square, as `rel_bias` and `rel_bias_cls`.

    Its last three rows are class token to patch, patch to class token, class token to itself (unilm/beit/modeling_finetune.py).
    """
    size = isqrt(table.shape[0] - 3)
    offsets, cls = table[: size * size], table[size * size :]
    return offsets.t().reshape(-1, size, size).contiguous(), cls.t().contiguous()


def beit_of_tables(table: Tensor, table_cls: Tensor) -> Tensor:
    """The inverse of `tables_of_beit`."""
    return torch.cat([table.flatten(1).t(), table_cls.t()]).contiguous()


class RelativeAttention(Attention):
    """timm's attention with BEiT's bias added; a grid other than that of the tables is resampled to."""

    grid: tuple[int, int]

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, **_: Any) -> Tensor:
        """(N, 1 + h*w, C) -> the same."""
        bias = bias_of_tables(
            self.rel_bias, getattr(self, "rel_bias_cls", None), self.grid, x.shape[1] - prod(self.grid)
        )
        return attend(self, x, bias if attn_mask is None else bias + attn_mask)


def add_relative_attention(encoder: Any, grid: tuple[int, int]) -> None:
    """Gives every block of a timm ViT BEiT's relative position bias, zero."""
    for block in encoder.blocks:
        old = block.attn
        block.attn = RelativeAttention(encoder.embed_dim, old.num_heads, qkv_bias=old.qkv.bias is not None)
        block.attn.grid = grid
        add_bias_tables(block.attn, grid, class_token=encoder.cls_token is not None)


def attend(attn: Any, x: Tensor, bias: Tensor) -> Tensor:
    """timm's attention on tokens (B, T, C) with an additive `bias` that broadcasts to (B, heads, T, T)."""
    b, t, _ = x.shape
    q, k, v = attn.qkv(x).reshape(b, t, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
    q, k = attn.q_norm(q), attn.k_norm(k)
    x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
    return attn.proj_drop(attn.proj(x.transpose(1, 2).flatten(2)))
