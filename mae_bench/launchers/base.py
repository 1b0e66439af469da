"""What launchers share: settings, the outcome of a run, the command of one job in a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mae_bench.jobs import ledger
from mae_bench.jobs.job import JobPlan, PlannedJob
from mae_bench.jobs.plan import Request
from mae_bench.recipes.protocol_files import included
from mae_bench.records import record
from mae_bench.records.record import Record

_MAIN = Path(__file__).resolve().parents[1] / "__main__.py"


@dataclass
class Outcome:
    """The outcome of a run of several jobs."""

    records: list[Record] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)  # job name -> one line
    not_run: dict[str, str] = field(default_factory=dict)  # job name -> what it waited for in vain
    queued: dict[str, str] = field(default_factory=dict)  # job name -> the queue's id
    tables: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False


@dataclass(frozen=True)
class Settings:
    """Resources to use; each launcher reads its own fields."""

    gpus: tuple[str, ...] = ()  # ids as CUDA_VISIBLE_DEVICES takes them; none: all there are
    gpus_per_job: int | None = None  # instead of the recipes' own
    jobs: int | None = None  # at once on the cores of this machine; none: as many as there are cores and memory for
    torchrun: Mapping[str, str] = field(default_factory=dict)  # options of torch.distributed.run
    slurm: Mapping[str, str] = field(default_factory=dict)  # options of sbatch
    wait: bool = False  # for all submitted jobs to end


def command(request: Request, out: Path, job: PlannedJob) -> list[str]:
    """Arguments of python that run one job of the same request; by path, so that the current folder is not searched."""
    folders = [text for folder in included() for text in ("--include", str(folder))]
    return [str(_MAIN), "run", *request.arguments(), *folders, "--out", str(out), "--only", job.name]


def python(request: Request, out: Path, job: PlannedJob) -> list[str]:
    """The whole command line of a job in one process."""
    return [sys.executable, *command(request, out, job)]


def blocked(plan: JobPlan, job: PlannedJob, outcome: Outcome, out: Path) -> bool:
    """Whether what `job` starts from has failed (or was not run itself); then it is noted as not run."""
    if job.after not in {*outcome.failures, *outcome.not_run}:
        return False
    reason = f"starts from {job.after}, which {'failed' if job.after in outcome.failures else 'did not run'}"
    outcome.not_run[job.name] = reason
    ledger.write_note(out, job.name, "not run", error=reason)
    return True


def settle(
    plan: JobPlan, job: PlannedJob, out: Path, code: int, outcome: Outcome, log: Path, said: str | None = None
) -> None:
    """Reads the outcome of a job's process from disk; of one that left none there, `said` is what its log says."""
    run_dir = ledger.done(out, plan, job)
    if run_dir is not None:
        outcome.records.append(record.read(run_dir))
    elif not outcome.interrupted:
        said = ledger.error_of(out, job.name) or said or f"its process ended with {code}"
        outcome.failures[job.name] = f"{said} ({log})"
        ledger.write_note(out, job.name, "failed", error=said)
