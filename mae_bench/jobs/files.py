"""Names of the files in an output folder."""

from __future__ import annotations

from pathlib import Path

PLAN_FILE = "plan.json"

JOB_FILE = "job.json"


def note_file(out: Path, name: str) -> Path:
    """Where `ledger` notes what a job's run directory cannot say."""
    return out / ".plan" / f"{name}.json"
