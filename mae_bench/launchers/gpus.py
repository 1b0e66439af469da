"""The GPUs of this machine: jobs run side by side, each a process that sees only the GPUs given to it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from backbones.errors import UserError
from mae_bench.jobs.job import JobPlan, PlannedJob
from mae_bench.jobs.plan import Request
from mae_bench.launchers import pool
from mae_bench.launchers.base import Outcome, Settings, command


def launch(request: Request, plan: JobPlan, out: Path, settings: Settings) -> Outcome:
    """Runs the jobs on ``--gpus``, by default all that there are; a recipe that wants more than that gets them all."""
    devices = list(settings.gpus) or _visible()
    wanted = {job.name: settings.gpus_per_job or job.recipe.gpus for job in plan.jobs}
    if settings.gpus_per_job is not None and not 1 <= settings.gpus_per_job <= len(devices):
        raise UserError(f"--gpus-per-job {settings.gpus_per_job}: there are {len(devices)} in {','.join(devices)}")
    needs = {name: min(count, len(devices)) for name, count in wanted.items()}

    def call(job: PlannedJob, mine: list[str]) -> pool.Call:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={len(mine)}"]
        arguments = [*(launcher if len(mine) > 1 else []), *command(request, out, job)]
        return pool.Call([sys.executable, *arguments], {"CUDA_VISIBLE_DEVICES": ",".join(mine)})

    return pool.run(plan, out, devices, needs, call)


def _visible() -> list[str]:
    import torch

    if told := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return [device.strip() for device in told.split(",") if device.strip()]
    count = torch.cuda.device_count()
    if not count:
        raise UserError("--launcher gpus: this machine has none: give their ids (--gpus 0,1), or --launcher local")
    return [str(i) for i in range(count)]
