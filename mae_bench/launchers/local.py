"""The steps one after the other in this process, or in all processes that torchrun started."""

from __future__ import annotations

import traceback
from pathlib import Path

from backbones.checkpoints.checkpoint import Checkpoint, load_checkpoint
from backbones.errors import UserError
from mae_bench.common.console import processes, say
from mae_bench.jobs import ledger
from mae_bench.jobs.plan import Request, Step, Steps
from mae_bench.jobs.run import describe, run_job
from mae_bench.launchers.base import Outcome, Settings, blocked


def launch(_: Request, steps: Steps, out: Path, __: Settings) -> Outcome:
    """Runs all steps; one that fails stops only what starts from it.

    Raises:
        mae_bench.engine.Interrupted: a signal came.
    """
    outcome = Outcome()
    made: dict[str, Path] = {}
    for step in steps.steps:
        if not blocked(steps, step, outcome, out):
            _run(step, made, out, outcome)
    return outcome


def only(name: str, steps: Steps, out: Path) -> Outcome:
    """Runs one step of a request in a process that a launcher started."""
    outcome = Outcome()
    step = steps[name]
    made: dict[str, Path] = {}
    if step.after is not None:
        before = ledger.done(out, steps, steps[step.after])
        if before is None:
            raise UserError(f"{name} starts from {step.after}, which is not done in {out}: run that first")
        made[step.after] = before
    _run(step, made, out, outcome)
    return outcome


def _run(step: Step, made: dict[str, Path], out: Path, outcome: Outcome) -> None:
    """Runs a step; what a user can mend, and what torch stops with (no memory left), is kept as its failure: the others run."""
    main = processes().is_main_process
    if main:
        ledger.clear_note(out, step.name)

    def place(identity: str) -> Path:
        made[step.name] = out / f"{step.name}-{identity[:8]}"
        return made[step.name]

    try:
        record = run_job(step.job(_source(step, made)), place)
    except (UserError, RuntimeError, OSError) as e:
        if not isinstance(e, UserError):
            if processes().num_processes > 1:
                raise  # the other processes wait for this one: only the launcher can stop them
            traceback.print_exc()
        outcome.failures[step.name] = " ".join(str(e).split()) or type(e).__name__
        if main:
            ledger.write_note(out, step.name, "failed", error=outcome.failures[step.name])
        say(f"{step.name}: {outcome.failures[step.name]}", style="red")
        return
    say(describe(record))
    outcome.records.append(record)


def _source(step: Step, made: dict[str, Path]) -> Checkpoint | None:
    return step.source if step.after is None else load_checkpoint(made[step.after])
