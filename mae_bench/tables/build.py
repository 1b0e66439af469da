"""Joins a definition with records: which record fills which cell, which runs make a mean, which notes apply.

What is never done: average over different recipes, checkpoints or data; set a figure of another data set, of
a part of the paper's, or of another input size against a published one.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from backbones.errors import unknown
from mae_bench.record import Record
from mae_bench.tables import notes, published
from mae_bench.tables.ablation import build_ablation
from mae_bench.tables.ablation_definitions import ABLATIONS, TABLE1
from mae_bench.tables.counting import is_whole, measured, once
from mae_bench.tables.definitions import DEFINITIONS, Definition, Method
from mae_bench.tables.model import Cell, Column, Row, Table


class Setting(NamedTuple):
    """What a column stands for; `fingerprint` is empty where it is the paper's own (arch, size, data set)."""

    data: str
    arch: str
    img_size: int
    fingerprint: str = ""


@dataclass(frozen=True)
class Slot:
    """A column and what fills it: our records of `setting`, the paper's key `published`; one may be None."""

    column: Column
    setting: Setting | None
    published: str | None


# method -> setting -> variants -> runs that differ in nothing but the seed
Runs = dict[str, dict[Setting, list[list[Record]]]]


def names() -> list[str]:
    """The tables that there are."""
    return [TABLE1, *(a.name for a in ABLATIONS), *(definition.name for definition in DEFINITIONS)]


def build(name: str, records: Iterable[Record], *, runs_dir: str | os.PathLike[str] | None = None) -> Table:
    """The table `name` with these records' figures next to the published ones.

    Args:
        name: one of `names()`.
        records: any; those of other tasks are left aside.
        runs_dir: folder that the records' paths are given relative to.

    Raises:
        UserError: no such table; names the nearest.
    """
    if name not in names():
        raise unknown("table", name, names())
    records = list(records)
    ablations = [a for a in ABLATIONS if a.name == name or (name == TABLE1 and a.name.startswith(TABLE1))]
    built = [build_ablation(ablation, records, runs_dir=runs_dir) for ablation in ablations]
    if name == TABLE1:
        return Table(name, "Table 1: ablations of MAE, ImageNet-1K, top-1 accuracy (%)", parts=tuple(built))
    if built:
        return built[0]
    definition = next(d for d in DEFINITIONS if d.name == name)
    return _build_methods(definition, records, runs_dir)


def _build_methods(definition: Definition, records: Sequence[Record], runs_dir: str | os.PathLike[str] | None) -> Table:
    """A table whose rows are methods of pre-training."""
    candidates = [r for r in records if r.task == definition.task and r.protocol in definition.protocols]
    runs = _group(definition, once([r for r in candidates if r.status == "done"]))
    own = _own(definition, runs)
    slots = _slots(definition, own)
    rows = tuple(_rows(definition, runs, slots, runs_dir))
    used = {key for row in rows for cell in row.cells for key in cell.sources}
    footnotes = [
        *_published_notes(definition),
        *_run_notes(definition, runs, own),
        *_row_notes(slots, rows),
    ]
    if unfinished := [record for record in candidates if record.status != "done"]:
        footnotes.append(notes.unfinished(unfinished))
    return Table(
        name=definition.name,
        title=definition.title,
        columns=tuple(slot.column for slot in slots),
        rows=rows,
        sources={key: text for key, text in published.load()["sources"].items() if key in used},
        notes=tuple(footnotes),
    )


def _group(definition: Definition, records: Sequence[Record]) -> Runs:
    variants: dict[tuple[str, Setting], dict[tuple[str, ...], list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        same = (record.recipe_hash, record.init.sha256 or "", record.data.fingerprint)
        variants[_label(definition, record), _setting(definition, record)][same].append(record)
    runs: Runs = defaultdict(dict)
    for (method, setting), groups in variants.items():
        runs[method][setting] = [sorted(group, key=lambda r: r.seed) for group in groups.values()]
    return runs


def _label(definition: Definition, record: Record) -> str:
    """The row of a record: "moco_v3" goes to the paper's "MoCo v3"; an unknown method makes its own row."""

    def bare(text: str) -> str:
        return "".join(char for char in text.casefold() if char.isalnum())

    known = {bare(method.label): method.label for method in definition.methods}
    return known.get(bare(record.init.method), record.init.method)


def _setting(definition: Definition, record: Record) -> Setting:
    shape = (record.arch, record.img_size)
    in_paper = shape in {(column.arch, column.img_size) for column in definition.columns}
    fingerprint = "" if in_paper and is_whole(definition.data, record) else record.data.fingerprint
    return Setting(record.data.name, *shape, fingerprint)


def _slots(definition: Definition, own: Mapping[Setting, str]) -> list[Slot]:
    """The paper's columns, then ours, by metric as the paper orders them."""
    slots = []
    for paper in definition.columns:
        setting = None
        if paper.arch is not None and paper.img_size is not None:
            setting = Setting(definition.data.name, paper.arch, paper.img_size)
        slots.append(Slot(Column(paper.heading, paper.metric, in_paper=True), setting, paper.published))
    for metric in definition.metrics:
        for setting, name in own.items():
            heading = f"{metric.label} {name}".strip()
            slots.append(Slot(Column(heading, metric.key, in_paper=False), setting, None))
    return slots


def _own(definition: Definition, runs: Runs) -> dict[Setting, str]:
    """The settings that the paper has not, with their headings."""
    own = sorted({setting for settings in runs.values() for setting in settings if setting.fingerprint})
    return {setting: _heading(definition, setting, own, runs) for setting in own}


def _heading(definition: Definition, setting: Setting, own: Sequence[Setting], runs: Runs) -> str:
    """``vit_micro_patch8, embedded``, with input size and data fingerprint where that is not enough."""
    record = next(v[0][0] for settings in runs.values() for s, v in settings.items() if s == setting)
    whole = is_whole(definition.data, record)
    part = setting.data == definition.data.name and not whole
    heading = f"{setting.arch}, {'part of ' if part else ''}{setting.data}"
    namesakes = [other for other in own if other[:2] == setting[:2]]
    if whole or len({other.img_size for other in namesakes}) > 1:
        heading += f", {setting.img_size} px"
    if len([other for other in namesakes if other.img_size == setting.img_size]) > 1:
        heading += f", data {setting.fingerprint[:8]}"
    return heading


def _rows(
    definition: Definition, runs: Runs, slots: Sequence[Slot], runs_dir: str | os.PathLike[str] | None
) -> Iterable[Row]:
    table = published.load()["tables"][definition.published]
    figures = published.long(table, *definition.long) if definition.long else published.wide(table)
    labels = {method.label for method in definition.methods}
    methods = [*definition.methods, *(Method(label) for label in sorted(runs) if label not in labels)]
    for method in methods:
        ours = runs.get(method.label, {})
        for variant in range(max([1, *(len(variants) for variants in ours.values())])):
            cells = []
            for slot in slots:
                figure = figures.get((method.published or "", slot.published or ""))
                variants = ours.get(slot.setting, []) if slot.setting else []
                group = variants[variant] if variant < len(variants) else []
                ours_here = measured(group, slot.column.metric, runs_dir)
                if figure is None or (variant and ours_here is None):
                    cells.append(Cell(ours=ours_here))
                else:
                    cells.append(Cell(figure.value, figure.sources, ours_here))
            if any(cell.published is not None or cell.ours for cell in cells):
                yield Row(method.label if variant == 0 else f"{method.label} #{variant + 1}", tuple(cells))


def _published_notes(definition: Definition) -> Iterable[str]:
    labels = {method.published: method.label for method in definition.methods}
    for row, remark in published.notes(published.load()["tables"][definition.published]).items():
        yield f"published, {labels.get(row, row)}: {remark}"


def _run_notes(definition: Definition, runs: Runs, own: Mapping[Setting, str]) -> Iterable[str]:
    by_setting: dict[Setting, list[Record]] = defaultdict(list)
    for settings in runs.values():
        for setting, groups in settings.items():
            by_setting[setting] += [record for group in groups for record in group]
    if not by_setting:
        yield "ours: no finished run fills this table"
        return
    everything = [record for records in by_setting.values() for record in records]
    yield notes.selection(everything)
    yield notes.recipes(everything)
    for setting, heading in own.items():
        yield notes.own_setting(definition.data, heading, by_setting[setting])
    for method, settings in runs.items():
        for setting, groups in settings.items():
            if len(groups) > 1:
                yield notes.variants(method, own.get(setting, f"{setting.arch}, {setting.data}"), groups)


def _row_notes(slots: Sequence[Slot], rows: Sequence[Row]) -> Iterable[str]:
    for index, slot in enumerate(slots):
        ours = [(row.method, row.cells[index].ours) for row in rows]
        yield from notes.no_help(slot.column.heading, ours)
