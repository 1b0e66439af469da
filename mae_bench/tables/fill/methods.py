"""Joins a definition with records: which record fills which cell, which runs make a mean, which notes apply.

What is never done: average over different recipes, checkpoints or data; set a figure of another data set, of
a part of the paper's, or of another input size against a published one.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from backbones.errors import unknown
from mae_bench.records.groups import once
from mae_bench.records.record import Record
from mae_bench.tables.definitions import definitions, published
from mae_bench.tables.definitions.ablations import ABLATIONS, TABLE1
from mae_bench.tables.definitions.data_sets import bare, is_whole
from mae_bench.tables.definitions.schema import ANY, Definition, Subject
from mae_bench.tables.fill import arrange as layout
from mae_bench.tables.fill import expected_recipe, notes
from mae_bench.tables.fill.ablations import build_ablation
from mae_bench.tables.fill.arrange import ColumnKey, Key, TableInputs
from mae_bench.tables.fill.encoders import ENCODERS, build_encoders
from mae_bench.tables.fill.wall_clock import build_table2
from mae_bench.tables.table import Table


@dataclass(frozen=True)
class Entry:
    """A record with what it is about, its row or column, and what stands in the same column."""

    record: Record
    subject: Any  # key
    method: str
    setting: ColumnKey


def names() -> list[str]:
    """The tables that there are."""
    return [
        TABLE1,
        *(a.name for a in ABLATIONS),
        "table2",
        *(definition.name for definition in definitions()),
        ENCODERS,
    ]


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
    if name == ENCODERS:
        return build_encoders(records, runs_dir)
    if name == "table2":
        return build_table2(records, runs_dir)
    ablations = [a for a in ABLATIONS if a.name == name or (name == TABLE1 and a.name.startswith(TABLE1))]
    built = [build_ablation(ablation, records, runs_dir=runs_dir) for ablation in ablations]
    if name == TABLE1:
        return Table(name, "Table 1: ablations of MAE, ImageNet-1K, top-1 accuracy (%)", parts=tuple(built))
    if built:
        return built[0]
    definition = next(d for d in definitions() if d.name == name)
    return _build_methods(definition, records, runs_dir)


def _build_methods(definition: Definition, records: Sequence[Record], runs_dir: str | os.PathLike[str] | None) -> Table:
    candidates = [r for r in records if _belongs(definition, r)]
    entries = _entries(definition, once([r for r in candidates if r.status == "done"]))
    filling = TableInputs(
        runs=_variants(definition, entries),
        own=_own(definition, entries),
        subjects=_subjects(definition, entries),
        figures=_figures(definition),
        metric=definition.declared,
        runs_dir=runs_dir,
    )
    table = layout.by_subject(definition, filling) if definition.chart else layout.by_method(definition, filling)
    rows = layout.with_delta(definition.delta, table.rows) if definition.delta else table.rows
    unfinished = [record for record in candidates if record.status != "done"]
    return Table(
        name=definition.name,
        title=definition.title,
        columns=table.columns,
        rows=rows,
        sources=published.sources(rows),
        notes=(
            *_published_notes(definition),
            *definition.notes,
            *_run_notes(definition, entries, filling),
            *layout.against_scratch(definition, filling),
            *([notes.unfinished(unfinished)] if unfinished else []),
        ),
        factor=definition.subjects.heading if definition.chart else "",
        subject="" if definition.chart else definition.subjects.heading,
        chart=definition.chart,
    )


def _belongs(definition: Definition, record: Record) -> bool:
    if record.protocol not in (*definition.protocols, *definition.fallback_protocols):
        return False
    if definition.method(record) is None:
        return False
    key = definition.subjects.of(record)
    known = key in {subject.key for subject in definition.subjects.known}
    return key is not None and (known or definition.subjects.label is not None)


def _entries(definition: Definition, records: Sequence[Record]) -> list[Entry]:
    entries = [
        Entry(record, key, _label(definition, record), _setting(definition, key, record))
        for record in records
        for key in (definition.subjects.of(record),)
    ]
    filled = {(e.subject, e.method, e.setting) for e in entries if e.record.protocol in definition.protocols}
    return [
        e
        for e in entries
        if e.record.protocol in definition.protocols or (e.subject, e.method, e.setting) not in filled
    ]


def _label(definition: Definition, record: Record) -> str:
    """The row of a record: "moco_v3" goes to the paper's "MoCo v3"; an unknown method makes its own row."""
    known = {bare(method.label): method.label for method in definition.methods}
    name = definition.method(record) or ""
    return known.get(bare(name), name)


def _setting(definition: Definition, key: Any, record: Record) -> ColumnKey:
    kind = definition.kind(record)
    shape = ColumnKey(ANY if definition.by_arch else record.arch, record.img_size, kind=kind)
    in_paper = (*shape[:2], kind) in {(column.arch, column.img_size, column.kind) for column in definition.columns}
    paper = definition.paper_data(kind)
    data = [subject.data or paper for subject in definition.subjects.known if subject.key == key]
    whole = any(is_whole(one, record) for one in data or [paper])
    if in_paper and whole and _label(definition, record) not in definition.never_compared:
        if not _other_recipe(definition, record):
            return shape
        return shape._replace(data=record.data.name, recipe=expected_recipe.label(record))
    if not definition.own_columns_by:
        return shape._replace(data="whole" if whole else "part")
    return shape._replace(data=record.data.name, fingerprint=_images(definition, record))


def _other_recipe(definition: Definition, record: Record) -> tuple[str, ...]:
    """In what a record's recipe differs from the one that its cell of the paper stands for."""
    return expected_recipe.differences(record, definition.recipe_of(record), definition.recipe_leaves_open)


def _own(definition: Definition, entries: Sequence[Entry]) -> dict[ColumnKey, str]:
    """The settings that the paper has not, with their headings."""
    own = sorted({e.setting for e in entries if e.setting.data})
    return {setting: _heading(definition, setting, own, entries) for setting in own}


def _heading(definition: Definition, setting: ColumnKey, own: Sequence[ColumnKey], entries: Sequence[Entry]) -> str:
    """``vit_micro_patch8, embedded``, with input size and data fingerprint where that is not enough."""
    if setting.recipe:
        return f"{setting.arch}, {setting.img_size} px, recipe {setting.recipe}".removeprefix(", ")
    if not definition.own_columns_by:
        part = ", part of the data" if setting.data == "part" and _has_column(definition, setting) else ""
        return f"{setting.arch}, {setting.img_size} px{part}"
    record = next(e.record for e in entries if e.setting == setting)
    paper = definition.paper_data(setting.kind)
    whole = is_whole(paper, record) or definition.own_columns_by == "val"
    part = "part of " if setting.data == paper.name and not whole else ""
    heading = ", ".join(filter(None, (setting.arch, f"{part}{setting.data}")))
    namesakes = [o for o in own if (o.arch, o.data, o.kind) == (setting.arch, setting.data, setting.kind)]
    if (whole and setting.data == paper.name) or len({other.img_size for other in namesakes}) > 1:
        heading += f", {setting.img_size} px"
    if len([other for other in namesakes if other.img_size == setting.img_size]) > 1:
        heading += f", data {setting.fingerprint[:8]}"
    return heading


def _has_column(definition: Definition, setting: ColumnKey) -> bool:
    return (setting.arch, setting.img_size) in {(column.arch, column.img_size) for column in definition.columns}


def _subjects(definition: Definition, entries: Sequence[Entry]) -> list[Subject]:
    """Those of the paper, and those that only our records have, in the order of their keys."""
    known = list(definition.subjects.known)
    label = definition.subjects.label
    if label is None:
        return known
    new = {e.subject for e in entries} - {subject.key for subject in known}
    ours = [Subject(label(key), key) for key in sorted(new)]
    if any(isinstance(subject.key, str) for subject in known):
        return [*known, *ours]
    return sorted([*known, *ours], key=lambda subject: subject.key)


def _variants(definition: Definition, entries: Sequence[Entry]) -> dict[Key, list[Record]]:
    """Runs that differ in nothing but the seed, by cell and number of variant.

    A variant is a checkpoint and a recipe for each subject: one number stands for one checkpoint in all rows.
    """
    runs: dict[Key, list[Record]] = defaultdict(list)
    taken: dict[tuple[str, ColumnKey], int] = defaultdict(int)
    by_checkpoint: dict[tuple[str, ColumnKey, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        by_checkpoint[entry.method, entry.setting, entry.record.init.sha256 or ""].append(entry)
    for (method, setting, _), group in by_checkpoint.items():
        numbers: dict[Any, dict[tuple[str, ...], int]] = defaultdict(dict)
        for entry in group:
            recipe = (entry.record.recipe_hash, _images(definition, entry.record))
            number = numbers[entry.subject].setdefault(recipe, len(numbers[entry.subject]))
            runs[Key(entry.subject, method, setting, taken[method, setting] + number)].append(entry.record)
        taken[method, setting] += max(map(len, numbers.values()))
    return {key: sorted(group, key=lambda r: r.seed) for key, group in runs.items()}


def _images(definition: Definition, record: Record) -> str:
    """Fingerprint of a record's images, or of the validation images alone (it is "train+val")."""
    fingerprint = record.data.fingerprint
    return fingerprint.rpartition("+")[2] if definition.own_columns_by == "val" else fingerprint


def _figures(definition: Definition) -> layout.PublishedValues:
    found: layout.PublishedValues = {}
    for where in definition.published:
        table = published.load()["tables"][where.table]
        figures = published.long(table, *where.long) if where.long else published.wide(table)
        if where.cells is not None:
            found |= {cell: figures[place] for cell, place in where.cells.items() if place in figures}
            continue
        for subject in definition.subjects.known:
            for method in definition.methods:
                for column in definition.columns:
                    names = {"subject": subject.published, "method": method.published, "column": column.published}
                    figure = figures.get((names[where.row] or "", names[where.column] or ""))
                    if figure and column.published is not None and where.method in (None, method.label):
                        found[subject.label, method.label, column.heading] = figure
    return found


def _published_notes(definition: Definition) -> Iterable[str]:
    labels = {m.published: m.label for m in definition.methods} | {
        s.published: s.label for s in definition.subjects.known
    }
    for where in definition.published:
        for row, remark in published.notes(published.load()["tables"][where.table]).items():
            yield f"published, {labels.get(row, row)}: {remark}"


def _run_notes(definition: Definition, entries: Sequence[Entry], filling: TableInputs) -> Iterable[str]:
    if not entries:
        yield "ours: no finished run fills this table"
        return
    yield notes.selection([e.record for e in entries])
    yield notes.recipes(e.record for e in entries)
    papers = [e.record for e in entries if not e.setting.data]
    if which := sorted({name for record in papers if (name := definition.recipe_of(record))}):
        yield f"the paper's columns hold runs of {', '.join(which)} alone"
    yield from notes.precision(e.record for e in entries)
    yield from notes.left_out(e.record for e in entries)
    yield from notes.absent_classes(e.record for e in entries)
    yield from notes.assumed([e.record for e in entries])
    for setting, heading in filling.own.items():
        these = [e.record for e in entries if e.setting == setting]
        named = " ".join(filter(None, (setting.kind, heading)))
        if setting.recipe and (expected := definition.recipe_of(these[0])):
            yield expected_recipe.note(named, expected, _other_recipe(definition, these[0]))
            continue
        yield notes.own_setting(definition.paper_data(setting.kind), named, these)
    if definition.fallback_note and any(e.record.protocol not in definition.protocols for e in entries):
        yield definition.fallback_note
    for row, why in definition.never_compared.items():
        if any(e.method == row for e in entries):
            yield f"{row}, ours: {why}"
    groups: dict[tuple[str, ColumnKey], dict[int, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for key, group in filling.runs.items():
        groups[key.method, key.setting][key.variant] += group
    for (method, setting), variants in groups.items():
        if len(variants) > 1:
            paper = ", ".join(filter(None, (setting.arch, definition.paper_data(setting.kind).name)))
            heading = " ".join(filter(None, (setting.kind, filling.own.get(setting, paper))))
            yield notes.variants(method, heading, [variants[number] for number in sorted(variants)])
