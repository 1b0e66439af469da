"""Runs against a baseline, figure by figure: what holds, what moved which way, what cannot be compared and why.

A figure may move by its tolerance. Beyond it, the wrong way is a regression and the right way an improvement. What the baseline
holds and the runs do not have is no pass: it could not be compared. Speeds of other hardware are said and not judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backbones.errors import UserError
from mae_bench.check.baseline import Baseline, BaselineGroup, BaselineMetric
from mae_bench.jobs.status import collect
from mae_bench.records.groups import SPEEDS, GroupValue, RunGroup

HOLDS, REGRESSED, NOT_COMPARED = 0, 1, 2  # exit codes
DIGITS = 1e-5  # share of a figure that its six digits in the file do not show
STATES = ("regressed", "not compared", "improved", "new", "skipped", "holds")
"""Worst first. "skipped": a speed of other hardware; "new": in the runs, not in the baseline."""


@dataclass(frozen=True)
class Finding:
    """One figure: what was held, what it is now, and what that means (one of `STATES`)."""

    cell: str
    metric: str
    state: str
    held: float | None = None
    now: float | None = None
    std: float | None = None  # of now, over its seeds
    allowed: float | None = None  # how far it may move
    note: str = ""
    line: int = 0  # of the baseline file

    @property
    def change(self) -> float | None:
        """Now less held; 0 where the six figures of the file show no difference."""
        if self.held is None or self.now is None:
            return None
        change = self.now - self.held
        return 0.0 if abs(change) <= DIGITS * abs(self.held) else change


@dataclass(frozen=True)
class Verdict:
    """All findings, the worst first."""

    findings: tuple[Finding, ...]

    @property
    def code(self) -> int:
        """Exit code: a regression outweighs what could not be compared; a comparison of nothing is none."""
        states = [finding.state for finding in self.findings]
        if "regressed" in states:
            return REGRESSED
        if "not compared" in states or not {"holds", "improved"} & set(states):
            return NOT_COMPARED
        return HOLDS

    @property
    def counts(self) -> dict[str, int]:
        """How many figures are in each state that occurs."""
        states = [finding.state for finding in self.findings]
        return {state: states.count(state) for state in STATES if state in states}


def compare(baseline: Baseline, cells: Mapping[str, RunGroup], unfinished: Mapping[str, str] | None = None) -> Verdict:
    """Judges `cells` by `baseline`.

    Args:
        unfinished: name of a cell without a finished run -> what became of it ("failed: out of disk").
    """
    findings: list[Finding] = []
    for held in baseline.cells.values():
        cell = cells.get(held.name)
        problem = _problem(held, cell, (unfinished or {}).get(held.name))
        if cell is None or problem:
            findings += [
                Finding(held.name, f.metric, "not compared", f.value, allowed=f.allowed, note=problem, line=f.line)
                for f in held.figures
            ]
        else:
            findings += [_judge(held, figure, cell) for figure in held.figures]
    findings += [_new(cell) for name, cell in cells.items() if name not in baseline.cells]
    return Verdict(tuple(sorted(findings, key=lambda finding: STATES.index(finding.state))))


def _problem(held: BaselineGroup, cell: RunGroup | None, unfinished: str | None) -> str:
    if cell is None:
        return unfinished or "no finished run under --runs"
    if cell.problem:
        return cell.problem
    if held.data is not None and held.data != cell.data:
        return f"other data: fingerprint {cell.data}, the baseline's {held.data} (--update takes these)"
    return ""


def _judge(cell: BaselineGroup, held: BaselineMetric, now: RunGroup) -> Finding:
    found = now.figure(held.metric)
    value, std = (None, None) if found is None else (found.value, found.std)
    state, note = _state(cell, held, now, found)
    notes = [note, *(_differences(cell, now) if state not in ("skipped", "not compared") else [])]
    return Finding(
        cell.name,
        held.metric,
        state,
        held.value,
        value,
        std,
        held.allowed,
        "; ".join(text for text in notes if text),
        held.line,
    )


def _state(cell: BaselineGroup, held: BaselineMetric, now: RunGroup, found: GroupValue | None) -> tuple[str, str]:
    if held.metric in SPEEDS and cell.device is not None and cell.device != now.device:
        return "skipped", f"other hardware: {now.device}; the baseline's: {cell.device}"
    if found is None:
        return "not compared", "the runs do not have this metric"
    if held.value is None:
        return "not compared", "the baseline has no value for it yet: --update writes it"
    if math.isnan(held.value) or math.isnan(found.value):
        both = math.isnan(held.value) and math.isnan(found.value)
        return ("holds", "not a number, as before") if both else _nan(found)
    if held.allowed is None:
        return "not compared", "its tolerance is in stds, and the baseline has one seed: give absolute or relative"
    return _moved(held, found.value - held.value, held.allowed + DIGITS * abs(held.value))


def _nan(found: GroupValue) -> tuple[str, str]:
    if math.isnan(found.value):
        return "regressed", "not a number any more"
    return "improved", "a number now"


def _moved(held: BaselineMetric, change: float, allowed: float) -> tuple[str, str]:
    if abs(change) <= allowed:
        return "holds", ""
    if held.two_sided:
        return "regressed", "moved, and may not either way"
    better = change > 0 if held.better == "higher" else change < 0
    return ("improved" if better else "regressed"), ""


def _differences(cell: BaselineGroup, now: RunGroup) -> Sequence[str]:
    """What else is not as it was, and may be why."""
    found = []
    if cell.recipe is not None and cell.recipe != now.recipe:
        found.append("the recipe's settings have changed")
    if cell.seeds and list(cell.seeds) != now.seeds:
        found.append(f"seeds {_list(now.seeds)}, the baseline's {_list(cell.seeds)}")
    return found


def _list(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _new(cell: RunGroup) -> Finding:
    if cell.problem:
        return Finding(cell.name, cell.primary, "new", note=cell.problem)
    found = cell.figure(cell.primary)
    value, std = (None, None) if found is None else (found.value, found.std)
    return Finding(cell.name, cell.primary, "new", now=value, std=std, note="not in the baseline: --update takes it")


def unfinished_cells(runs: Path, names: Iterable[str]) -> dict[str, str]:
    """Name of a cell -> "failed: out of disk", "interrupted" and the like, for those that have an unfinished job."""
    try:
        jobs = [job for job in collect(runs) if job.state != "done"]
    except UserError:  # records copied together, without the files of a run
        return {}
    found = {}
    for name in names:
        for job in jobs:
            if job.name.rpartition("-s")[0] == _stem(name):
                found[name] = f"{job.name} {job.state}" + (f": {job.error}" if job.error else "")
    return found


def _stem(cell: str) -> str:
    """As `jobs.job_name` calls the cell's jobs, less the seed."""
    recipe, _, rest = cell.partition(", ")
    method = rest.split(", ")[0]
    return f"{recipe}-{''.join(c if c.isalnum() or c in '._' else '-' for c in method)}"
