"""The verbs behind the command line and the Python API: pre-train, run a plan, status. Parsing and printing are `cli`'s."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backbones.checkpoint import Checkpoint, load_checkpoint
from backbones.encoder import parse_arch
from backbones.errors import UserError
from mae_bench.jobs import Job, describe, job_name, make_folder, run_job
from mae_bench.logs import say
from mae_bench.recipes import load_recipe
from mae_bench.record import Record
from mae_bench.run_state import read_json, write_json
from mae_bench.status import PLAN_FILE
from mae_bench.suites import Entry, Options, Plan, from_suite, from_tasks


@dataclass
class Outcome:
    """What a run of several jobs came to."""

    records: list[Record] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)  # job name -> one line
    tables: list[str] = field(default_factory=list)


def pretrain(recipe: str, out: str | Path, *, data: str | None = None, overrides: Sequence[str] = ()) -> Record:
    """Pre-trains by a recipe (name or file) into the run directory `out`; goes on when interrupted, returns when done."""
    resolved = load_recipe(recipe, overrides)
    if resolved.task != "pretraining":
        raise UserError(f"recipe {recipe} is for {resolved.task}: use `mae-bench run --tasks {recipe}`")
    if data is not None:
        resolved.data.root = str(Path(data).expanduser().resolve())
    return run_job(Job(recipe, resolved), lambda _: Path(out))


def run(
    out: str | Path,
    *,
    checkpoint: str | Path | None = None,
    scratch: str | None = None,
    tasks: Sequence[str] = (),
    suite: str | None = None,
    options: Options | None = None,
) -> Outcome:
    """Runs tasks or a suite from a checkpoint or from scratch into folders under `out`.

    Jobs that are done are not run again. A job that fails does not stop the others.

    Raises:
        UserError: what was asked for cannot be run at all (unknown names, missing packages, unreadable checkpoint).
        mae_bench.engine.Interrupted: a signal came.
    """
    options = options or Options()
    source = load_checkpoint(checkpoint) if checkpoint is not None else None
    plan = _plan(source, scratch, tasks, suite, options)
    out = Path(out)
    make_folder(out)
    _write_plan(out, plan, source)
    outcome = Outcome(tables=plan.tables)
    if plan.pretrain is not None:
        job = Job(plan.pretrain.recipe_name, plan.pretrain.recipe)
        record = run_job(job, lambda identity: out / f"{job.name}-{identity[:8]}")
        outcome.records.append(record)
        source = load_checkpoint(out / f"{job.name}-{record.job_id[:8]}")
    for entry in plan.entries:
        _run_entry(entry, source, out, outcome)
    return outcome


def _plan(
    source: Checkpoint | None, scratch: str | None, tasks: Sequence[str], suite: str | None, options: Options
) -> Plan:
    if (suite is None) == (not tasks):
        raise UserError("give one of --suite and --tasks")
    if suite is not None:
        if scratch is not None:
            raise UserError("--scratch goes with --tasks; a suite says itself what starts from scratch")
        plan = from_suite(suite, options, pretrain=source is None)
        if source is None and plan.pretrain is None and any(e.start == "checkpoint" for e in plan.entries):
            raise UserError(f"suite {suite} needs a checkpoint: give --checkpoint FILE")
        return plan
    if (source is None) == (scratch is None):
        raise UserError("give one of --checkpoint FILE and --scratch ARCH")
    if scratch is not None:
        parse_arch(scratch)
        return from_tasks(tasks, scratch, "scratch", options)
    assert source is not None
    return from_tasks(tasks, source.arch, "checkpoint", options)


def _run_entry(entry: Entry, source: Checkpoint | None, out: Path, outcome: Outcome) -> None:
    """Runs one entry; what a user can mend is kept as its failure, so that the others run."""
    job = Job(entry.recipe_name, entry.recipe, source if entry.start == "checkpoint" else None)
    try:
        record = run_job(job, lambda identity: out / f"{job.name}-{identity[:8]}")
    except UserError as e:
        outcome.failures[job.name] = str(e)
        say(f"{job.name}: {e}", style="red")
        return
    say(describe(record))
    outcome.records.append(record)


def _write_plan(out: Path, plan: Plan, source: Checkpoint | None) -> None:
    """Adds this plan's job names to those of earlier runs into `out`, so that `status` knows what is left."""
    known = read_json(out / PLAN_FILE)
    names = list(known["jobs"]) if isinstance(known, dict) else []
    method = source.method if source else "MAE"
    for entry in ([plan.pretrain] if plan.pretrain else []) + plan.entries:
        start = "scratch" if entry.start == "scratch" else method
        names.append(job_name(entry.recipe.protocol(), entry.recipe_name, start, entry.recipe.seed))
    write_json(out / PLAN_FILE, {"jobs": list(dict.fromkeys(names))})


def load_encoder(path: str | Path, *, img_size: int | None = None) -> Any:
    """The encoder of a checkpoint as a timm `VisionTransformer`, in evaluation mode."""
    return load_checkpoint(path).encoder(img_size=img_size).eval()
