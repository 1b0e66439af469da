"""Names of the files in an output folder."""

from __future__ import annotations

from pathlib import Path

from backbones.atomic import read_json

PLAN_FILE = "plan.json"

JOB_FILE = "job.json"


def planned_names(out: Path) -> list[str]:
    """Names of the jobs that were planned into `out`: paths below it, whoever wrote the plan."""
    plan = read_json(out / PLAN_FILE)
    names = plan.get("jobs") if isinstance(plan, dict) else None
    return [name for name in names if _is_job_name(name)] if isinstance(names, list) else []


def _is_job_name(name: object) -> bool:
    return isinstance(name, str) and name.isprintable() and not name.startswith("/") and ".." not in name.split("/")


def note_file(out: Path, name: str) -> Path:
    """Where `ledger` notes what a job's run directory cannot say."""
    return out / ".plan" / f"{name}.json"
