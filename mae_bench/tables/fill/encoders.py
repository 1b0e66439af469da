"""``table encoders``: encoders that no paper has, side by side. A row an encoder, a column a protocol, metric and data set.

A column holds figures on the same images alone: sets of one name that differ, or parts of them, stand in columns of their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from backbones.errors import UserError
from mae_bench.records.groups import once
from mae_bench.records.record import Record
from mae_bench.tables.definitions.subjects import recipe_key
from mae_bench.tables.fill import notes
from mae_bench.tables.fill.counting import measured
from mae_bench.tables.table import Cell, Column, Row, Table
from tasks import metric, spec

ENCODERS = "encoders"
TITLE = "Encoders: what each gives under the same protocols on the same data"
# Said below the table where they differ.
_ALIKE = ("schedule.epochs", "schedule.iterations", "train.batch_size", "optimizer.layer_decay")


class _Data(NamedTuple):
    """The same images, for training and evaluation."""

    protocol: str
    name: str
    fingerprint: str
    train_count: int
    val_count: int


class _Encoder(NamedTuple):
    """A row. Runs that differ in more than the seed are not averaged: they are `number` 2 and so on."""

    method: str
    arch: str
    start: str  # sha256 of the checkpoint
    number: int


def build_encoders(records: Iterable[Record], runs_dir: str | os.PathLike[str] | None) -> Table:
    """Finished runs of all protocols that evaluate something."""
    done = once([r for r in records if r.status == "done" and r.primary_metric])
    data = sorted({_data(r) for r in done})
    columns = [(each, key) for each in data for key in _metrics([r for r in done if _data(r) == each])]
    encoders = _encoders(done)
    rows = []
    for encoder, mine in encoders.items():
        cells = [_cell([r for r in mine if _data(r) == each], key, runs_dir) for each, key in columns]
        rows.append(Row(_label(encoder, encoders), tuple(cells)))
    return Table(
        name=ENCODERS,
        title=TITLE,
        columns=tuple(Column(_heading(each, key, data), key, in_paper=False) for each, key in columns),
        rows=tuple(rows),
        notes=tuple(_notes(done, data)),
    )


def _data(record: Record) -> _Data:
    data = record.data
    return _Data(record.protocol, data.name, data.fingerprint, data.train_count, data.val_count)


def _metrics(records: Sequence[Record]) -> list[str]:
    """Those that stand for a run of the task, as far as any of these has them, and how its head was chosen."""
    known = []
    for record in records:
        try:
            headlines: Sequence[str] = spec(record.task).headlines
        except UserError:  # a task of a package that is not installed here
            headlines = ()
        known += [key for key in headlines if key in record.metrics.last] or [record.primary_metric]
    return list(dict.fromkeys(known))


def _encoders(records: Sequence[Record]) -> dict[_Encoder, list[Record]]:
    """Runs by row: of one encoder, those of several recipes for the same data make several rows."""
    rows: dict[_Encoder, list[Record]] = {}
    recipes: dict[tuple[tuple[str, str, str], _Data], list[str]] = {}
    for record in records:
        start = record.init.sha256 or ""
        encoder = (record.init.method, record.arch, start)
        seen = recipes.setdefault((encoder, _data(record)), [])
        if record.recipe_hash not in seen:
            seen.append(record.recipe_hash)
        rows.setdefault(_Encoder(*encoder, 1 + seen.index(record.recipe_hash)), []).append(record)
    return dict(sorted(rows.items()))


def _label(encoder: _Encoder, all_: Iterable[_Encoder]) -> str:
    namesakes = {e.start for e in all_ if (e.method, e.arch) == (encoder.method, encoder.arch)}
    label = (
        encoder.method if encoder.arch.removeprefix("timm:") in encoder.method else f"{encoder.method} ({encoder.arch})"
    )
    if len(namesakes) > 1:
        label += f", checkpoint {encoder.start[:8]}"
    return label if encoder.number == 1 else f"{label} #{encoder.number}"


def _cell(records: Sequence[Record], key: str, runs_dir: str | os.PathLike[str] | None) -> Cell:
    ours = measured(records, key, runs_dir) if records else None
    return Cell(ours=ours, decimals=metric(records[0].task, key).decimals if records else 1)


def _heading(data: _Data, key: str, all_: Sequence[_Data]) -> str:
    name = data.name
    alike = [each for each in all_ if (each.protocol, each.name) == (data.protocol, data.name)]
    if len(alike) > 1:
        name += f" ({data.train_count:,} + {data.val_count:,} images, data {data.fingerprint[:8]})"
    return f"{data.protocol}: {key}, {name}"


def _notes(records: Sequence[Record], data: Sequence[_Data]) -> Iterator[str]:
    if not records:
        yield "ours: no finished run fills this table"
        return
    yield notes.selection(records)
    for each in data:
        mine = [r for r in records if _data(r) == each]
        if len(chosen := sorted({r.metrics.selection for r in mine})) > 1 or "heads" in chosen[0]:
            yield f"{each.protocol}, {each.name}: {'; '.join(chosen)}"
        for key in _ALIKE:
            values: dict[str, list[str]] = {}
            for record in mine:
                values.setdefault(str(recipe_key(record, key)), []).append(record.init.method)
            if len(values) > 1:
                said = "; ".join(f"{value}: {', '.join(sorted(set(who)))}" for value, who in sorted(values.items()))
                yield f"{each.protocol}, {each.name}: {key} differs ({said})"
    sizes: dict[str, set[str]] = {}
    for record in records:
        sizes.setdefault(record.init.method, set()).add(f"{record.img_size} ({record.protocol})")
    yield "input in pixels: " + "; ".join(f"{method} {', '.join(sorted(of))}" for method, of in sorted(sizes.items()))
    yield from notes.assumed(records)
    yield notes.recipes(records)
    yield from notes.left_out(records)
