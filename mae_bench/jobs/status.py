"""Where the jobs under a folder stand, read off their files and Slurm's queue; light, so that it answers at once.

How it looks on a terminal is `mae_bench.cli.status`' business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backbones.atomic import read_json
from backbones.errors import UserError, no_folder
from mae_bench.jobs.files import JOB_FILE, note_file, planned_names
from mae_bench.records.status_file import read_status

STATES = ("done", "running", "queued", "interrupted", "failed", "not run", "left")
UNDER_WAY = ("running", "queued")


@dataclass(frozen=True)
class JobStatus:
    """One job: a state of `STATES`, and what is known of it."""

    name: str
    state: str
    step: int | None = None
    total: int | None = None
    images_per_s: float | None = None
    seconds_left: float | None = None
    metrics: dict[str, Any] | None = None
    task: str | None = None
    primary_metric: str | None = None
    error: str | None = None
    run_dir: str | None = None
    slurm: str | None = None  # the queue's id


def collect(folder: Path) -> list[JobStatus]:
    """All jobs planned or begun under `folder`: those of the plan in its order, then others."""
    if not folder.is_dir():
        raise no_folder(str(folder), folder)
    begun = [_begun(path.parent) for path in sorted(folder.rglob(JOB_FILE))]
    names = planned_names(folder)
    if not begun and not names:
        raise UserError(f"{folder} holds no runs: give the --out folder of `mae-bench run` or `mae-bench pretrain`")
    notes = {name: note for name in names if isinstance(note := read_json(note_file(folder, name)), dict)}
    queue = _queue(notes)
    jobs = [job for name in names for job in _planned(name, begun, notes.get(name, {}), queue)]
    jobs = _behind_failures(jobs, notes)
    return jobs + [job for job in begun if job.name not in set(names)]


def progress(job: JobStatus) -> list[str]:
    """Such as ``20/160`` and, of a job that is not done, ``12 %``; nothing where it has not begun."""
    if job.step is None or not job.total:
        return []
    return [f"{job.step}/{job.total}", *([f"{100 * job.step // job.total} %"] if job.state != "done" else [])]


def summary(jobs: Sequence[JobStatus]) -> str:
    """Such as ``3 done, 1 running``."""
    counts = {state: sum(job.state == state for job in jobs) for state in STATES}
    return ", ".join(f"{n} {state}" for state, n in counts.items() if n)


def _planned(name: str, begun: list[JobStatus], note: Mapping[str, Any], queue: Mapping[str, str]) -> list[JobStatus]:
    """A planned job: its run directories, unless it is back in the queue or failed before it had one."""
    mine = [job for job in begun if job.name == name]
    slurm = note.get("slurm")
    waits = queue.get(str(slurm)) == "PENDING" or (slurm is None and note.get("state") == "queued")
    if waits and all(job.state != "done" for job in mine):
        return [replace(job, state="queued", slurm=slurm) for job in mine or [JobStatus(name, "queued")]]
    if mine and note.get("state") == "failed":  # a process that was killed could not say so itself: its launcher did
        error = note.get("error")
        return [replace(job, state="failed", error=error) if job.state == "interrupted" else job for job in mine]
    if mine:
        return [replace(job, slurm=slurm) for job in mine]
    if str(slurm) in queue:
        return [JobStatus(name, "running", slurm=slurm)]
    state = note.get("state")
    return [JobStatus(name, state if state in ("failed", "not run") else "left", error=note.get("error"), slurm=slurm)]


def _behind_failures(jobs: list[JobStatus], notes: Mapping[str, Mapping[str, Any]]) -> list[JobStatus]:
    """Slurm takes jobs out of the queue whose pre-training failed: they are not run, and say why."""
    failed = {job.name for job in jobs if job.state in ("failed", "not run")}
    return [
        replace(job, state="not run", error=f"starts from {after}, which failed")
        if job.state == "left" and (after := notes.get(job.name, {}).get("after")) in failed
        else job
        for job in jobs
    ]


def _queue(notes: Mapping[str, Mapping[str, Any]]) -> Mapping[str, str]:
    if not any("slurm" in note for note in notes.values()):
        return {}
    from mae_bench.jobs import slurm_queue

    return slurm_queue.live()


def _begun(run_dir: Path) -> JobStatus:
    job = read_json(run_dir / JOB_FILE)
    name = job.get("name") if isinstance(job, dict) else None
    status = read_status(run_dir)
    record = read_json(run_dir / "record.json")
    measured = record.get("metrics") if isinstance(record, dict) else {"last": status.get("last_metrics")}
    last = measured.get("last") if isinstance(measured, dict) else None
    metrics = {k: v for k, v in last.items() if isinstance(v, (int, float))} if isinstance(last, dict) else None
    about = record if isinstance(record, dict) else job if isinstance(job, dict) else {}
    return JobStatus(
        name=name if isinstance(name, str) else run_dir.name,
        state="done" if record is not None else status.get("state", "interrupted"),
        step=status.get("step"),
        total=status.get("total"),
        images_per_s=_images_per_s(status, record),
        seconds_left=status.get("seconds_left"),
        metrics=metrics or None,
        task=_text(about.get("task")),
        primary_metric=_text(about.get("primary_metric")),
        error=status.get("error"),
        run_dir=str(run_dir),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _images_per_s(status: Mapping[str, Any], record: Any) -> float | None:
    speed = status.get("images_per_s") or (record.get("images_per_s") if isinstance(record, dict) else None)
    return speed if isinstance(speed, (int, float)) else None
