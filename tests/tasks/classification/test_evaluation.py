"""Top-1 and top-5 counted by hand, and the same from shards as from the whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm.utils
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tasks.classification.evaluation import AccuracyEvaluator
from tests.encoders import MAE


class Fixed(nn.Module):
    """A "model" whose logits are carried by its targets: image k of the set gets row k."""

    def __init__(self, logits: Tensor, targets: Tensor) -> None:
        super().__init__()
        self.logits, self.targets = logits, targets

    def batch(self, rows: slice) -> tuple[Tensor, Tensor]:
        self.rows = rows
        return torch.zeros(len(self.targets[rows]), 3, 4, 4, dtype=torch.uint8), self.targets[rows]

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return self.logits[self.rows]


def evaluate(model: Fixed, cuts: list[slice], classes: int) -> tuple[dict[str, float], AccuracyEvaluator]:
    evaluator = AccuracyEvaluator(classes, MAE)
    for rows in cuts:
        evaluator.update(model, model.batch(rows))
    return evaluator.metrics(evaluator.results()), evaluator


def test_counts_by_hand() -> None:
    # Six classes; the right one is ranked 1st, 2nd, 5th and 6th.
    row = torch.tensor([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    targets = torch.tensor([0, 1, 4, 5])
    metrics, _ = evaluate(Fixed(row.expand(4, -1), targets), [slice(0, 4)], 6)
    assert metrics["top1"] == 25.0
    assert metrics["top5"] == 75.0
    assert metrics["images"] == 4
    by_hand = torch.logsumexp(row, 0) - row[targets]
    assert metrics["loss"] == pytest.approx(by_hand.mean().item(), rel=1e-6)


@pytest.mark.parametrize("rounded", [torch.Tensor.round, lambda z: z.bfloat16().float(), torch.zeros_like])
def test_ties_are_counted_as_timms_accuracy_counts_them(rounded: Callable[[Tensor], Tensor]) -> None:
    """The same `topk`: which of equal logits comes first is torch's affair, and not always the first of them."""
    logits = rounded(torch.randn(500, 30, generator=torch.Generator().manual_seed(0)))
    targets = logits.max(1).indices.where(torch.arange(500) % 2 == 0, 7)
    ours, _ = evaluate(Fixed(logits, targets), [slice(i, i + 64) for i in range(0, 500, 64)], 30)
    theirs = timm.utils.accuracy(logits, targets, (1, 5))
    assert [ours["top1"], ours["top5"]] == pytest.approx([value.item() for value in theirs])


def test_with_fewer_than_five_classes_top5_is_certain() -> None:
    metrics, _ = evaluate(Fixed(torch.randn(8, 3), torch.arange(8) % 3), [slice(0, 8)], 3)
    assert metrics["top5"] == 100.0


@given(count=st.integers(1, 30), size=st.integers(1, 7), processes=st.integers(1, 4), classes=st.integers(2, 9))
@settings(max_examples=40)
def test_shards_give_what_the_whole_gives(count: int, size: int, processes: int, classes: int) -> None:
    model = Fixed(torch.randn(count, classes), torch.randint(0, classes, (count,)))
    whole, _ = evaluate(model, [slice(0, count)], classes)
    cuts = [slice(i, min(i + size, count)) for i in range(0, count, size)]
    results = []
    for rank in range(processes):
        evaluator = AccuracyEvaluator(classes, MAE)
        for rows in cuts[rank::processes]:
            evaluator.update(model, model.batch(rows))
        results += evaluator.results()  # a process without images adds nothing
    sharded = AccuracyEvaluator(classes, MAE).metrics(results)
    assert sharded == pytest.approx(whole, rel=1e-6)
    assert (sharded["top1"], sharded["images"]) == (whole["top1"], count)
