"""Joins an ablation with records: which pre-training is which row, what may stand beside a published figure.

A cell is filled by records whose pre-training has the row's settings and changes nothing but what the ablation varies: the
unchanged default fills every row whose value is its own. Definitions are in `mae_bench.tables.definitions.ablations`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from mae_bench.records.groups import once, place
from mae_bench.records.record import Record
from mae_bench.tables.definitions import published
from mae_bench.tables.definitions.ablations import (
    PAPER_IMG_SIZE,
    PAPER_RECIPES,
    Ablation,
    AblationColumn,
    AblationRow,
)
from mae_bench.tables.definitions.data_sets import IMAGENET, is_whole, is_whole_count
from mae_bench.tables.fill import expected_recipe, notes
from mae_bench.tables.fill.counting import measured
from mae_bench.tables.table import Cell, Column, Measured, Row, Table

Folder = str | os.PathLike[str] | None


class ColumnKey(NamedTuple):
    """What stands in the same columns: equal in all but the row. The paper's own has no fingerprint."""

    arch: str
    img_size: int
    fingerprint: str  # of the data that are evaluated on
    default: str  # the pre-training's settings that the ablation leaves alone, as JSON
    recipe: str = ""  # of runs that are the paper's in all else


def _papers(ablation: Ablation) -> ColumnKey:
    return ColumnKey(ablation.arch, PAPER_IMG_SIZE, "", "")


@dataclass(frozen=True)
class Entry:
    """A record with its row and columns."""

    record: Record
    row: AblationRow
    setting: ColumnKey

    @property
    def pretraining(self) -> dict[str, Any]:
        return self.record.init.pretraining or {}


def build_ablation(ablation: Ablation, records: Sequence[Record], *, runs_dir: Folder = None) -> Table:
    """The table of an ablation; records of other tasks, of other settings or without known pre-training are left aside."""
    ablation = _with_own_rows(ablation, records)
    protocols = {column.protocol for column in ablation.columns}
    candidates = [e for r in records if r.protocol in protocols and (e := _entry(ablation, r))]
    done = {id(r) for r in once([e.record for e in candidates if e.record.status == "done"])}
    entries = sorted((e for e in candidates if id(e.record) in done), key=lambda e: (e.record.started, e.record.seed))
    papers = _papers(ablation)
    own = sorted({e.setting for e in entries} - {papers})
    others = [setting for setting in own if not setting.recipe]
    numbers = {setting: f" {i}" if len(others) > 1 else "" for i, setting in enumerate(others, 1)}
    numbers |= {setting: f", recipe {setting.recipe}" for setting in own if setting.recipe}
    columns = [_column(c, c.heading, f"ViT-L, {IMAGENET.title}", in_paper=True) for c in ablation.columns]
    for s in own:
        title = f"ours{numbers[s]}: {s.arch}, {next(e.record.data.name for e in entries if e.setting == s)}"
        columns += [
            _column(c, f"our {c.heading}{numbers[s]}", title, in_paper=False) for c in _columns(ablation, s, entries)
        ]
    rows = tuple(row for value in ablation.rows for row in _rows(ablation, value, entries, [papers, *own], runs_dir))
    unfinished = [e.record for e in candidates if e.record.status != "done"]
    return Table(
        name=ablation.name,
        title=ablation.title,
        columns=tuple(columns),
        rows=rows,
        sources=published.sources(rows),
        notes=(
            *_notes(ablation, entries, {s: f"ours{number}" for s, number in numbers.items()}),
            *([notes.unfinished(unfinished)] if unfinished else []),
        ),
        factor=ablation.factor,
        chart=ablation.chart,
    )


def _column(column: AblationColumn, heading: str, setting: str, *, in_paper: bool) -> Column:
    return Column(heading, column.metric, in_paper, column.unit, measure=column.heading, setting=setting, series="MAE")


def _with_own_rows(ablation: Ablation, records: Sequence[Record]) -> Ablation:
    """With rows for what our runs vary and the paper has not; one value alone shows nothing of it, and gets none."""
    if not ablation.own_values:
        return ablation
    (key,) = ablation.keys
    protocols = {column.protocol for column in ablation.columns}
    ours = {said["settings"][key] for r in records if r.protocol in protocols and (said := _said(ablation, r))}
    if len(ours) < 2:
        return ablation
    papers = {row.settings[key] for row in ablation.rows}
    own = [AblationRow(f"{value:g}", {key: value}, None, x=value) for value in ours - papers]
    return replace(ablation, rows=tuple(sorted((*ablation.rows, *own), key=lambda row: row.x or 0)))


def _said(ablation: Ablation, record: Record) -> dict[str, Any] | None:
    """What a record says of its pre-training, None where that changes more than the ablation varies."""
    said = record.init.pretraining
    return None if said is None or set(said["changed"]) - set(ablation.keys) else said


def _entry(ablation: Ablation, record: Record) -> Entry | None:
    said = _said(ablation, record)
    if said is None:
        return None
    row = next((value for value in ablation.rows if _holds(said["settings"], value.settings)), None)
    return Entry(record, row, _setting(ablation, row, record)) if row else None


def _holds(settings: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(key in settings and _equal(settings[key], value) for key, value in wanted.items())


def _equal(ours: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return isinstance(ours, list) and len(ours) == len(wanted) and all(map(_equal, ours, wanted))
    if isinstance(wanted, (str, bool)) or not isinstance(ours, (int, float)):
        return bool(ours == wanted)
    return math.isclose(ours, wanted)


def _setting(ablation: Ablation, row: AblationRow, record: Record) -> ColumnKey:
    said = record.init.pretraining or {}
    rest = {key: value for key, value in said["settings"].items() if key not in ablation.keys}
    paper = ablation.paper
    paper = paper if row.default else {key: value for key, value in paper.items() if key not in ablation.keys}
    as_paper = (
        (record.arch, record.img_size) == _papers(ablation)[:2]
        and is_whole(IMAGENET, record)
        and is_whole_count(IMAGENET, said.get("images"))
        and _holds(said["settings"], paper)
        and not row.apart
    )
    if as_paper:
        other = expected_recipe.differences(record, _paper_recipe(ablation, record.protocol))
        return _papers(ablation)._replace(recipe=expected_recipe.label(record) if other else "")
    return ColumnKey(record.arch, record.img_size, record.data.fingerprint, json.dumps(rest, sort_keys=True))


def _paper_recipe(ablation: Ablation, protocol: str) -> str:
    return PAPER_RECIPES[protocol].format(arch=ablation.arch)


def _columns(ablation: Ablation, setting: ColumnKey, entries: Sequence[Entry]) -> list[AblationColumn]:
    """The columns of a setting; one that stands apart for its recipe has those of its protocol alone."""
    protocols = {e.record.protocol for e in entries if e.setting == setting}
    return [column for column in ablation.columns if not setting.recipe or column.protocol in protocols]


def _rows(
    ablation: Ablation, value: AblationRow, entries: Sequence[Entry], settings: Sequence[ColumnKey], runs_dir: Folder
) -> Iterable[Row]:
    """The row of a value: one, or one a checkpoint and recipe where there are several, since those are not averaged."""
    figures = published.row(published.load()["tables"][ablation.published], value.published, value.where)
    mine = [e for e in entries if e.row is value]
    variants = {s: _variants([e for e in mine if e.setting == s]) for s in settings}
    for i in range(max([1, *map(len, variants.values())])):
        cells = []
        for setting in settings:
            group = variants[setting][i] if i < len(variants[setting]) else []
            for column in _columns(ablation, setting, entries):
                ours = _figure(column, group, entries, runs_dir)
                figure = figures.get(column.published) if setting == _papers(ablation) else None
                if figure is None or (i and ours is None):
                    cells.append(Cell(ours=ours))
                else:
                    cells.append(figure.cell(ours))
        yield Row(f"{value.label} #{i + 1}" if i else value.label, tuple(cells), value.default, x=value.x)


def _variants(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries by checkpoint; within one, several recipes of a protocol make several variants."""
    variants: list[list[Entry]] = []
    for sha in dict.fromkeys(e.record.init.sha256 for e in entries):
        ordinal: dict[str, dict[str, int]] = {}
        by_number: dict[int, list[Entry]] = {}
        for entry in (e for e in entries if e.record.init.sha256 == sha):
            recipes = ordinal.setdefault(entry.record.protocol, {})
            by_number.setdefault(recipes.setdefault(entry.record.recipe_hash, len(recipes)), []).append(entry)
        variants += [by_number[number] for number in sorted(by_number)]
    return variants


def _figure(
    column: AblationColumn, group: Sequence[Entry], entries: Sequence[Entry], runs_dir: Folder
) -> Measured | None:
    if column.protocol is not None:
        return measured([e.record for e in group if e.record.protocol == column.protocol], column.metric, runs_dir)
    if column.metric != "flops_ratio":
        return None
    counted = next((e for e in group if e.pretraining.get("flops_per_image")), None)
    if counted is None:
        return None
    default = next((e for e in entries if e.row.default and e.setting == counted.setting), None)
    if default is None or not default.pretraining.get("flops_per_image"):
        return None
    ratio = counted.pretraining["flops_per_image"] / default.pretraining["flops_per_image"]
    return Measured((ratio,), (place(counted.record, runs_dir),), (counted.record.seed,))


def _notes(ablation: Ablation, entries: Sequence[Entry], own: Mapping[ColumnKey, str]) -> Iterable[str]:
    if not entries:
        yield "ours: no finished run fills this table"
        return
    records = [e.record for e in entries]
    yield notes.selection(records)
    yield notes.recipes(records)
    yield from _recipe_notes(ablation, entries, own)
    yield from notes.precision(records)
    yield from notes.left_out(records)
    yield from notes.absent_classes(records)
    yield from notes.assumed(records)
    if any(column.metric == "flops_ratio" for column in ablation.columns):
        yield (
            "FLOPs: matrix products of one image's pre-training step, forward and backward, counted by torch, as a multiple "
            "of those without mask tokens in the encoder"
        )
    for setting, heading in own.items():
        if setting.recipe:
            continue
        these = [e for e in entries if e.setting == setting]
        yield notes.own_setting(IMAGENET, heading, [e.record for e in these])
        unchanged = [e.pretraining["settings"] for e in these if not e.pretraining["changed"]]
        images = sorted({e.pretraining["images"] for e in these if "images" in e.pretraining})
        yield notes.own_default(
            heading, unchanged[0] if unchanged else json.loads(setting.default), ablation.paper, images
        )
    for value in ablation.rows:
        mine = [e for e in entries if e.row is value]
        if mine and value.apart:
            yield f"{value.label}, ours: {value.apart}"
        if value.note and any(e.setting == _papers(ablation) and e.record.protocol == "finetune" for e in mine):
            yield f"{value.label}: {value.note}"
        for setting in dict.fromkeys(e.setting for e in mine):
            variants = _variants([e for e in mine if e.setting == setting])
            if len(variants) > 1:
                yield notes.variants(value.label, own.get(setting, "paper"), [[e.record for e in v] for v in variants])


def _recipe_notes(ablation: Ablation, entries: Sequence[Entry], own: Mapping[ColumnKey, str]) -> Iterable[str]:
    """Which recipes the paper's columns stand for, and the columns of others."""
    papers = [e.record for e in entries if e.setting == _papers(ablation)]
    if papers:
        which = sorted({_paper_recipe(ablation, record.protocol) for record in papers})
        yield f"the paper's columns hold runs of {' and '.join(which)} alone"
    for setting, heading in own.items():
        if setting.recipe:
            one = next(e.record for e in entries if e.setting == setting)
            expected = _paper_recipe(ablation, one.protocol)
            yield expected_recipe.note(heading, expected, expected_recipe.differences(one, expected))
