"""Tables that have a chart as pictures: curves of published figures and ours. What they show is decided in `mae_bench.tables`.

A row of fields for each measure, a column for each setting: figures of other data or models than the paper's get fields, and
scales, of their own.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backbones.errors import UserError
from mae_bench.common.text import plain
from mae_bench.tables.table import Chart, Column, Table
from tasks.spec import in_decimals

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "svg")
DPI = 160
# Okabe and Ito's colours, told apart by the colour-blind; yellow, which is too light for a line, is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
_STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "text.parse_math": False,  # names from records are text, whatever signs they hold
    "svg.fonttype": "none",
    "svg.hashsalt": "mae_bench",  # ids of elements, else random
}


@dataclass(frozen=True)
class Point:
    """A figure at x; `std` over seeds, None of a single run."""

    x: float
    y: float
    std: float | None = None
    decimals: int | None = 1


@dataclass(frozen=True)
class Curve:
    """Points of one method; `others` are further runs at an x that has a point, and are not joined by a line."""

    label: str
    series: str
    ours: bool
    points: tuple[Point, ...]
    others: tuple[Point, ...] = ()


def draw(table: Table, format: str) -> bytes:
    """The table as a PNG or SVG picture; the same table gives the same bytes.

    Raises:
        UserError: the table has no chart, or no such format.
    """
    if table.chart is None:
        raise UserError(
            f"{table.name} is no figure: give --format md, csv, json, latex or html; fig5, fig7, fig8, fig9 can be drawn"
        )
    if format not in FORMATS:
        raise UserError(f"figure format {format}: give one of {', '.join(FORMATS)}")
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measures = list(dict.fromkeys(column.measure for column in table.columns))
    settings = list(dict.fromkeys(column.setting for column in table.columns))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(max(6.4, 5.2 * len(settings)), 1.2 + 2.9 * len(measures)), layout="constrained")
        FigureCanvasAgg(figure)
        fields = figure.subplots(len(measures), len(settings), squeeze=False)
        for i, measure in enumerate(measures):
            for j, setting in enumerate(settings):
                these = [(k, c) for k, c in enumerate(table.columns) if (c.measure, c.setting) == (measure, setting)]
                _field(fields[i][j], table, table.chart, these, _ticks(table, [k for k, _ in these]))
                fields[i][j].set_title(_title(measure, setting), fontsize=9)
        figure.suptitle(plain(table.title), fontsize=10.5, fontweight="bold")
        figure.supxlabel(_caption(table), fontsize=7, color="#444444")
        return _bytes(figure, format)


def curves(table: Table, columns: Sequence[tuple[int, Column]]) -> list[Curve]:
    """What a field shows: of each column the published points and ours."""
    found = []
    for index, column in columns:
        cells = [(row.x, row.cells[index]) for row in table.rows if row.x is not None]
        published = [
            Point(x, cell.published, decimals=cell.decimals) for x, cell in cells if cell.published is not None
        ]
        ours = [Point(x, cell.ours.mean, cell.ours.std, cell.decimals) for x, cell in cells if cell.ours]
        for points, is_ours in ((published, False), (ours, True)):
            first = {point.x: point for point in reversed(points) if math.isfinite(point.y)}
            if first:
                label = f"{column.series}, {'ours' if is_ours else 'published'}"
                joined = tuple(first[x] for x in sorted(first))
                others = tuple(p for p in points if math.isfinite(p.y) and p not in joined) if is_ours else ()
                found.append(Curve(label, column.series, is_ours, joined, others))
    return found


def _ticks(table: Table, columns: Sequence[int]) -> dict[float, str]:
    """x of every row that has a figure in these columns -> what it reads on the axis."""
    rows = [r for r in table.rows if any(r.cells[k].published is not None or r.cells[k].ours for k in columns)]
    return {x: f"{x:g}" for x in sorted({row.x for row in rows if row.x is not None})}


def _field(
    axes: Axes, table: Table, chart: Chart, columns: Sequence[tuple[int, Column]], ticks: dict[float, str]
) -> None:
    place = {x: float(i) if chart.scale == "steps" else x for i, x in enumerate(ticks)}
    series = list(dict.fromkeys(column.series for column in table.columns))
    for k, curve in enumerate(curves(table, columns)):
        number = series.index(curve.series)
        look: dict[str, Any] = {
            "color": COLOURS[number % len(COLOURS)],
            "marker": MARKERS[number % len(MARKERS)],
            "markersize": 5,
            "markerfacecolor": "white" if curve.ours else None,
            "capsize": 3,
        }
        line = "--" if curve.ours else "-"
        _draw(
            axes, curve.points, place, linestyle=line, label=f" {plain(curve.label)}", **look
        )  # "_x" would be no label
        if curve.others:
            _draw(axes, curve.others, place, linestyle="none", label=f" {plain(curve.label)}, other runs", **look)
        _write_values(axes, curve.points, place, look["color"], above=k == 0)
    if chart.scale == "log":
        axes.set_xscale("log", base=2)
    axes.minorticks_off()
    axes.set_xticks([place[x] for x in ticks], list(ticks.values()))
    axes.margins(x=0.06, y=0.18)
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    if axes.has_data():
        axes.legend(frameon=False, fontsize=8, loc="best")


def _draw(axes: Axes, points: Sequence[Point], place: dict[float, float], **look: Any) -> None:
    errors = [point.std if point.std is not None and math.isfinite(point.std) else 0.0 for point in points]
    axes.errorbar(
        [place[point.x] for point in points],
        [point.y for point in points],
        yerr=errors if any(errors) else None,
        **look,
    )


def _write_values(axes: Axes, points: Sequence[Point], place: dict[float, float], colour: str, *, above: bool) -> None:
    """Each figure beside its point, clear of the error bar."""
    for point in points:
        bar = point.std if point.std is not None and math.isfinite(point.std) else 0.0
        axes.annotate(
            in_decimals(point.y, point.decimals),
            (place[point.x], point.y + bar if above else point.y - bar),
            textcoords="offset points",
            xytext=(0, 6 if above else -12),
            ha="center",
            fontsize=6.5,
            color=colour,
            zorder=1.9,  # below lines and markers, above the grid
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.3},
        )


def _title(measure: str, setting: str) -> str:
    return plain(" – ".join(filter(None, (measure, setting))))


def _caption(table: Table) -> str:
    """Where the figures come from, in a line or two."""
    parts = [f"published: {plain(text)}" for text in table.sources.values()]
    counts = sorted({cell.ours.n for row in table.rows for cell in row.cells if cell.ours})
    if counts:
        seeds = " or ".join(map(str, counts))
        several = ", mean ± sample standard deviation" if counts[-1] > 1 else ""
        parts.append(f"ours: {seeds} run{'s' if counts[-1] > 1 else ''} a point{several}; last epoch")
    return "\n".join(parts)


def _bytes(figure: Any, format: str) -> bytes:
    out = io.BytesIO()
    # Neither the time nor the version: the same figures are the same file.
    metadata = {"Software": None} if format == "png" else {"Date": None, "Creator": None}
    figure.savefig(out, format=format, dpi=DPI, metadata=metadata)
    return out.getvalue()
