"""Own results as bars: a group a task and metric, a bar a start, with the gain over scratch and the published figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mae_bench.tables.formats import text_grid
from mae_bench.tables.own import SCRATCH, OwnFigures
from mae_bench.tables.table import Measured
from tasks.spec import PERCENT, Metric, in_decimals

_GREY = 6  # of the page's colours


@dataclass(frozen=True)
class Bar:
    """A start's figure. Lengths are percent of the track: `end` of the bar, `low` to `high` of the deviation over seeds."""

    start: str
    text: str
    gain: str
    end: float
    low: float
    high: float
    series: int


@dataclass(frozen=True)
class BarGroup:
    """The bars of a metric, and where the published figure stands on their track."""

    task: str
    metric: str
    about: str  # unit and direction, where they are not a percentage that is the better the higher
    bars: tuple[Bar, ...]
    published: str
    published_at: float


def colours_of(starts: Iterable[str]) -> dict[str, int]:
    """Start -> its colour everywhere on the page (classes ``s0`` to ``s6``): grey for scratch, else in their order."""
    found: dict[str, int] = {}
    for start in starts:
        others = len(found) - (SCRATCH in found)
        found.setdefault(start, _GREY if start == SCRATCH else others % _GREY)
    return found


def bar_groups(rows: Sequence[OwnFigures], colours: Mapping[str, int]) -> list[BarGroup]:
    """Percentages share one scale, 0 to 100; other metrics have each their own, from 0."""
    return [group for row in rows if (group := _group(row, colours)).bars]


def _group(row: OwnFigures, colours: Mapping[str, int]) -> BarGroup:
    figures = {start: ours for start, ours in row.figures.items() if ours is not None}
    whole = _whole(row.metric, [*(ours.mean for ours in figures.values()), row.published])
    bars = tuple(_bar(start, ours, row, whole, colours[start]) for start, ours in figures.items())
    published = "" if row.published is None else in_decimals(row.published, row.metric.decimals)
    at = 0.0 if row.published is None else _percent(row.published, whole)
    return BarGroup(row.task, row.metric.key, _about(row.metric), bars, published, at)


def _about(metric: Metric) -> str:
    unit = "%" if metric.unit == PERCENT else metric.unit
    return ", ".join(filter(None, (unit, "lower is better" if metric.better == "lower" else "")))


def _whole(metric: Metric, values: Iterable[float | None]) -> float:
    largest = max((abs(value) for value in values if value is not None and math.isfinite(value)), default=0.0)
    return max(100.0, largest) if metric.unit == PERCENT else largest or 1.0


def _bar(start: str, ours: Measured, row: OwnFigures, whole: float, series: int) -> Bar:
    spread = ours.std if ours.std is not None and math.isfinite(ours.std) else 0.0
    low, end, high = (_percent(ours.mean + shift, whole) for shift in (-spread, 0.0, spread))
    text = text_grid.measured(ours, row.metric.decimals)
    return Bar(start, text, row.gains.get(start, ""), end, low, high, series)


def _percent(value: float, whole: float) -> float:
    """Of the track; 0 for what is below zero or no number."""
    return round(min(100.0, max(0.0, 100 * value / whole)), 2) if math.isfinite(value) else 0.0
