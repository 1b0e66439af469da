"""What tasks say of their figures, and how figures read."""

from __future__ import annotations

import math

import pytest

import tasks
from tasks.spec import Metric, TaskSpec, in_decimals


def test_a_key_is_taken_before_patterns_and_those_in_their_order() -> None:
    family, one = Metric("iou.*"), Metric("iou.sky", better="lower")
    spec = TaskSpec("", "", ("p",), (family, one, Metric("i*")))
    assert spec.declared("iou.sky") is one
    assert spec.declared("iou.road [wet]") is family
    assert spec.declared("images") is spec.metrics[2]
    assert spec.declared("loss") is None


@pytest.mark.parametrize(
    ("better", "value", "on", "improves"),
    [
        ("higher", 2.0, 1.0, True),
        ("higher", 1.0, 1.0, False),
        ("lower", 1.0, 2.0, True),
        ("lower", 2.0, 1.0, False),
        ("lower", 1.0, math.nan, True),
        ("lower", math.nan, 1.0, False),
        ("higher", math.nan, math.nan, True),
    ],
)
def test_which_way_is_better(better: str, value: float, on: float, improves: bool) -> None:
    assert Metric("m", better=better).improves(value, on) is improves  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "decimals", "signed", "text"),
    [
        (83.64, 1, False, "83.6"),
        (0.32, 2, False, "0.32"),
        (-0.04, 1, True, "0.0"),
        (0.2, 1, True, "+0.2"),
        (0.000123456, None, False, "0.0001235"),
        (None, 1, False, "–"),
        (math.inf, 1, False, "nan"),
    ],
)
def test_a_figure_as_people_read_it(value: float | None, decimals: int | None, signed: bool, text: str) -> None:
    assert in_decimals(value, decimals, signed=signed) == text


def test_every_task_has_a_headline_that_says_which_way_is_better() -> None:
    for name, spec in tasks.registry().items():
        found = [metric for metric in spec.metrics if metric.headline]
        assert all(metric.better for metric in found)
        assert found or name == "pretraining"


def test_percentages_have_bounds_and_other_figures_none() -> None:
    assert tasks.metric("classification", "top1").out_of_range(100.5)
    assert not tasks.metric("classification", "top1").out_of_range(100 + 1e-9)  # sums are rounded
    assert not tasks.metric("classification", "inc_mce").out_of_range(130.0)  # worse than AlexNet
    assert not tasks.metric("unknown task", "top1").out_of_range(130.0)


def test_what_nobody_declared_is_not_rounded_to_a_percentage() -> None:
    assert tasks.metric("unknown task", "rmse") == Metric("rmse", unit="", better="", decimals=None)
