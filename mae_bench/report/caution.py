"""Caveats for readers of a report: mixed versions, missing seeds, runs that failed or resumed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mae_bench.jobs.status import JobStatus
from mae_bench.records.groups import RunGroup, declared, gain
from mae_bench.records.provenance import UNKNOWN
from mae_bench.records.record import Record
from mae_bench.tables.fill import notes
from tasks.spec import PERCENT

_NAMED = 6  # runs or values that a line names; of more it says how many


@dataclass(frozen=True)
class Caution:
    """One caveat; `serious` if a figure may be wrong or is missing, not merely different."""

    title: str
    text: str
    serious: bool = False


def cautions(
    records: Sequence[Record], cells: Mapping[str, RunGroup], unfinished: Sequence[JobStatus], unreadable: int
) -> list[Caution]:
    """Serious ones first."""
    found = [
        *_unfinished(unfinished, records),
        *_unreadable(unreadable),
        *_data(records),
        *_ambiguous(cells.values()),
        *_seeds(cells.values()),
        *_selection(records),
        *_recovered(records),
        *_mixed(records),
        *_source(records),
    ]
    return sorted(found, key=lambda caution: not caution.serious)


def _unfinished(jobs: Sequence[JobStatus], records: Sequence[Record]) -> Iterable[Caution]:
    by_state: dict[str, list[str]] = defaultdict(list)
    for job in jobs:
        by_state[job.state].append(job.name + (f" ({job.error})" if job.error else ""))
    for record in records:
        if record.status != "done":
            by_state[record.status].append(record.name + (f" ({record.error})" if record.error else ""))
    for state, names in sorted(by_state.items()):
        label = "not begun" if state == "left" else state
        yield Caution(f"{_count(len(names), 'job')} {label}", _several(names), serious=state == "failed")


def _unreadable(count: int) -> Iterable[Caution]:
    if count:
        text = "They are left out of everything below; `mae-bench table` names them on stderr."
        yield Caution(f"{_count(count, 'record')} that cannot be read", text, serious=True)


def _data(records: Sequence[Record]) -> Iterable[Caution]:
    if lost := list(notes.left_out(records)):
        yield Caution("Data left out", f"{_several(lost)}.", serious=True)
    if absent := list(notes.absent_classes(records)):
        yield Caution("Classes without labels", f"{_several(absent)}.")


def _ambiguous(cells: Iterable[RunGroup]) -> Iterable[Caution]:
    names = [cell.name for cell in cells if cell.problem]
    if names:
        text = f"Runs of one name that differ in more than the seed are not averaged: {_several(names)}."
        yield Caution("Different runs of one name", text)


def _seeds(cells: Iterable[RunGroup]) -> Iterable[Caution]:
    cells = [cell for cell in cells if cell.primary != "final_loss"]
    every = sorted({seed for cell in cells for seed in cell.seeds})
    missing = [f"{cell.name} (has {_join(cell.seeds)})" for cell in cells if set(cell.seeds) != set(every)]
    if missing:
        count = f"{len(missing)} of {len(cells)} groups of runs lack some of the seeds {_join(every)}"
        yield Caution("Missing seeds", f"{count}: {_several(missing)}.")
    elif len(every) == 1 and cells:
        text = f"Every figure is of seed {every[0]} alone: nothing says how far it would move with another."
        yield Caution("One seed", text)


def _selection(records: Sequence[Record]) -> Iterable[Caution]:
    chosen = [r.name for r in records if r.status == "done" and r.metrics.selection != "last epoch"]
    if chosen:
        kinds = _join(sorted({r.metrics.selection for r in records if r.name in chosen}))
        text = f"Figures are not simply the last epoch's ({kinds}): {_several(chosen)}."
        yield Caution("Chosen models", text)
    percent = {
        r.name: gain(r) for r in records if declared(r.task, r.primary_metric).unit == PERCENT and gain(r) >= 0.5
    }
    if percent:
        text = (
            f"Figures shown are the last epoch's. In {_count(len(percent), 'run')} the best epoch on the validation set was at "
            f"least 0.5 higher (at most {max(percent.values()):.1f}): {_several(list(percent))}."
        )
        yield Caution("Best epoch against last", text)
    if others := [r.name for r in records if r.name not in percent and _gains_a_share(r)]:
        text = (
            f"Figures shown are the last epoch's. In {_count(len(others), 'run')} the best epoch on the validation set was at "
            f"least 2 % better: {_several(others)}."
        )
        yield Caution("Best epoch against last", text)


def _gains_a_share(record: Record) -> bool:
    """What is no percentage has its own scale: 2 % of the last epoch's figure."""
    other = declared(record.task, record.primary_metric).unit != PERCENT
    return other and gain(record) >= 0.02 * abs(record.metrics.last.get(record.primary_metric) or math.inf)


def _recovered(records: Sequence[Record]) -> Iterable[Caution]:
    said = []
    for record in records:
        counts = [f"{name.replace('_', ' ')} {n}" for name, n in sorted(record.recovered.items()) if n]
        if counts or record.warnings:
            said.append(f"{record.name}: {_join([*record.warnings, *counts])}")
    if said:
        yield Caution("Resumed or recovered runs", f"{_several(said)}.")


def _mixed(records: Sequence[Record]) -> Iterable[Caution]:
    kinds: list[tuple[str, Callable[[Record], str]]] = [
        ("Different devices", lambda r: f"{r.device.count} x {r.device.name}"),
        ("Different precisions", lambda r: r.precision),
    ]
    for title, of in kinds:
        values = _tally(map(of, records))
        if len(values) > 1:
            yield Caution(title, f"{_join(values)}. Speeds and hours of different ones do not compare.")
    packages = sorted({name for record in records for name in record.software})
    mixed = []
    for package in packages:
        versions = sorted({record.software.get(package, UNKNOWN) for record in records} - {UNKNOWN})
        if len(versions) > 1:
            mixed.append(f"{package} {_join(versions)}")
    if mixed:
        yield Caution("Mixed versions", f"{_several(mixed)}.")


def _source(records: Sequence[Record]) -> Iterable[Caution]:
    commits = _tally(r.git.commit[:12] for r in records if r.git)
    if len(commits) > 1:
        yield Caution("Several commits", f"Runs are of {len(commits)} commits of the source: {_several(commits)}.")
    dirty = [record.name for record in records if record.git and record.git.dirty]
    if dirty:
        text = f"Tracked files differed from the commit in {_count(len(dirty), 'run')}: {_several(dirty)}."
        yield Caution("Changed source", text)


def _tally(values: Iterable[str]) -> list[str]:
    """``a (3 runs)``, in the order of the values."""
    counts: dict[str, int] = defaultdict(int)
    for value in values:
        counts[value] += 1
    return [f"{value} ({_count(n, 'run')})" for value, n in sorted(counts.items())]


def _several(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED
    return "; ".join(names[:_NAMED]) + (f"; and {rest} more" if rest > 0 else "")


def _join(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
