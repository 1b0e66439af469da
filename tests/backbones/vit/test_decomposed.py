"""Attention with decomposed relative positions: both ways equal the formula, in values and in every gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from backbones.vit import decomposed
from backbones.vit.decomposed import attend_decomposed, relative

Attend = Callable[[Tensor, Tensor, Tensor, tuple[int, int]], Tensor]


def by_the_formula(qkv: Tensor, table_h: Tensor, table_w: Tensor, grid: tuple[int, int]) -> Tensor:
    """Offset by offset from query to key (MViTv2, eq. 4), with the whole attention map."""
    q, k, v = qkv.unbind(0)
    h, w = grid
    cells = [(r, c) for r in range(h) for c in range(w)]
    offsets = [[(qr - kr + h - 1, qc - kc + w - 1) for kr, kc in cells] for qr, qc in cells]
    positions = torch.stack([torch.stack([table_h[a] + table_w[b] for a, b in row]) for row in offsets])  # (T, T, D)
    bias = torch.einsum("bnic,ijc->bnij", q, positions)
    weights = (q @ k.mT * q.shape[-1] ** -0.5 + bias).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def folded(qkv: Tensor, table_h: Tensor, table_w: Tensor, grid: tuple[int, int]) -> Tensor:
    """What a GPU computes."""
    rows, columns = relative(table_h, grid[0]), relative(table_w, grid[1])
    return decomposed._folded(*qkv.unbind(0), rows, columns).transpose(1, 2).flatten(2)


def inputs(grid: tuple[int, int], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    shapes = (3, 2, 3, grid[0] * grid[1], 4), (2 * grid[0] - 1, 4), (2 * grid[1] - 1, 4)
    qkv, table_h, table_w = (torch.randn(s, dtype=dtype, requires_grad=True) for s in shapes)
    return qkv, table_h, table_w


@pytest.mark.parametrize("attend", [attend_decomposed, folded])
@pytest.mark.parametrize("grid", [(3, 3), (2, 5), (1, 4), (1, 1)])
@pytest.mark.parametrize("tile", [1, 30, 200, 1 << 20])  # a query, some queries of a head, some heads, all of it
def test_values_and_gradients_are_those_of_the_formula(
    monkeypatch: pytest.MonkeyPatch, attend: Attend, grid: tuple[int, int], tile: int
) -> None:
    monkeypatch.setattr(decomposed, "_TILE", tile)
    arguments = inputs(grid)
    ours, wanted = attend(*arguments, grid), by_the_formula(*arguments, grid)
    torch.testing.assert_close(ours, wanted)
    gradient = torch.randn_like(ours)
    for mine, theirs in zip(
        torch.autograd.grad(ours, arguments, gradient), torch.autograd.grad(wanted, arguments, gradient), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_half_precision_keeps_its_type_and_gradients_stay_near() -> None:
    exact, half = inputs((4, 4), torch.float32), inputs((4, 4), torch.bfloat16)
    for ours, wanted in zip(half, exact, strict=True):
        ours.data.copy_(wanted.data)
    out, reference = attend_decomposed(*half, (4, 4)), attend_decomposed(*exact, (4, 4))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), reference, atol=0.05, rtol=0.05)
    out.sum().backward()
    reference.sum().backward()
    for ours, wanted in zip(half, exact, strict=True):
        assert ours.grad is not None
        assert wanted.grad is not None
        assert ours.grad.dtype == torch.bfloat16
        assert (ours.grad.float() - wanted.grad).norm() < 0.05 * wanted.grad.norm()


def test_no_attention_map_is_kept_for_the_backward_pass() -> None:
    """1,024 tokens and 2 heads: a map of 8 MB; queries, keys, values and outputs are 0.5 MB together."""
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    qkv = torch.randn(3, 1, 2, 1024, 16, requires_grad=True)
    tables = [torch.randn(63, 16, requires_grad=True) for _ in range(2)]
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        attend_decomposed(qkv, *tables, (32, 32))
    assert 0 < kept < 2**20


def test_tables_of_another_size_are_resampled_linearly() -> None:
    table = torch.arange(7.0)[:, None].expand(7, 2)
    larger = relative(table, 8)
    assert larger.shape == (8, 8, 2)
    torch.testing.assert_close(larger[3, 3], torch.tensor([3.0, 3.0]))  # no offset stays in the middle
    assert larger[0, 7, 0] == 0  # the ends stay
    assert larger[7, 0, 0] == 6
