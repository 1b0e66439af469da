"""What became of jobs without a record, by the names that a baseline gives their cells."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from backbones.errors import UserError
from mae_bench.status import collect


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
