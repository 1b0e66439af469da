"""Inference time is the model's forward passes, without the warm-up and without what an evaluator makes of predictions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mae_bench.engine import evaluate
from mae_bench.engine.evaluate import WARM_UP_BATCHES, _Timer


class Clock:
    """Stands still but for what is waited on it."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(evaluate, "time", clock)
    return clock


class Slow(nn.Module):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock, self.seconds = clock, 0.2

    def forward(self, x: Tensor) -> Tensor:
        self.clock.sleep(self.seconds)
        return x


def test_only_forward_passes_after_the_warm_up_count(clock: Clock) -> None:
    timer, model = _Timer(torch.device("cpu")), Slow(clock)
    with timer.forward_passes(model):
        for i in range(WARM_UP_BATCHES + 2):
            model.seconds = 0.1 if i < WARM_UP_BATCHES else 0.02
            with timer.batch(2):
                model(torch.zeros(1))
                clock.sleep(0.1)  # the evaluator's own work
    assert timer.seconds_per_image() == pytest.approx(0.01)
    model(torch.zeros(1))
    assert len(timer.batches) == WARM_UP_BATCHES + 2
    assert not model._forward_hooks


def test_an_evaluator_that_never_calls_the_model_is_timed_whole(clock: Clock) -> None:
    timer = _Timer(torch.device("cpu"))
    with timer.forward_passes(Slow(clock)):
        for _ in range(2):
            with timer.batch(1):
                clock.sleep(0.02)
    assert timer.seconds_per_image() == pytest.approx(0.02)
