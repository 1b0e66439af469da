"""The verbs behind the command line and the Python API: pre-train, run a plan, status. Parsing and printing are `cli`'s."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState

from backbones.checkpoint import Checkpoint, load_checkpoint
from backbones.encoder import parse_arch
from backbones.errors import UserError
from mae_bench.ablations import default_name, describe_pretraining
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
    default = load_recipe(default_name(recipe), overrides)
    job = Job(recipe, resolved, pretraining=describe_pretraining(resolved, default))
    return run_job(job, lambda _: Path(out))


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
    if not plan.pretrainings:
        for entry in plan.entries:
            _run_job(
                Job(entry.recipe_name, entry.recipe, source if entry.start == "checkpoint" else None), out, outcome
            )
    for pretraining in plan.pretrainings:
        _run_pretraining(pretraining, plan, out, outcome)
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
        if source is None and not plan.pretrainings and any(e.start == "checkpoint" for e in plan.entries):
            raise UserError(f"suite {suite} needs a checkpoint: give --checkpoint FILE")
        return plan
    if (source is None) == (scratch is None):
        raise UserError("give one of --checkpoint FILE and --scratch ARCH")
    if scratch is not None:
        parse_arch(scratch)
        return from_tasks(tasks, scratch, "scratch", options)
    assert source is not None
    return from_tasks(tasks, source.arch, "checkpoint", options)


def _run_pretraining(pretraining: Entry, plan: Plan, out: Path, outcome: Outcome) -> None:
    """Runs a pre-training and what starts from it; what starts from scratch runs beside the first one only."""
    job = Job(pretraining.recipe_name, pretraining.recipe, pretraining=pretraining.pretraining)
    record = _run_job(job, out, outcome)
    source = load_checkpoint(_run_dir(job, out, record.job_id)) if record else None
    for entry in plan.entries:
        if entry.start == "checkpoint" and source is not None:
            _run_job(Job(entry.recipe_name, entry.recipe, source, variant=plan.variant(pretraining)), out, outcome)
        elif entry.start == "scratch" and pretraining is plan.pretrainings[0]:
            _run_job(Job(entry.recipe_name, entry.recipe), out, outcome)


def _run_job(job: Job, out: Path, outcome: Outcome) -> Record | None:
    """Runs a job; what a user can mend, and what torch stops with (no memory left), is kept as its failure: the others run."""
    try:
        record = run_job(job, lambda identity: _run_dir(job, out, identity))
    except (UserError, RuntimeError) as e:
        if not isinstance(e, UserError):
            if PartialState().num_processes > 1:
                raise  # the other processes wait for this one: only the launcher can stop them
            traceback.print_exc()
        outcome.failures[job.name] = " ".join(str(e).split()) or type(e).__name__
        say(f"{job.name}: {outcome.failures[job.name]}", style="red")
        return None
    say(describe(record))
    outcome.records.append(record)
    return record


def _run_dir(job: Job, out: Path, identity: str) -> Path:
    return out / f"{job.name}-{identity[:8]}"


def _write_plan(out: Path, plan: Plan, source: Checkpoint | None) -> None:
    """Adds this plan's job names to those of earlier runs into `out`, so that `status` knows what is left."""
    known = read_json(out / PLAN_FILE)
    names = list(known["jobs"]) if isinstance(known, dict) else []
    method = source.method if source else "MAE"
    variants = [plan.variant(p) for p in plan.pretrainings] or [""]
    names += [_name(p, "scratch") for p in plan.pretrainings]
    for variant in variants:
        names += [_name(e, method, variant) if e.start == "checkpoint" else _name(e, "scratch") for e in plan.entries]
    write_json(out / PLAN_FILE, {"jobs": list(dict.fromkeys(names))})


def _name(entry: Entry, method: str, variant: str = "") -> str:
    return job_name(entry.recipe.protocol(), entry.recipe_name, method, entry.recipe.seed, variant)


def load_encoder(path: str | Path, *, img_size: int | None = None) -> Any:
    """The encoder of a checkpoint as a timm `VisionTransformer`, in evaluation mode."""
    return load_checkpoint(path).encoder(img_size=img_size).eval()
