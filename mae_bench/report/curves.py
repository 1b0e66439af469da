"""Training curves as small SVG drawings, from the ``log.jsonl`` of runs. Colours are the page's: classes, not values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from backbones.plain_files import parse_json, read_plain

_LOG_LIMIT = 1 << 28  # bytes
_LARGEST = 1e300
POINTS = 200  # a curve has at most so many; more are averaged
_WIDTH, _HEIGHT = 380, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 24, 34

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """A curve: (epoch, value) in the order of epochs; lines of one `series` share their look."""

    label: str
    series: int
    points: Points
    dashed: bool = False


@dataclass(frozen=True)
class Log:
    """What a run logged: key -> points, in training and in evaluation."""

    train: dict[str, Points]
    val: dict[str, Points]


def read_log(path: Path) -> Log:
    """A run's log; empty where there is none. A step that was logged twice, since a run resumed before it, counts once."""
    kinds: dict[str, dict[int, dict[str, float]]] = {"train": {}, "val": {}}
    try:
        lines = read_plain(path, _LOG_LIMIT).decode("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for text in lines:
        try:
            line = parse_json(text)
            kinds[line["kind"]][int(line["step"])] = line
        except (ValueError, KeyError, TypeError):  # the last line of a run that was killed
            continue
    return Log(*(_by_key(kinds[kind]) for kind in ("train", "val")))


def _by_key(steps: dict[int, dict[str, float]]) -> dict[str, Points]:
    found: dict[str, Points] = {}
    for step in sorted(steps):
        line = steps[step]
        for key, value in line.items():
            if key not in ("kind", "step", "epoch") and _is_number(value) and _is_number(line.get("epoch")):
                found.setdefault(key, []).append((float(line["epoch"]), float(value)))
    return {key: thin(points) for key, points in found.items()}


def _is_number(value: object) -> bool:
    """Whether it can be drawn: differences of drawn numbers are finite, too."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST


def thin(points: Points) -> Points:
    """At most `POINTS` points: means over neighbours."""
    if len(points) <= POINTS:
        return points
    bounds = [round(i * len(points) / POINTS) for i in range(POINTS + 1)]
    parts = [points[a:b] for a, b in itertools.pairwise(bounds)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def draw(lines: Sequence[Line], *, x_label: str, y_label: str, title: str) -> str:
    """An ``<svg>`` of the lines; empty when there is nothing to draw. The same lines give the same text."""
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    xs, ys = zip(*(point for line in lines for point in line.points), strict=True)
    x_ticks, y_ticks = ticks(min(0.0, *xs), max(xs)), ticks(min(ys), max(ys))
    x_range = (min(0.0, *xs), max(*xs, x_ticks[-1]))
    y_range = (min(min(ys), y_ticks[0]), max(max(ys), y_ticks[-1]))

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (x - x_range[0]) / _span(x_range) * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - (y - y_range[0]) / _span(y_range) * (_HEIGHT - _TOP - _BOTTOM),
        )

    out = [f'<svg class="curve" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">']
    for y in y_ticks:
        height = place(x_range[0], y)[1]
        out.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>')
        out.append(f'<text class="tick end" x="{_LEFT - 6}" y="{height + 3.5:.1f}">{y:g}</text>')
    for x in x_ticks:
        out.append(f'<text class="tick mid" x="{place(x, 0)[0]:.1f}" y="{_HEIGHT - _BOTTOM + 15}">{x:g}</text>')
    out.append(
        f'<text class="label mid" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 4}">{escape(x_label)}</text>'
    )
    out.append(f'<text class="label" x="0" y="11">{escape(y_label)}</text>')
    for line in lines:
        out.append(_path(line, [place(x, y) for x, y in line.points]))
    return "".join([*out, "</svg>"])


def _path(line: Line, places: Points) -> str:
    look = f"s{line.series % 7}{' dashed' if line.dashed else ''}"
    title = f"<title>{escape(line.label)}</title>"
    if len(places) == 1:
        return f'<circle class="{look}" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="3">{title}</circle>'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline class="{look}" points="{path}">{title}</polyline>'


def ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers from below `low` to above `high`."""
    span, size = high - low, max(abs(low), abs(high))
    if span <= 1e-9 * size or span < 1e-100:  # a constant, as far as digits go
        span = size if size > 1e-100 else 1.0
    step = 10.0 ** math.floor(math.log10(span / 3))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 4.5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [float(f"{k * step:.12g}") for k in range(first, max(last, first + 1) + 1)]


def _span(limits: tuple[float, float]) -> float:
    return (limits[1] - limits[0]) or 1.0
