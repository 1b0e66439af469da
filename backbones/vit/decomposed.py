"""Attention with decomposed relative positions (MViTv2, eq. 4; ViTDet): exact, and never a whole attention map in memory.

The bias of query i on key j is q_i . R_h[row_i - row_j] + q_i . R_w[column_i - column_j]. Torch's fused attention takes such
a bias, but when it must have a gradient it falls back to keeping the map, tokens² for each head. Two ways around that:
on a GPU the bias is folded into longer queries and keys; on a CPU, where longer ones cost more than they save, attention
goes tile by tile. BEiT's bias is in `backbones.vit.relative`. Shapes: B windows or images, T = h*w tokens, D channels a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_TILE = 1 << 20  # attention weights of a tile: 4 MB in float32, which stays in a core's cache


def attend_decomposed(qkv: Tensor, table_h: Tensor, table_w: Tensor, grid: tuple[int, int]) -> Tensor:
    """softmax(q k' / sqrt(D) + bias) v.

    Args:
        qkv: (3, B, heads, T, D).
        table_h: (2 * rows - 1, D), resampled linearly when the grid has another number of rows; table_w likewise.

    Returns:
        (B, T, heads * D).
    """
    q, k, v = qkv.contiguous().unbind(0)
    rows, columns = (relative(t, n).to(q.dtype) for t, n in zip((table_h, table_w), grid, strict=True))
    if q.device.type == "cpu":
        out: Tensor = _Tiled.apply(q, k, v, rows, columns)
        return out.flatten(2)
    return _folded(q, k, v, rows, columns).transpose(1, 2).flatten(2)


def relative(table: Tensor, size: int) -> Tensor:
    """Rows of a relative-position table for every (query, key) pair along an axis: (size, size, D)."""
    length = 2 * size - 1
    if table.shape[0] != length:
        resized = F.interpolate(table.t().unsqueeze(0).float(), size=length, mode="linear")
        table = resized.squeeze(0).t()
    positions = torch.arange(size, device=table.device)
    return table[positions[:, None] - positions[None, :] + size - 1]


def _folded(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The bias as part of the dot product: queries [q / sqrt(D), q . R_h, q . R_w] against keys [k, row and column of the key,
    one-hot]. No tensor of tokens² is made in either pass: torch's flash attention does all of it. (B, heads, T, D).
    """
    h, w = len(rows), len(columns)
    by_row, by_column = _biases(q, rows, columns)
    eye_h, eye_w = (torch.eye(n, dtype=q.dtype, device=q.device) for n in (h, w))
    places = torch.cat([eye_h.repeat_interleave(w, 0), eye_w.repeat(h, 1)], dim=1).expand(*k.shape[:2], -1, -1)
    queries = torch.cat([q * q.shape[-1] ** -0.5, by_row, by_column], dim=-1)
    pad = -queries.shape[-1] % 8  # the kernels' alignment
    queries, keys = F.pad(queries, (0, pad)), F.pad(torch.cat([k, places], dim=-1), (0, pad))
    values = F.pad(v, (0, queries.shape[-1] - v.shape[-1]))
    return F.scaled_dot_product_attention(queries, keys, values, scale=1.0)[..., : v.shape[-1]]


def _biases(q: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """What each query adds to a row's keys (B, heads, T, h), and to a column's (B, heads, T, w)."""
    queries = q.unflatten(2, (len(rows), len(columns)))
    by_row = torch.einsum("bnhwc,hkc->bnhwk", queries, rows)
    by_column = torch.einsum("bnhwc,wkc->bnhwk", queries, columns)
    return by_row.flatten(2, 3), by_column.flatten(2, 3)


class _Tiled(torch.autograd.Function):
    """Attention over tiles of some queries of one head, or of several small maps at once: (B, T, heads, D).

    Forward, each tile is one call of torch's fused attention. Backward, a tile's weights are made once more, as flash attention
    does (Dao et al., 2205.14135, Alg. 4), in float32: what is kept is queries, keys, values and outputs.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        by_row, by_column = (x.flatten(0, 1) for x in _biases(q, rows, columns))
        queries, keys, values = (x.flatten(0, 1) for x in (q, k, v))
        out = torch.empty_like(queries)
        for maps, some in _tiles(queries):
            bias = _outer(by_row[maps, some], by_column[maps, some])
            out[maps, some] = F.scaled_dot_product_attention(
                queries[maps, some], keys[maps], values[maps], attn_mask=bias
            )
        out = out.unflatten(0, q.shape[:2]).transpose(1, 2).contiguous()
        ctx.save_for_backward(q, k, v, rows, columns, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        q, k, v, rows, columns, out = ctx.saved_tensors
        scale, grid = q.shape[-1] ** -0.5, (len(rows), len(columns))
        exact = torch.promote_types(q.dtype, torch.float32)
        by_row, by_column = (x.flatten(0, 1).to(exact) for x in _biases(q, rows, columns))
        queries, keys, values = (x.flatten(0, 1) for x in (q, k, v))
        grads = grad.transpose(1, 2).flatten(0, 1)
        centre = (grad.to(exact) * out.to(exact)).sum(-1, keepdim=True).transpose(1, 2).flatten(0, 1)
        d_q, d_k, d_v = (torch.zeros_like(x, dtype=exact) for x in (queries, keys, values))
        for maps, some in _tiles(queries):
            query, key, value = (x.to(exact) for x in (queries[maps, some], keys[maps], values[maps]))
            gradient = grads[maps, some].to(exact)
            weights = torch.baddbmm(_outer(by_row[maps, some], by_column[maps, some]), query, key.mT, alpha=scale)
            weights = weights.softmax(-1)
            d_v[maps].baddbmm_(weights.mT, gradient)
            d_scores = torch.bmm(gradient, value.mT).sub_(centre[maps, some]).mul_(weights)
            d_k[maps].baddbmm_(d_scores.mT, query, alpha=scale)
            d_q[maps, some] = torch.bmm(d_scores, key).mul_(scale)
            places = d_scores.unflatten(2, grid)
            by_row[maps, some], by_column[maps, some] = places.sum(3), places.sum(2)  # their gradients, in their place
        return _gradients(q, rows, columns, (d_q, d_k, d_v), (by_row, by_column))


def _tiles(queries: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of (maps, queries) whose attention weights are `_TILE` at most, or those of one query."""
    count, tokens = queries.shape[:2]
    maps, some = max(1, _TILE // tokens**2), max(1, min(tokens, _TILE // tokens))
    for i in range(0, count, maps):
        for j in range(0, tokens, some):
            yield slice(i, i + maps), slice(j, j + some)


def _outer(by_row: Tensor, by_column: Tensor) -> Tensor:
    """The bias of some queries on all keys: (maps, queries, h) and (maps, queries, w) -> (maps, queries, h * w)."""
    return (by_row.unsqueeze(-1) + by_column.unsqueeze(-2)).flatten(2)


def _gradients(
    q: Tensor,
    rows: Tensor,
    columns: Tensor,
    through_weights: tuple[Tensor, Tensor, Tensor],
    through_biases: tuple[Tensor, Tensor],
) -> tuple[Tensor, ...]:
    """Of q, k, v, rows and columns; the biases, too, are functions of the queries."""
    d_q, d_k, d_v = (x.unflatten(0, q.shape[:2]) for x in through_weights)
    grid = (len(rows), len(columns))
    by_row, by_column = (x.unflatten(1, grid).unflatten(0, q.shape[:2]) for x in through_biases)
    queries = q.unflatten(2, grid).to(d_q.dtype)
    d_q = d_q + torch.einsum("bnhwk,hkc->bnhwc", by_row, rows.to(d_q.dtype)).flatten(2, 3)
    d_q += torch.einsum("bnhwk,wkc->bnhwc", by_column, columns.to(d_q.dtype)).flatten(2, 3)
    d_rows = torch.einsum("bnhwk,bnhwc->hkc", by_row, queries)
    d_columns = torch.einsum("bnhwk,bnhwc->wkc", by_column, queries)
    return d_q.to(q.dtype), d_k.to(q.dtype), d_v.to(q.dtype), d_rows.to(rows.dtype), d_columns.to(columns.dtype)
