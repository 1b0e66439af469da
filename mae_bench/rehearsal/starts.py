"""Whether the jobs of a plan start, found before the first of them does: each task is built as its job will build it, on
tensors without content. No step is taken; that is `rehearse`'s to do.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

from backbones.errors import UserError
from mae_bench.common.children import from_children
from mae_bench.jobs.job import PlannedJob
from mae_bench.recipes.load import as_dict
from mae_bench.rehearsal.rehearse import build, same_step
from mae_bench.rehearsal.stand_in import has_stand_in
from tasks import require
from tasks.datasets.roots import data_root


def obstacles(jobs: Iterable[PlannedJob]) -> dict[str, str]:
    """What would stop each job that would not start, by its name: the line that it would end with."""
    found: dict[str, str] = {}
    said: dict[str, str] = {}
    read: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="mae-bench-starts-") as folder:
        for job in jobs:
            key = same_step(job, 0)
            if key not in said:
                said[key] = _obstacle(job, read, Path(folder))
            if said[key]:
                found[job.name] = said[key]
    return found


def obstacles_seen_from_a_child(jobs: list[PlannedJob]) -> dict[str, str]:
    """`obstacles` in a process that ends with it, so that one that only starts others does not keep the packages of all tasks.

    Whatever kills that process stops no job: each finds its own obstacle.
    """
    return next(from_children([lambda: [obstacles(jobs)]]), {})


def _obstacle(job: PlannedJob, read: set[str], folder: Path) -> str:
    """Empty where the job starts. A folder is read for the first of the jobs that read it alike."""
    data = job.recipe.data
    alike = json.dumps([job.recipe.task, as_dict(job.recipe)["data"]], sort_keys=True, default=str)
    try:
        require(job.recipe.task)
        if data.name != "embedded" or data.root is not None:
            data_root(data.name, data.root)
        build(job, folder, stand_in=alike in read and has_stand_in(job.recipe))
        read.add(alike)
    except UserError as e:
        return str(e)
    except Exception:  # an encoder that cannot be built without values, such as a plug-in: its own start tells
        return ""
    return ""
