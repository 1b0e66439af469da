"""Inference time is the model's forward passes, without the warm-up and without what an evaluator makes of predictions."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from mae_bench.engine.evaluate import WARM_UP_BATCHES, _Timer


class Slow(nn.Module):
    seconds = 0.2

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return x


def test_only_forward_passes_after_the_warm_up_count() -> None:
    timer, model = _Timer(torch.device("cpu")), Slow()
    with timer.forward_passes(model):
        for i in range(WARM_UP_BATCHES + 2):
            model.seconds = 0.1 if i < WARM_UP_BATCHES else 0.02
            with timer.batch(2):
                model(torch.zeros(1))
                time.sleep(0.1)  # the evaluator's own work
    assert timer.seconds_per_image() == pytest.approx(0.01, rel=0.5)
    model(torch.zeros(1))
    assert len(timer.batches) == WARM_UP_BATCHES + 2
    assert not model._forward_hooks


def test_an_evaluator_that_never_calls_the_model_is_timed_whole() -> None:
    timer = _Timer(torch.device("cpu"))
    with timer.forward_passes(Slow()):
        for _ in range(2):
            with timer.batch(1):
                time.sleep(0.02)
    assert timer.seconds_per_image() == pytest.approx(0.02, rel=0.5)
