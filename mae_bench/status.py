"""Where the jobs under a folder stand, read off their files; light, so that it answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from mae_bench.run_state import read_json, read_status

PLAN_FILE = "plan.json"
JOB_FILE = "job.json"


def note_file(out: Path, name: str) -> Path:
    """Where `ledger` notes what a step's run directory cannot say."""
    return out / ".plan" / f"{name}.json"


@dataclass(frozen=True)
class JobStatus:
    """One job: done | running | interrupted | failed | left."""

    name: str
    state: str
    step: int | None = None
    total: int | None = None
    images_per_s: float | None = None
    seconds_left: float | None = None
    metrics: dict[str, Any] | None = None
    error: str | None = None
    run_dir: str | None = None


def collect(folder: Path) -> list[JobStatus]:
    """All jobs planned or begun under `folder`."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    begun = [_begun(path.parent) for path in sorted(folder.rglob(JOB_FILE))]
    planned = read_json(folder / PLAN_FILE)
    names = planned["jobs"] if isinstance(planned, dict) else []
    left = [JobStatus(name, "left") for name in names if name not in {job.name for job in begun}]
    if not begun and not left:
        raise UserError(f"{folder} holds no runs: give the --out folder of `mae-bench run` or `mae-bench pretrain`")
    return begun + left


def _begun(run_dir: Path) -> JobStatus:
    job = read_json(run_dir / JOB_FILE) or {}
    status = read_status(run_dir)
    record = read_json(run_dir / "record.json")
    metrics = record.get("metrics", {}).get("last") if isinstance(record, dict) else status.get("last_metrics")
    return JobStatus(
        name=job.get("name", run_dir.name),
        state="done" if record is not None else status.get("state", "interrupted"),
        step=status.get("step"),
        total=status.get("total"),
        images_per_s=status.get("images_per_s"),
        seconds_left=status.get("seconds_left"),
        metrics=metrics or None,
        error=status.get("error"),
        run_dir=str(run_dir),
    )
