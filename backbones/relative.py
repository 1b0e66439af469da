"""BEiT's relative position bias: a learnt scalar a head and 2-D offset, added to attention; class token included.

MAE turns it on for semantic segmentation, initialised as zero (App. A.4), since BEiT's code, which it follows, has
it. The decomposed relative positions of ViTDet are in `backbones.dense`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def add_bias_tables(attn: Any, grid: tuple[int, int], class_token: bool) -> None:
    """Gives an attention module zero tables: ``rel_bias`` (heads, 2h - 1, 2w - 1) for offsets between patches and, with
    a class token, ``rel_bias_cls`` (heads, 3) for class token to patch, patch to class token, class token to itself.
    """
    h, w = grid
    attn.register_parameter("rel_bias", nn.Parameter(torch.zeros(attn.num_heads, 2 * h - 1, 2 * w - 1)))
    if class_token:
        attn.register_parameter("rel_bias_cls", nn.Parameter(torch.zeros(attn.num_heads, 3)))


def bias_of_tables(table: Tensor, table_cls: Tensor | None, grid: tuple[int, int]) -> Tensor:
    """The additive bias (heads, T, T) of [1 +] h * w tokens, rows queries, columns keys.

    A table of another grid is resampled, as absolute positions are.
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
    first_row = torch.cat([to_itself[:, None], to_patch[:, None].expand(-1, h * w)], dim=1)
    rest = torch.cat([from_patch[:, None, None].expand(-1, h * w, 1), bias], dim=2)
    return torch.cat([first_row[:, None], rest], dim=1)
