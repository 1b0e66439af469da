"""A Slurm cluster's queue, through submitit: arrays, dependencies on pre-trainings, resuming after preemption and time limits.

Every job runs the same command as one process a GPU would by hand. Before its time limit, or when it is preempted, the command
gets a signal, saves and leaves; the job goes back into the queue and resumes. What the queue holds is `slurm_queue`'s to ask.
"""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from itertools import groupby
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from mae_bench.common.console import say
from mae_bench.common.text import visible
from mae_bench.jobs import ledger, slurm_queue
from mae_bench.jobs.job import JobPlan, PlannedJob
from mae_bench.jobs.plan import Request
from mae_bench.launchers.base import Outcome, Settings, python, settle
from mae_bench.launchers.slurm_job import MOST_RESTARTS, SIGNAL, SlurmStep

_DEFAULTS: dict[str, Any] = {"time": 1440, "signal_delay_s": 120}  # minutes; seconds to save in before the time is up
_NUMBERS = ("nodes", "cpus_per_task", "gpus_per_node", "signal_delay_s", "array_parallelism")
_OWN = (
    "time",
    "partition",
    "qos",
    "mem",
    "account",
    "constraint",
    "exclude",
    "nodelist",
    "comment",
    "mail_type",
    "mail_user",
)
_WAIT_SECONDS = 2.0


def launch(request: Request, plan: JobPlan, out: Path, settings: Settings) -> Outcome:
    """Submits what is not done; with ``--wait`` stays until the queue is through with it."""
    _check_folder(out.absolute())
    parameters = _parameters(settings.slurm)
    outcome = Outcome()
    ids: dict[str, str] = {}
    waiting = slurm_queue.live()
    for job in plan.jobs:
        if (run_dir := ledger.done(out, plan, job)) is not None:
            say(f"{job.name}: done already ({run_dir})")
        elif (known := ledger.queue_id(out, job.name)) in waiting:
            ids[job.name] = outcome.queued[job.name] = str(known)
            say(f"{job.name}: in the queue already, as {known}")
    todo = [s for s in plan.jobs if s.name not in ids and ledger.done(out, plan, s) is None]
    arrays = list(_arrays(todo, settings))
    for members in arrays:
        _check_nodes(_places(_processes(members[0], settings), parameters) | parameters)
    for members in arrays:
        submitted = _submit(members, ids, request, out, settings, parameters)
        ids |= submitted
        outcome.queued |= submitted
    if settings.wait:
        _wait(plan, out, outcome)
    return outcome


def _arrays(todo: Sequence[PlannedJob], settings: Settings) -> Iterator[list[PlannedJob]]:
    """Jobs that may be one array: they wait for the same and need as many processes; what they wait for comes before."""

    def alike(job: PlannedJob) -> tuple[bool, str, int, int]:
        return bool(job.after), job.after or "", _processes(job, settings), job.recipe.train.workers

    depth = {job.name: 0 for job in todo}
    for job in todo:  # what a job comes after has been there before it
        depth[job.name] = depth.get(job.after or "", -1) + 1
    for _, members in groupby(sorted(todo, key=lambda s: (depth[s.name], alike(s))), key=alike):
        yield list(members)


def _processes(job: PlannedJob, settings: Settings) -> int:
    return settings.gpus_per_job or job.recipe.gpus


def _submit(
    members: Sequence[PlannedJob],
    ids: Mapping[str, str],
    request: Request,
    out: Path,
    settings: Settings,
    parameters: Mapping[str, Any],
) -> dict[str, str]:
    """Submits an array; the queue's id of each job."""
    executor = _executor(out)
    processes, first = _processes(members[0], settings), members[0]
    mine = {
        **_places(processes, parameters),
        "cpus_per_task": max(1, first.recipe.train.workers),
        **parameters,
    }
    mine["gpus_per_node"] = mine["gpus_per_node"] or None  # 0: a cluster without GPUs
    extra = {"kill-on-invalid-dep": "yes", "requeue": True, **mine.pop("additional_parameters")}
    if first.after is not None and first.after in ids:
        mine["dependency"] = f"afterok:{ids[first.after]}"
    executor.update_parameters(
        job_name="mae-bench", additional_parameters=extra, setup=[_after_a_lost_node(executor.folder)], **mine
    )
    with _rejections_told(), redirect_stderr(io.StringIO()), executor.batch():  # submitit shows what sbatch says, too
        submitted = [executor.submit(SlurmStep(python(request, out, job))) for job in members]
    named = {job.name: str(entry.job_id) for job, entry in zip(members, submitted, strict=True)}
    for job in members:
        ledger.write_note(out, job.name, "queued", slurm=named[job.name], after=job.after)
        say(f"{job.name}: queued as {named[job.name]}")
    return named


def _after_a_lost_node(folder: Path) -> str:
    """For the batch script: where srun ends though not every process has, one node is gone, and the others were killed for it.

    A process that ends by itself leaves a result, also of a failure (submitit); a job that was cancelled no longer runs.
    """
    job = "${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"
    return f"""job={job}; job=${{job:-$SLURM_JOB_ID}}
requeue_if_a_node_is_gone() {{
  [ $? != 0 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {MOST_RESTARTS} ] || return
  [ "$(ls {shlex.quote(str(folder))}/"$job"_*_result.pkl 2>/dev/null | wc -l)" -lt "$SLURM_NTASKS" ] || return
  [ "$(squeue -h -j "$job" -o %T)" = RUNNING ] && scontrol requeue "$job"
}}
trap requeue_if_a_node_is_gone EXIT"""


def _places(processes: int, parameters: Mapping[str, Any]) -> dict[str, int]:
    """Nodes, and GPUs and tasks of each: of a node what ``--slurm gpus_per_node`` says, by default all of the processes.

    Raises:
        UserError: the processes do not fill the nodes evenly.
    """
    each = parameters.get("gpus_per_node") or processes
    if "nodes" in parameters or each >= processes:
        return {"gpus_per_node": processes, "ntasks_per_node": processes}
    if processes % each:
        raise UserError(
            f"--slurm gpus_per_node={each}: {processes} processes do not fill nodes of {each}: give a divisor of "
            f"{processes}, or --gpus-per-job with a multiple of {each}"
        )
    return {"nodes": processes // each, "gpus_per_node": each, "ntasks_per_node": each}


def _check_nodes(wanted: Mapping[str, Any]) -> None:
    """Refuses more nodes than there are: by default sbatch takes such a job, which then waits for ever (EnforcePartLimits)."""
    if {"cluster", "clusters"} & set(wanted["additional_parameters"]):
        return
    there, partition = slurm_queue.nodes(wanted.get("partition")), wanted.get("partition", "this cluster")
    if 0 < there < wanted.get("nodes", 1):
        raise UserError(
            f"--launcher slurm: a job of {wanted['nodes']} nodes never starts where {partition} has {there}: give "
            "--slurm nodes, gpus_per_node or partition, or --gpus-per-job"
        )


@contextmanager
def _rejections_told() -> Iterator[None]:
    """What sbatch says of a job that it does not take, in one line."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        yield
    except (FailedJobError, UncompletedJobError, subprocess.CalledProcessError) as e:
        said = getattr(e, "stderr", None) or str(e)
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        lines = [line.strip() for line in text.splitlines() if line.strip().startswith(("sbatch:", "srun:"))]
        raise UserError(f"--launcher slurm: {'; '.join(lines) or ' '.join(text.split())[:300]}") from e


def _executor(out: Path) -> Any:
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = SIGNAL  # read by submitit in the job
    try:
        from submitit.slurm.slurm import SlurmExecutor, SlurmJobEnvironment
    except ImportError:
        raise UserError("--launcher slurm needs submitit: pip install 'mae-bench[slurm]'") from None
    SlurmJobEnvironment.USR_SIG = SIGNAL
    folder = out.resolve() / ".plan" / "slurm"
    folder.mkdir(parents=True, exist_ok=True)
    return SlurmExecutor(folder=folder, max_num_timeout=1000)


def _check_folder(out: Path) -> None:
    """The folder stands in the batch script as the place of its logs."""
    _refuse_control_characters(f"--out {out}")
    if "%" in str(out):
        raise UserError(
            f"--out {out}: Slurm puts job numbers in place of % in the names of logs: give a folder without it"
        )


def _refuse_control_characters(option: str) -> None:
    """A newline would begin a line of its own in the batch script."""
    if not option.isprintable():
        raise UserError(f"{visible(option)}: with --launcher slurm it must be one line of text that prints")


def _parameters(given: Mapping[str, str]) -> dict[str, Any]:
    """``--slurm`` as submitit takes it: its own names, everything else to sbatch as it is."""
    parameters: dict[str, Any] = {**_DEFAULTS, "additional_parameters": {}}
    for key, value in given.items():
        _refuse_control_characters(f"--slurm {key}={value}")
        name = key.replace("-", "_")
        if name == "time":
            parameters["time"] = minutes(value)
        elif name in _NUMBERS:
            if not value.isdigit():
                raise UserError(f"--slurm {key}={value}: give a whole number")
            parameters[name] = int(value)
        elif name in _OWN:
            parameters[name] = value
        else:
            parameters["additional_parameters"][key] = value or True
    return parameters


def minutes(text: str) -> int:
    """Slurm's ``M``, ``H:MM:SS``, ``M:SS``, ``D-H``, ``D-H:MM`` or ``D-H:MM:SS`` as minutes, at least one."""
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if len(parts) > 3 or not all(p.isdigit() for p in [*parts, *([days] if dash else [])]):
        raise UserError(f"--slurm time={text}: give minutes, H:MM:SS or D-H:MM:SS")
    numbers = [int(p) for p in parts]
    if dash:
        hours, mins, seconds = (*numbers, 0, 0)[:3]
    elif len(numbers) == 3:
        hours, mins, seconds = numbers
    else:
        hours, mins, seconds = 0, numbers[0], numbers[1] if len(numbers) == 2 else 0
    return max(1, int(days or 0) * 1440 + hours * 60 + mins + (seconds + 59) // 60)


def _wait(plan: JobPlan, out: Path, outcome: Outcome) -> None:
    """Until none of the jobs is in the queue; then what each came to is read off the disk."""
    while slurm_queue.live().keys() & set(outcome.queued.values()):
        time.sleep(_WAIT_SECONDS)
    queued, outcome.queued = outcome.queued, {}
    for job in plan.jobs:
        bad = {*outcome.failures, *outcome.not_run}
        if job.after in bad and ledger.done(out, plan, job) is None:
            outcome.not_run[job.name] = f"starts from {job.after}, which is not done"
            ledger.write_note(out, job.name, "not run", error=outcome.not_run[job.name])
        elif job.name in queued or ledger.done(out, plan, job) is not None:
            settle(plan, job, out, 1, outcome, out / ".plan" / "slurm")
