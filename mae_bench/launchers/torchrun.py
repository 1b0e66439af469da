"""Every job on many GPUs or nodes through ``torch.distributed.run``, one after the other; each node runs the same command."""

from __future__ import annotations

import sys
from pathlib import Path

from mae_bench.jobs.job import JobPlan, PlannedJob
from mae_bench.jobs.plan import Request
from mae_bench.launchers import pool
from mae_bench.launchers.base import Outcome, Settings, command


def launch(request: Request, plan: JobPlan, out: Path, settings: Settings) -> Outcome:
    """Runs the jobs with ``--torchrun``'s options; on one node torchrun chooses a port by itself."""
    options = dict(settings.torchrun)
    options.setdefault("nproc_per_node", "auto")
    flags = [f"--{key}={value}" if value else f"--{key}" for key, value in options.items()]
    if not {"nnodes", "master_addr", "rdzv_endpoint", "standalone"} & options.keys():
        flags.append("--standalone")

    def call(job: PlannedJob, _: list[str]) -> pool.Call:
        return pool.Call([sys.executable, "-m", "torch.distributed.run", *flags, *command(request, out, job)], {})

    return pool.run(plan, out, ["all processes"], dict.fromkeys((s.name for s in plan.jobs), 1), call)
