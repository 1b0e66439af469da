"""A built table: plain data, ready for any renderer. Nothing is computed here but means and differences."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Measured:
    """Our figure: one value a seed, in the unit of its metric; a value is nan where the metric was not a number."""

    values: tuple[float, ...]
    records: tuple[str, ...]  # paths, one a value
    seeds: tuple[int, ...]

    @property
    def n(self) -> int:
        """How many runs."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Mean over the runs; nan as soon as one is."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """Sample standard deviation (over n - 1); None of a single run."""
        if self.n < 2:
            return None
        return statistics.stdev(self.values) if math.isfinite(self.mean) else math.nan


TOLERANCE_STDS = 2  # standard deviations over the official seeds that a difference may have


@dataclass(frozen=True)
class Cell:
    """Published figure and ours, either or neither. `std`: over the official seeds, None where no such spread is published."""

    published: float | None = None
    sources: tuple[str, ...] = ()  # keys of `Table.sources`, of the figure and of its spread
    ours: Measured | None = None
    std: float | None = None
    decimals: int | None = 1  # that people read (`tasks.spec.figure`); None: four significant figures

    @property
    def difference(self) -> float | None:
        """Ours minus published, in points; None unless both exist."""
        if self.published is None or self.ours is None:
            return None
        return self.ours.mean - self.published

    @property
    def tolerance(self) -> float | None:
        """How far ours may be from the published figure, in points; None where no spread over seeds is published."""
        return None if self.published is None or self.std is None else TOLERANCE_STDS * self.std

    @property
    def within(self) -> bool | None:
        """Whether the difference is within the tolerance; None unless there are both. Not-a-number is outside."""
        if self.difference is None or self.tolerance is None:
            return None
        return abs(self.difference) <= self.tolerance + 1e-9  # figures are decimals: 83.76 - 83.6 is not quite 0.16


@dataclass(frozen=True)
class Column:
    """`in_paper`: the paper has this column; else it holds figures of ours alone. `unit` follows each figure ("x").

    In a drawing it is the curve `series` of the field that stands in row `measure`, column `setting`.
    """

    heading: str
    metric: str
    in_paper: bool
    unit: str = ""
    measure: str = ""
    setting: str = ""
    series: str = ""


@dataclass(frozen=True)
class Row:
    """A method, or a value of what is varied, with a cell for each column; `default`: the paper's own choice.

    `subject`: what a group of rows is about; `x`: where the row stands in a drawing.
    """

    method: str
    cells: tuple[Cell, ...]
    default: bool = False
    subject: str = ""
    x: float | None = None


@dataclass(frozen=True)
class Chart:
    """How a table is drawn: labels of the axes, and how x is scaled: "linear", "log", or "steps" of one width."""

    x: str
    y: str
    scale: str


@dataclass(frozen=True)
class Table:
    """What renderers get; `sources` says what the keys in `Cell.sources` mean.

    A table of several `parts` has no rows of its own. One of what is varied (`factor` says what) is printed with one line a
    row. `subject` heads the rows' subjects, where they have any. Without a `chart` a table cannot be drawn.
    """

    name: str
    title: str
    columns: tuple[Column, ...] = ()
    rows: tuple[Row, ...] = ()
    sources: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    factor: str = ""
    parts: tuple[Table, ...] = ()
    subject: str = ""
    chart: Chart | None = None
