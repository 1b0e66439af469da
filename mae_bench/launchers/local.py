"""The jobs one after the other in this process, or in all processes that torchrun started."""

from __future__ import annotations

from pathlib import Path

from backbones.checkpoints.checkpoint import Checkpoint, load_checkpoint
from backbones.errors import UserError
from mae_bench.common.console import place_in_plan, processes, say
from mae_bench.common.rendezvous import all_say
from mae_bench.jobs import ledger
from mae_bench.jobs.job import JobPlan, PlannedJob
from mae_bench.jobs.plan import Request
from mae_bench.jobs.run import describe, run_job
from mae_bench.launchers.base import Outcome, Settings, blocked


def launch(_: Request, plan: JobPlan, out: Path, __: Settings) -> Outcome:
    """Runs all jobs; one that fails stops only what starts from it.

    Raises:
        backbones.errors.Interrupted: a signal came.
    """
    outcome = Outcome()
    made: dict[str, Path] = {}
    for number, job in enumerate(plan.jobs, 1):
        place_in_plan.set(f"job {number}/{len(plan.jobs)}" if len(plan.jobs) > 1 else "")
        if not blocked(plan, job, outcome, out):
            _run(job, made, out, outcome)
    return outcome


def only(name: str, plan: JobPlan, out: Path) -> Outcome:
    """Runs one job of a request in a process that a launcher started."""
    outcome = Outcome()
    job = plan[name]
    made: dict[str, Path] = {}
    if job.after is not None:
        before = ledger.done(out, plan, plan[job.after])
        if before is None:
            raise UserError(f"{name} starts from {job.after}, which is not done in {out}: run that first")
        made[job.after] = before
    _run(job, made, out, outcome)
    return outcome


def _run(job: PlannedJob, made: dict[str, Path], out: Path, outcome: Outcome) -> None:
    """Runs a job; whatever it stops with is its failure, with a traceback in its folder where it is a mistake of ours."""
    main = processes().is_main_process
    if main:
        ledger.clear_note(out, job.name)

    def place(identity: str) -> Path:
        made[job.name] = out / f"{job.name}-{identity[:8]}"
        return made[job.name]

    try:
        record = run_job(job.from_result(_source(job, made)), place)
    except (Exception, SystemExit) as e:  # code of other people may leave by itself
        said = " ".join(str(e).split()) or type(e).__name__
        if not isinstance(e, UserError):
            if processes().num_processes > 1:
                raise  # the other processes wait for this one: only the launcher can stop them
            said = (
                f"{type(e).__name__}: {said} (traceback: {ledger.write_traceback(out, job.name, made.get(job.name))})"
            )
        outcome.failures[job.name] = said
        together = all_say(f"{job.name} failed")
        if main or not together:
            ledger.write_note(out, job.name, "failed", error=said)
        if not together:
            raise  # the others are still in this job, and would take the next one's messages for its own
        say(f"{job.name}: {outcome.failures[job.name]}", style="red")
        return
    say(describe(record))
    outcome.records.append(record)


def _source(job: PlannedJob, made: dict[str, Path]) -> Checkpoint | None:
    return job.checkpoint if job.after is None else load_checkpoint(made[job.after])
