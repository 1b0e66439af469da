"""How jobs get onto machines: one module a launcher, `launch` picks. Which jobs those are is `mae_bench.jobs`' business."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from backbones.errors import unknown
from mae_bench.jobs.job import JobPlan
from mae_bench.jobs.plan import Request
from mae_bench.launchers.base import Outcome, Settings

LAUNCHERS = {
    "local": "this process, or the processes that torchrun started",
    "cpus": "the cores of this machine, jobs side by side",
    "gpus": "several GPUs of this machine, jobs side by side",
    "torchrun": "every job on many GPUs or nodes, one after the other",
    "slurm": "a cluster's queue, through submitit",
}

Launch = Callable[[Request, JobPlan, Path, Settings], Outcome]


def launch(name: str, request: Request, plan: JobPlan, out: Path, settings: Settings) -> Outcome:
    """Runs (or submits) the plan by the launcher called `name`."""
    if name not in LAUNCHERS:
        raise unknown("launcher", name, LAUNCHERS)
    run: Launch = import_module(f"mae_bench.launchers.{name}").launch
    return run(request, plan, out, settings)
