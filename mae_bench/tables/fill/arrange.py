"""Lays a table of methods out: methods in rows below each subject, or subjects in rows and methods in columns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mae_bench.records.record import Record
from mae_bench.tables.definitions.published import PublishedValue
from mae_bench.tables.definitions.schema import Definition, Delta, Subject
from mae_bench.tables.fill import notes
from mae_bench.tables.fill.counting import measured
from mae_bench.tables.table import Cell, Column, Measured, Row
from tasks.spec import Metric

PublishedValues = dict[tuple[str, str, str], PublishedValue]  # (subject, method, heading of the paper's column)


class ColumnKey(NamedTuple):
    """What a column stands for; `data` is empty where it is the paper's own (arch, size, data set).

    `arch` is empty where architectures are the table's subjects; `kind` says what else tells columns apart; `recipe` is that of
    runs that are the paper's in all but it.
    """

    arch: str
    img_size: int
    data: str = ""
    fingerprint: str = ""
    kind: str = ""
    recipe: str = ""


class Key(NamedTuple):
    """Where runs that differ in nothing but the seed stand."""

    subject: Any
    method: str
    setting: ColumnKey
    variant: int


@dataclass(frozen=True)
class TableInputs:
    """What a definition's rows and columns are filled from; `own`: our settings with their headings."""

    runs: Mapping[Key, list[Record]]
    own: Mapping[ColumnKey, str]
    subjects: Sequence[Subject]
    figures: PublishedValues
    metric: Callable[[str], Metric]  # key -> what the table's tasks declare of it
    runs_dir: str | os.PathLike[str] | None

    def count(self, method: str, setting: ColumnKey | None = None) -> int:
        """How many variants a method has, in a setting or at most in any."""
        numbers = (k.variant for k in self.runs if k.method == method and setting in (None, k.setting))
        return max(numbers, default=-1) + 1

    def methods(self, definition: Definition) -> list[str]:
        """The definition's, then those that only our records have."""
        known = [method.label for method in definition.methods]
        return [*known, *sorted({key.method for key in self.runs} - set(known))]

    def ours(self, slot: ColumnSource, subject: Subject, method: str, variant: int) -> Measured | None:
        """The figure of a cell's runs."""
        if slot.setting is None:
            return None
        group = self.runs.get(Key(subject.key, method, slot.setting, variant), [])
        return measured(group, subject.metric or slot.column.metric, self.runs_dir)

    def declared(self, slot: ColumnSource, subject: Subject) -> Metric:
        """What is known of the figures of a cell."""
        return self.metric(subject.metric or slot.column.metric)

    def cell(self, slot: ColumnSource, subject: Subject, method: str, variant: int) -> Cell:
        """Published figure and ours; a second variant repeats the published one only beside ours."""
        ours = self.ours(slot, subject, method, variant)
        decimals = self.declared(slot, subject).decimals
        figure = self.figures.get((subject.label, method, slot.column.heading)) if slot.column.in_paper else None
        if figure is None or (variant and ours is None):
            return Cell(ours=ours, decimals=decimals)
        return figure.cell(ours, decimals)


@dataclass(frozen=True)
class ColumnSource:
    """A column and the setting of the records that fill it; None where none can."""

    column: Column
    setting: ColumnKey | None


class Grid(NamedTuple):
    """Columns and rows of a table."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


def numbered(method: str, variant: int) -> str:
    """``MAE``, ``MAE #2``."""
    return f"{method} #{variant + 1}" if variant else method


def by_method(definition: Definition, filling: TableInputs) -> Grid:
    """A row a method below each subject; rows without any figure are left out."""
    slots = _slots(definition, filling)
    rows = []
    for subject in filling.subjects:
        for method in filling.methods(definition):
            for variant in range(max(1, filling.count(method))):
                cells = tuple(filling.cell(slot, subject, method, variant) for slot in slots)
                if any(cell.published is not None or cell.ours for cell in cells):
                    rows.append(Row(numbered(method, variant), cells, subject=subject.label))
    return Grid(tuple(slot.column for slot in slots), tuple(rows))


def by_subject(definition: Definition, filling: TableInputs) -> Grid:
    """A row a subject, a column a method: what is drawn, with the subject's key as x."""
    columns: list[tuple[ColumnSource, str, int]] = []
    for slot in _slots(definition, filling):
        for method in filling.methods(definition):
            count = filling.count(method, slot.setting) if slot.setting else 0
            if slot.column.in_paper and method in {m.label for m in definition.methods}:
                count = max(1, count)
            columns += [(slot, method, variant) for variant in range(count)]
    rows = tuple(
        Row(
            subject.label,
            tuple(filling.cell(slot, subject, method, variant) for slot, method, variant in columns),
            x=float(subject.key),
        )
        for subject in filling.subjects
    )
    shown = tuple(_drawn(definition, slot.column, numbered(method, variant)) for slot, method, variant in columns)
    return Grid(shown, rows)


def with_delta(delta: Delta, rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows and, last, ours of one less ours of another where a column has both; published as the paper prints it."""
    by_name = {row.method: row.cells for row in rows}
    nothing = (Cell(),) * max((len(row.cells) for row in rows), default=0)
    minuend, subtrahend, printed = (
        by_name.get(name, nothing) for name in (delta.minuend, delta.subtrahend, delta.method.label)
    )
    cells = []
    for one, other, published in zip(minuend, subtrahend, printed, strict=True):
        ours = None
        if one.ours and other.ours:
            ours = Measured((one.ours.mean - other.ours.mean,), (*one.ours.records, *other.ours.records), ())
        cells.append(Cell(published.published, published.sources, ours, decimals=one.decimals))
    others = [row for row in rows if row.method != delta.method.label]
    last = Row(delta.method.label, tuple(cells))
    return (*others, last) if any(cell.published is not None or cell.ours for cell in cells) else tuple(others)


def _drawn(definition: Definition, column: Column, series: str) -> Column:
    return Column(
        heading=f"{series}, {column.heading}",
        metric=column.metric,
        in_paper=column.in_paper,
        setting=f"{column.heading}, {definition.data.title}" if column.in_paper else column.heading,
        series=series,
    )


def _slots(definition: Definition, filling: TableInputs) -> list[ColumnSource]:
    """The paper's columns, then ours, by metric as the paper orders them."""
    slots = []
    for paper in definition.columns:
        setting = None
        if paper.arch is not None and paper.img_size is not None:
            setting = ColumnKey(paper.arch, paper.img_size, kind=paper.kind)
        slots.append(ColumnSource(Column(paper.heading, paper.metric, in_paper=True), setting))
    for metric in definition.metrics:
        for setting, name in filling.own.items():
            if metric.kind in ("", setting.kind):
                heading = " ".join(filter(None, (setting.kind, metric.label, name)))
                slots.append(ColumnSource(Column(heading, metric.key, in_paper=False), setting))
    return slots


def against_scratch(definition: Definition, filling: TableInputs) -> Iterable[str]:
    """Notes on pre-trained encoders beside one trained from scratch."""
    for subject in filling.subjects:
        for slot in _slots(definition, filling):
            ours = [
                (numbered(method, variant), filling.ours(slot, subject, method, variant))
                for method in filling.methods(definition)
                for variant in range(filling.count(method))
            ]
            heading = ", ".join(filter(None, (subject.label, slot.column.heading)))
            yield from notes.against_scratch(heading, ours, filling.declared(slot, subject))
