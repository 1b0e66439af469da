"""What an evaluation gives is made fit for a record after training: nothing is refused, all is said."""

import math

import torch

from mae_bench.engine.evaluate import settle


def test_good_figures_are_left_alone() -> None:
    metrics, notes = settle({"top1": torch.tensor(50.5), "loss": 1.25, "images": 40}, "classification", "top1")
    assert metrics == {"top1": 50.5, "loss": 1.25, "images": 40}
    assert notes == []


def test_what_cannot_be_is_not_a_number_and_said() -> None:
    metrics, notes = settle({"top1": 101.0, "top5": "many"}, "classification", "top1")
    assert list(metrics) == ["top1"]
    assert math.isnan(metrics["top1"])
    assert len(notes) == 2


def test_a_missing_primary_metric_is_not_a_number_and_said() -> None:
    metrics, notes = settle({"top5": 90.0}, "classification", "top1")
    assert math.isnan(metrics["top1"])
    assert notes == ["metric top1 is not-a-number: the evaluation gave none"]


def test_metrics_that_the_task_does_not_declare_are_kept_and_said() -> None:
    metrics, notes = settle({"top1": 50.0, "kappa": 0.4}, "classification", "top1")
    assert metrics["kappa"] == 0.4
    assert "kappa" in notes[0]
