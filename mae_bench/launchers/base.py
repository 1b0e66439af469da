"""What launchers share: their settings, what a run came to, the command of one step in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mae_bench.jobs import ledger
from mae_bench.jobs.plan import Request, Step, Steps
from mae_bench.records import record
from mae_bench.records.record import Record


@dataclass
class Outcome:
    """What a run of several steps came to."""

    records: list[Record] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)  # job name -> one line
    not_run: dict[str, str] = field(default_factory=dict)  # job name -> what it waited for in vain
    queued: dict[str, str] = field(default_factory=dict)  # job name -> the queue's id
    tables: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False


@dataclass(frozen=True)
class Settings:
    """Where and on how much; each launcher reads its own."""

    gpus: tuple[str, ...] = ()  # ids as CUDA_VISIBLE_DEVICES takes them; none: all there are
    gpus_per_job: int | None = None  # instead of the recipes' own
    torchrun: Mapping[str, str] = field(default_factory=dict)  # options of torch.distributed.run
    slurm: Mapping[str, str] = field(default_factory=dict)  # options of sbatch
    wait: bool = False  # for the queue to be through


def command(request: Request, out: Path, step: Step) -> list[str]:
    """Arguments of python that run one step of the same request."""
    return ["-m", "mae_bench", "run", *request.arguments(), "--out", str(out), "--only", step.name]


def python(request: Request, out: Path, step: Step) -> list[str]:
    """The whole command line of a step in one process."""
    return [sys.executable, *command(request, out, step)]


def blocked(steps: Steps, step: Step, outcome: Outcome, out: Path) -> bool:
    """Whether what `step` starts from has failed (or was not run itself); then it is noted as not run."""
    if step.after not in {*outcome.failures, *outcome.not_run}:
        return False
    reason = f"starts from {step.after}, which {'failed' if step.after in outcome.failures else 'did not run'}"
    outcome.not_run[step.name] = reason
    ledger.write_note(out, step.name, "not run", error=reason)
    return True


def settle(steps: Steps, step: Step, out: Path, code: int, outcome: Outcome, log: Path) -> None:
    """Reads off the disk what a step's process came to."""
    run_dir = ledger.done(out, steps, step)
    if run_dir is not None:
        outcome.records.append(record.read(run_dir))
    elif not outcome.interrupted:
        said = ledger.error_of(out, step.name) or f"its process ended with {code}"
        outcome.failures[step.name] = f"{said} ({log})"
        ledger.write_note(out, step.name, "failed", error=said)
