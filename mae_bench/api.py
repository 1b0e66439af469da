"""The verbs behind the command line and the Python API: pre-train, plan, run. Parsing and printing are `cli_runs`'s."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backbones.checkpoints.checkpoint import load_checkpoint
from backbones.encoders.contract import Encoder
from backbones.errors import UserError
from mae_bench.common.console import processes
from mae_bench.jobs import ledger
from mae_bench.jobs.job import JobPlan, PlannedJob
from mae_bench.jobs.plan import Request, make_plan
from mae_bench.jobs.run import make_folder, run_job
from mae_bench.launchers import launch, local
from mae_bench.launchers.base import Outcome, Settings
from mae_bench.recipes.load import load_recipe
from mae_bench.recipes.options import Options
from mae_bench.recipes.pretraining import default_name, describe_pretraining
from mae_bench.records.record import Record
from tasks import require


@dataclass(frozen=True)
class Launcher:
    """Which launcher, with its settings; `only` names the one job to run, as processes do that a launcher started."""

    name: str = "local"
    settings: Settings = field(default_factory=Settings)
    only: str | None = None


def pretrain(recipe: str, out: str | Path, *, data: str | None = None, overrides: Sequence[str] = ()) -> Record:
    """Pre-trains by a recipe (name or file) into the run directory `out`; goes on when interrupted, returns when done."""
    resolved = load_recipe(recipe, overrides)
    if resolved.task != "pretraining":
        raise UserError(f"recipe {recipe} is for {resolved.task}: use `mae-bench run --tasks {recipe}`")
    if data is not None:
        resolved.data.root = str(Path(data).expanduser().resolve())
    default = load_recipe(default_name(recipe), overrides)
    job = PlannedJob(recipe, resolved, pretraining=describe_pretraining(resolved, default))
    return run_job(job, lambda _: Path(out))


def run(
    out: str | Path,
    *,
    checkpoint: str | Path | Sequence[str | Path] | None = None,
    scratch: str | None = None,
    tasks: Sequence[str] = (),
    suite: str | None = None,
    options: Options | None = None,
    launcher: Launcher | None = None,
) -> Outcome:
    """Runs tasks or a suite from checkpoints or from scratch into folders under `out`.

    Jobs that are done are not run again. A job that fails does not stop the others.

    Args:
        checkpoint: one or several, each ``FILE`` or ``NAME=FILE``.

    Raises:
        UserError: what was asked for cannot be run at all (unknown names, missing packages, unreadable checkpoint).
        mae_bench.engine.Interrupted: a signal came.
    """
    request = make_request(checkpoint=checkpoint, scratch=scratch, tasks=tasks, suite=suite, options=options)
    return run_request(request, Path(out), launcher or Launcher())


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
    for job in plan.jobs:
        require(job.recipe.task)
    make_folder(out)
    if launcher.only is not None:
        return local.only(launcher.only, plan, out)
    if processes().is_main_process:
        ledger.write_plan(out, plan)
    outcome = launch(launcher.name, request, plan, out, launcher.settings)
    outcome.tables, outcome.notes = plan.tables, plan.notes
    if launcher.name != "slurm":  # that would be the machine that submits
        _measure_speed(plan, out, outcome)
    return outcome


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
