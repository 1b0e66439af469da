"""Table 2, what pre-training costs: the paper's rows; ours from ``speed.json`` files and from records.

Hours of different machines are never subtracted from each other, nor are those that were run from those that were computed.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mae_bench.records import speed as speed_file
from mae_bench.records.groups import once, place
from mae_bench.records.record import Record
from mae_bench.records.speed import Speed
from mae_bench.tables.definitions import published
from mae_bench.tables.definitions.ablations import Ablation, AblationColumn, AblationRow
from mae_bench.tables.definitions.classification import HUGE, LARGE
from mae_bench.tables.definitions.subjects import recipe_key
from mae_bench.tables.fill import notes
from mae_bench.tables.fill.ablations import build_ablation
from mae_bench.tables.fill.counting import measured_by
from mae_bench.tables.table import Cell, Column, Measured, Row, Table

TITLE = "Table 2: wall-clock of pre-training, 800 epochs on ImageNet-1K"
_FACTOR = "encoder, decoder depth"
_TOKENS, _DEPTH = "mae.encoder_mask_tokens", "mae.decoder_depth"
_CASES = ((True, 8), (False, 8), (False, 1))
_MODELS = {LARGE: "ViT-L", HUGE: "ViT-H"}


class Case(NamedTuple):
    """A row: what was pre-trained."""

    arch: str
    encoder_mask_tokens: bool
    decoder_depth: int

    @property
    def label(self) -> str:
        """As the paper names it, with the decoder's depth."""
        model = _MODELS.get(self.arch, self.arch)
        return f"{model}{', w/ [M]' if self.encoder_mask_tokens else ''}, {self.decoder_depth}"

    def order(self) -> tuple[str, bool, int]:
        """As the paper orders its rows: with mask tokens in the encoder first, then from deep to shallow decoders."""
        return self.arch, not self.encoder_mask_tokens, -self.decoder_depth


@dataclass(frozen=True)
class Timed:
    """Columns that were measured on one machine: (column, case -> figure)."""

    columns: list[tuple[Column, dict[Case, Measured]]]
    note: str


def build_table2(records: Sequence[Record], runs_dir: str | os.PathLike[str] | None = None) -> Table:
    """The paper's six rows, and those of other encoders that were timed."""
    speeds = speed_file.find(runs_dir) if runs_dir is not None else []
    return _table(list(_MODELS), records, [*_measured(speeds, runs_dir), *_run(records, runs_dir)], runs_dir)


def table2_of(speed: Speed) -> Table:
    """Table 2 of one measurement alone: the rows of its architecture, beside the paper's where the paper has it."""
    return _table([arch for arch in _MODELS if arch == speed.arch], [], list(_measured([(Path(), speed)], None)), None)


def _table(
    models: Sequence[str], records: Sequence[Record], timed: Sequence[Timed], runs_dir: str | os.PathLike[str] | None
) -> Table:
    accuracies = [build_ablation(_ablation(arch), records, runs_dir=runs_dir) for arch in models]
    numbers = [f" {i}" if len(timed) > 1 else "" for i in range(1, len(timed) + 1)]
    columns = [c for c in accuracies[0].columns if c.in_paper] if accuracies else []
    rows = []
    for arch, table in zip(models, accuracies, strict=True):
        kept = [i for i, column in enumerate(table.columns) if column.in_paper]
        by_label = {Case(arch, *case).label: Case(arch, *case) for case in _CASES}
        for row in table.rows:
            theirs = [row.cells[i] for i in kept]
            if row.method in by_label or any(cell.ours for cell in theirs):
                ours = _cells(timed, by_label.get(row.method))
                rows.append(Row(row.method, (*theirs, *ours)))
    known = {Case(arch, *case) for arch in models for case in _CASES}
    others = sorted({case for t in timed for _, figures in t.columns for case in figures} - known, key=Case.order)
    rows += [Row(case.label, (*(Cell() for _ in columns), *_cells(timed, case))) for case in others]
    for t, number in zip(timed, numbers, strict=True):
        columns += [Column(f"{c.heading}{number}", c.metric, c.in_paper, c.unit) for c, _ in t.columns]
    return Table(
        name="table2",
        title=TITLE,
        columns=tuple(columns),
        rows=tuple(rows),
        sources=published.sources(rows),
        notes=(*(_notes() if models else ()), *_own_notes(timed, numbers), *_accuracy_notes(accuracies)),
        factor=_FACTOR,
    )


def _ablation(arch: str) -> Ablation:
    """The paper's rows of one architecture; hours and speed-ups are published only."""
    model = _MODELS[arch]
    return Ablation(
        name="table2",
        title=TITLE,
        published="mae_t2",
        factor=_FACTOR,
        keys=(_TOKENS, _DEPTH),
        rows=tuple(
            AblationRow(
                Case(arch, tokens, depth).label,
                {_TOKENS: tokens, _DEPTH: depth},
                f"{model}, w/ [M]" if tokens else model,
                {"dec_depth": depth},
                default=(tokens, depth) == (False, 8),
            )
            for tokens, depth in _CASES
        ),
        columns=(
            AblationColumn("ft acc", "ft_acc", "finetune"),
            AblationColumn("hours", "hours", None, metric="hours"),
            AblationColumn("speed-up", "speedup", None, unit="x", metric="speedup"),
        ),
        arch=arch,
    )


def _cells(timed: Sequence[Timed], case: Case | None) -> list[Cell]:
    return [Cell(ours=figures.get(case) if case else None) for t in timed for _, figures in t.columns]


def _measured(speeds: Sequence[tuple[Path, Speed]], runs_dir: str | os.PathLike[str] | None) -> Iterable[Timed]:
    """Measurements of steps, hours computed from their rate. Of the same measurement the last by path counts."""
    groups: dict[tuple[object, ...], dict[str, tuple[Path, Speed]]] = defaultdict(dict)
    for path, speed in speeds:
        setting = (speed.device, speed.precision, speed.compiled, speed.epochs, speed.images, speed.batch_size)
        groups[setting][speed.arch] = (path, speed)
    for group in groups.values():
        yield _timed_steps(list(group.values()), runs_dir)


def _timed_steps(group: Sequence[tuple[Path, Speed]], runs_dir: str | os.PathLike[str] | None) -> Timed:
    """One machine's columns. Slow machines and small models get units in which their figures can be read."""
    rows = [row for _, speed in group for row in speed.rows]
    slow = min(row.images_per_s for row in rows) < 1
    giga = max(row.flops_per_image for row in rows) >= 1e10
    columns = (
        Column("hours, computed", "hours", False),
        Column("speed-up, measured", "speedup", False, unit="x"),
        Column(f"images/{'min' if slow else 's'}, measured", "images_per_s", False),
        Column("GFLOPs/image" if giga else "MFLOPs/image", "flops_per_image", False),
    )
    figures: list[dict[Case, Measured]] = [{} for _ in columns]
    for path, speed in group:
        where = path.relative_to(runs_dir).as_posix() if runs_dir is not None else path.as_posix()
        for row in speed.rows:
            case = Case(speed.arch, row.encoder_mask_tokens, row.decoder_depth)
            rate = row.images_per_s * (60 if slow else 1)
            flops = row.flops_per_image / (1e9 if giga else 1e6)
            for into, figure in zip(figures, (row.hours, row.speedup, rate, flops), strict=True):
                into[case] = Measured((figure,), (where,), ())
    _, speed = group[0]
    return Timed(
        list(zip(columns, figures, strict=True)),
        f"measured on {speed.device}: {speed.precision}{', compiled' if speed.compiled else ''}, batch {speed.batch_size}, "
        f"{speed.steps} steps on random images; hours: {speed.epochs:g} epochs of {speed.images:,} images at that rate, "
        "computed, not run; speed-up against mask tokens in the encoder; FLOPs: matrix products of one image's step, forward "
        "and backward",
    )


def _run(records: Sequence[Record], runs_dir: str | os.PathLike[str] | None) -> Iterable[Timed]:
    """Pre-trainings that were run to their end: equal in data, schedule, machine and batch in one column.

    Of those that differ in more than a row may say, the kind with the most rows: an ablation of something else is no row.
    """
    kinds: dict[tuple[object, ...], dict[str, dict[Case, list[Record]]]] = {}
    for record in once([r for r in records if r.protocol == "pretrain" and r.status == "done" and r.wall_time_s]):
        tokens, depth = recipe_key(record, _TOKENS), recipe_key(record, _DEPTH)
        if isinstance(tokens, bool) and isinstance(depth, int):
            rest = kinds.setdefault(_machine(record), {}).setdefault(_rest(record), defaultdict(list))
            rest[Case(record.arch, tokens, depth)].append(record)
    for rests in kinds.values():
        yield _timed(max(rests.values(), key=len), len(rests) - 1, runs_dir)


def _machine(record: Record) -> tuple[object, ...]:
    """What hours depend on beside the model."""
    schedule = (recipe_key(record, "schedule.epochs"), recipe_key(record, "train.batch_size"))
    device = (record.device.name, record.device.count, record.precision)
    return (*device, *schedule, record.data.name, record.data.train_count, record.data.fingerprint, record.img_size)


def _rest(record: Record) -> str:
    """A pre-training's settings but for those that tell rows apart."""
    sections = {name: dict(record.recipe.get(name) or {}) for name in ("mae", "augmentation")}
    for key in (_TOKENS, _DEPTH):
        sections["mae"].pop(key.removeprefix("mae."), None)
    return json.dumps(sections, sort_keys=True, default=str)


def _timed(group: Mapping[Case, list[Record]], left_out: int, runs_dir: str | os.PathLike[str] | None) -> Timed:
    every = [record for these in group.values() for record in these]
    longest = max(r.wall_time_s or 0 for r in every)
    unit, seconds = next(((u, s) for u, s in (("hours", 3600), ("minutes", 60)) if longest >= s), ("seconds", 1))
    times = {
        case: measured_by(these, lambda r: (r.wall_time_s or 0) / seconds, runs_dir) for case, these in group.items()
    }
    speedups = {}
    for case, figure in times.items():
        slow = times.get(case._replace(encoder_mask_tokens=True, decoder_depth=8))
        if slow and not case.encoder_mask_tokens:
            speedups[case] = Measured((slow.mean / figure.mean,), (place(group[case][0], runs_dir),), ())
    columns = [(Column(f"{unit}, run", unit, False), times)]
    if speedups:
        columns.append((Column("speed-up, run", "speedup", False, unit="x"), speedups))
    one = every[0]
    epochs = recipe_key(one, "schedule.epochs")
    others = f"; pre-trainings of {left_out} other settings are left out" if left_out else ""
    return Timed(
        columns,
        f"run on {one.device.count} x {one.device.name}: {one.precision}, "
        f"{f'{epochs:g} epochs' if epochs else 'a schedule'} of {one.data.train_count:,} images ({one.data.name}), with "
        f"reading of data and checkpoints; recipes {', '.join(sorted({r.recipe_name for r in every}))}{others}",
    )


def _notes() -> Iterable[str]:
    for row, remark in published.notes(published.load()["tables"]["mae_t2"]).items():
        yield f"published, {row}: {remark}"
    yield "published hours: 128 TPU-v3 cores, TensorFlow; of hours on other machines the speed-up alone compares"


def _own_notes(timed: Sequence[Timed], numbers: Sequence[str]) -> Iterable[str]:
    for t, number in zip(timed, numbers, strict=True):
        yield f"{', '.join(f'{column.heading}{number}' for column, _ in t.columns)}: {t.note}"
    if not timed:
        yield "ours: no speed.json (`mae-bench speed --out`) and no finished pre-training fills the hours"


def _accuracy_notes(tables: Sequence[Table]) -> Iterable[str]:
    own = [cell.ours for table in tables for row in table.rows for cell in row.cells[:1] if cell.ours]
    if own:
        yield notes.LAST_EPOCH
