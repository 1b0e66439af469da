"""The verbs behind the command line and the Python API: pre-train, plan, run. Parsing and printing are `mae_bench.cli`'s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backbones.checkpoints.checkpoint import load_checkpoint
from backbones.encoders.contract import Encoder
from backbones.errors import UserError
from mae_bench.common.console import processes, say
from mae_bench.common.rendezvous import wait_at_most
from mae_bench.jobs import ledger
from mae_bench.jobs.job import JobPlan, PlannedJob
from mae_bench.jobs.plan import Request, make_plan
from mae_bench.jobs.run import make_folder, run_job
from mae_bench.launchers import launch, local
from mae_bench.launchers.base import Outcome, Settings
from mae_bench.recipes.load import load_recipe
from mae_bench.recipes.options import Options
from mae_bench.recipes.pretraining import default_recipe_name, describe_pretraining
from mae_bench.records.record import Record
from mae_bench.rehearsal.starts import obstacles, obstacles_seen_from_a_child
from tasks import require


@dataclass(frozen=True)
class Launcher:
    """Which launcher, with its settings; `only` names the one job to run, as processes do that a launcher started."""

    name: str = "local"
    settings: Settings = field(default_factory=Settings)
    only: str | None = None


def pretrain(recipe: str, out: str | Path, *, data: str | Path | None = None, overrides: Sequence[str] = ()) -> Record:
    """Pre-trains by a recipe (name or file) into the run directory `out`; goes on when interrupted, returns when done."""
    _check_kinds(recipe=recipe, out=out, overrides=overrides)
    resolved = load_recipe(recipe, overrides)
    if resolved.task != "pretraining":
        raise UserError(f"recipe {recipe} is for {resolved.task}: use `mae-bench run --tasks {recipe}`")
    if data is not None:
        resolved.data.root = str(Path(data).expanduser().resolve())
    wait_at_most(resolved.train.rendezvous_timeout)
    default = load_recipe(default_recipe_name(recipe), overrides)
    job = PlannedJob(recipe, resolved, pretraining=describe_pretraining(resolved, default))
    return run_job(job, lambda _: Path(out))


def run(
    out: str | Path,
    *,
    checkpoint: str | Path | Sequence[str | Path] | None = None,
    scratch: str | None = None,
    tasks: Sequence[str] = (),
    suite: str | None = None,
    data: Mapping[str, str | Path] | None = None,
    overrides: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    pretrain_seeds: Sequence[int] | None = None,
    launcher: Launcher | None = None,
) -> Outcome:
    """Runs tasks or a suite from checkpoints or from scratch into folders under `out`.

    Jobs that are done are not run again. A job that fails does not stop the others.

    Args:
        checkpoint: one or several, each ``FILE`` or ``NAME=FILE``.
        scratch: architecture to train from random weights, such as ``vit_base_patch16``.
        tasks: protocols such as ``finetune`` and ``knn``, or names of recipes.
        suite: name or file of a suite, in place of `tasks`.
        data: name of a data set -> its folder.
        overrides: ``key=value``, or ``protocol:key=value``, as ``--set`` takes them.
        seeds: run every job with each of them.
        pretrain_seeds: run a suite's pre-trainings with each of them.

    Returns:
        records of what was done, failures by job, tables that show the records.

    Raises:
        TypeError: an argument of the wrong kind; the line names it.
        UserError: what was asked for cannot be run at all (unknown names, missing packages, unreadable checkpoint).
        backbones.errors.Interrupted: a signal came.
    """
    _check_kinds(out=out, tasks=tasks, overrides=overrides, seeds=seeds, pretrain_seeds=pretrain_seeds, data=data)
    folders = {name: str(Path(folder).expanduser().resolve()) for name, folder in (data or {}).items()}
    options = Options(folders, list(overrides), seeds, pretrain_seeds)
    request = make_request(checkpoint=checkpoint, scratch=scratch, tasks=tasks, suite=suite, options=options)
    return run_request(request, Path(out), launcher or Launcher())


def _check_kinds(**arguments: Any) -> None:
    """A TypeError that names the argument: a text is a sequence of letters, and would else be taken for one of names."""
    for name, value in arguments.items():
        if name in ("tasks", "overrides") and not _is_list_of(value, str):
            raise TypeError(f"{name}={value!r}: give a list of texts, such as {_EXAMPLES[name]}")
        if name in ("seeds", "pretrain_seeds") and value is not None and not _is_list_of(value, int):
            raise TypeError(f"{name}={value!r}: give a list of whole numbers, such as [0, 1, 2]")
        if (
            name == "data"
            and value is not None
            and not (isinstance(value, Mapping) and all(isinstance(folder, (str, Path)) for folder in value.values()))
        ):
            raise TypeError(f"{name}={value!r}: give a mapping such as {_EXAMPLES[name]}")
        if name in ("out", "recipe", "folder") and not isinstance(value, (str, Path)):
            raise TypeError(f"{name}={value!r}: give a path or a name as text")


_EXAMPLES = {
    "tasks": '["finetune", "knn"]',
    "overrides": '["optimizer.blr=1e-3"]',
    "data": '{"imagenet": "/data/imagenet"}',
}


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(type(item) is kind for item in value)


def make_request(
    *,
    checkpoint: str | Path | Sequence[str | Path] | None = None,
    scratch: str | None = None,
    tasks: Sequence[str] = (),
    suite: str | None = None,
    options: Options | None = None,
) -> Request:
    """What `run` and `mae_bench.jobs.plan.make_plan` take."""
    given = [checkpoint] if isinstance(checkpoint, (str, Path)) else checkpoint or []
    return Request([str(c) for c in given], scratch, tasks, suite, options or Options())


def run_request(request: Request, out: Path, launcher: Launcher) -> Outcome:
    """As `run`."""
    plan = make_plan(request)
    wait_at_most(max((job.recipe.train.rendezvous_timeout for job in plan.jobs), default=1800.0))
    for job in plan.jobs:
        require(job.recipe.task)
    make_folder(out)
    if launcher.only is not None:
        return local.only(launcher.only, plan, out)
    _say_what_will_not_start(plan, out, apart=launcher.name != "local")
    if processes().is_main_process:
        ledger.write_plan(out, plan)
    outcome = launch(launcher.name, request, plan, out, launcher.settings)
    outcome.tables, outcome.notes = plan.tables, plan.notes
    if launcher.name != "slurm":  # that would be the machine that submits
        _measure_speed(plan, out, outcome)
    return outcome


def _say_what_will_not_start(plan: JobPlan, out: Path, *, apart: bool) -> None:
    """Before the first of several jobs starts; the others run all the same, since they do not hang on those.

    Args:
        apart: jobs run in processes of their own.
    """
    todo = [job for job in plan.jobs if ledger.state(out, plan, job) != "done"]
    if len(todo) < 2 or not processes().is_main_process:  # a single job says it at once itself
        return
    for name, said in (obstacles_seen_from_a_child if apart else obstacles)(todo).items():
        say(f"will not start: {name}: {said}", style="yellow")


def _measure_speed(plan: JobPlan, out: Path, outcome: Outcome) -> None:
    """Table 2's measurements, which are of this machine and no jobs."""
    from mae_bench.speed import measure

    for arch in plan.speed:
        folder = out / "speed" / arch
        if (folder / "speed.json").is_file():
            continue
        try:
            measure(arch, out=folder)
        except (UserError, RuntimeError) as e:
            outcome.failures[f"speed/{arch}"] = " ".join(str(e).split())


def load_encoder(path: str | Path, *, img_size: int | None = None) -> Encoder:
    """A checkpoint's encoder with its preprocessing (`mae_bench.Encoder`), in evaluation mode; ``net`` is timm's model."""
    return load_checkpoint(path).open(img_size=img_size).eval()


def table(name: str, runs: str | Path, format: str = "md") -> str:
    """A table of the paper from the records under `runs`, as text: ``md``, ``csv``, ``json``, ``latex`` or ``html``.

    Raises:
        UserError: no such table, format or folder.
    """
    from mae_bench.records.record import find
    from mae_bench.tables import build, render

    if not Path(runs).is_dir():
        raise UserError(f"runs={runs}: no such folder")
    return render(build(name, find(runs), runs_dir=runs), format)
