"""Every job on many GPUs or nodes through ``torch.distributed.run``, one after the other; each node runs the same command."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from mae_bench.jobs.job import JobPlan, PlannedJob
from mae_bench.jobs.plan import Request
from mae_bench.launchers import pool
from mae_bench.launchers.base import Outcome, Settings, command

# Processes that start again would else meet in the agents' store under a number of restarts that each node counts for itself,
# and wait for each other where the numbers differ (pytorch/pytorch issue 135712).
_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def launch(request: Request, plan: JobPlan, out: Path, settings: Settings) -> Outcome:
    """Runs the jobs with ``--torchrun``'s options; on one node torchrun chooses a port by itself."""

    def call(job: PlannedJob, _: list[str]) -> pool.Call:
        flags = _flags(job, settings.torchrun)
        arguments = [sys.executable, "-m", "torch.distributed.run", *flags, *command(request, out, job)]
        return pool.Call(arguments, _STORE)

    return pool.run(plan, out, ["all processes"], dict.fromkeys((s.name for s in plan.jobs), 1), call)


def _flags(job: PlannedJob, given: Mapping[str, str]) -> list[str]:
    """The options given, and those that make several nodes meet, in time and once a job.

    torchrun's own defaults are static places, in which every node is the first, and no time limit that it keeps.
    """
    options = dict(given)
    options.setdefault("nproc_per_node", "auto")
    if "rdzv_endpoint" in options:
        options.setdefault("rdzv_backend", "c10d")
        options.setdefault("rdzv_id", job.name.replace("/", "-"))  # also a folder's name
    limit = round(job.recipe.train.rendezvous_timeout) or 1
    options["rdzv_conf"] = ",".join(
        filter(None, [f"join_timeout={limit},timeout={limit}", options.get("rdzv_conf")])
    )  # of c10d, of static places; the later of two counts
    flags = [f"--{key}={value}" if value else f"--{key}" for key, value in options.items()]
    if not {"nnodes", "master_addr", "rdzv_endpoint", "standalone"} & options.keys():
        flags.append("--standalone")
    return flags
