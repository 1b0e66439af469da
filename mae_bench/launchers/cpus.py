"""The cores of this machine: jobs run side by side, each a process with its share of them.

A small model does not fill two cores: two jobs of one core each take less time than one after the other with both.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil

from backbones.errors import UserError
from mae_bench.jobs.job import JobPlan, PlannedJob
from mae_bench.jobs.plan import Request
from mae_bench.launchers import pool
from mae_bench.launchers.base import Outcome, Settings, command
from mae_bench.records.provenance import usable_cpus

_BYTES_PER_JOB = 2 << 30  # of memory that is free, for each job that runs at once by default


def launch(request: Request, plan: JobPlan, out: Path, settings: Settings) -> Outcome:
    """Runs ``--jobs`` jobs at once, by default one a core as far as the memory goes; ``OMP_NUM_THREADS`` is left as it is."""
    cores = usable_cpus()
    if settings.jobs is not None and not 1 <= settings.jobs <= cores:
        raise UserError(f"--jobs {settings.jobs}: this process may use {cores} cores: give 1 to {cores}")
    room = max(1, psutil.virtual_memory().available // _BYTES_PER_JOB)
    count = settings.jobs or min(cores, room, len(plan.jobs))
    threads = os.environ.get("OMP_NUM_THREADS") or str(cores // count)

    def call(job: PlannedJob, _: list[str]) -> pool.Call:
        environment = {"OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ""}
        return pool.Call([sys.executable, *command(request, out, job)], environment)

    places = [f"place {number} of {count}" for number in range(1, count + 1)]
    return pool.run(plan, out, places, {job.name: 1 for job in plan.jobs}, call)
