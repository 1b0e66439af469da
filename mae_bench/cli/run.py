"""The verbs that run jobs: `pretrain` and `run`."""

from __future__ import annotations

import glob
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backbones.errors import UserError
from mae_bench.cli.common import (
    Arch,
    Include,
    Json,
    Overrides,
    include,
    is_main,
    print_json,
    print_lines,
    print_rows,
)
from mae_bench.common.exit_codes import FAILED, INTERRUPTED

if TYPE_CHECKING:  # torch takes seconds to import, and a wrong option needs none of it
    from mae_bench.jobs.plan import Request
    from mae_bench.launchers.base import Outcome


def pretrain(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name (`mae-bench list recipes`) or YAML file.")],
    out: Annotated[Path, typer.Option("--out", help="Run directory; an interrupted run there goes on.")],
    data: Annotated[str | None, typer.Option("--data", metavar="DIR", help="Folder of the data set.")] = None,
    overrides: Overrides = None,
    folders: Include = None,
    as_json: Json = False,
) -> None:
    """Pre-train a masked autoencoder by a recipe."""
    include(folders)
    from mae_bench import api
    from mae_bench.recipes.options import named_path

    folder = named_path("--data", data)[1] if data else data
    record = api.pretrain(recipe, out, data=folder, overrides=overrides or [])
    if not is_main():
        return
    if as_json:
        print_json(record.to_dict())
    else:
        print_lines([f"encoder: {out / 'encoder.safetensors'}", f"record:  {out / 'record.json'}"])


def run(
    out: Annotated[Path, typer.Option("--out", help="Folder for run directories; what is done there is kept.")],
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--checkpoint",
            metavar="[NAME=]CKPT",
            help="Checkpoint file or folder, run directory, timm:NAME, hf:OWNER/NAME or module:package.file:function; "
            "repeatable. NAME is the method that tables show.",
        ),
    ] = None,
    arch: Arch = None,
    scratch: Annotated[
        str | None, typer.Option("--scratch", metavar="ARCH", help="Start from random weights, e.g. vit_base_patch16.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option("--tasks", metavar="T1,T2", help="finetune, linear, detection, segmentation, or recipe names."),
    ] = None,
    suite: Annotated[str | None, typer.Option("--suite", metavar="S", help="A suite, e.g. quickstart.")] = None,
    from_record: Annotated[
        Path | None,
        typer.Option("--from", metavar="RECORD", help="Run the job of this record.json again and compare the metrics."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", metavar="NAME=DIR", help="Folder of a data set, e.g. imagenet=/data/imagenet (repeatable)."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[TASK:]KEY=VALUE",
            help="Override a key in all recipes, or in a task's: --set finetune:schedule.epochs=5 (repeatable).",
        ),
    ] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", metavar="0,1,2", help="Run every job with each seed.")] = None,
    pretrain_seeds: Annotated[
        str | None, typer.Option("--pretrain-seeds", metavar="0,1", help="Run a suite's pre-trainings with each seed.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the jobs, their data and cost; run nothing.")
    ] = False,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="With --dry-run: also rehearse the jobs, as `mae-bench rehearse` does.")
    ] = False,
    launcher: Annotated[
        str, typer.Option("--launcher", metavar="local|cpus|gpus|torchrun|slurm", help="How jobs get onto machines.")
    ] = "local",
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", metavar="N", help="For cpus: how many at once (default: one a core, as memory allows)."),
    ] = None,
    gpus: Annotated[
        str | None, typer.Option("--gpus", metavar="0,1,2", help="For gpus: which ones (default: all there are).")
    ] = None,
    gpus_per_job: Annotated[
        int | None, typer.Option("--gpus-per-job", metavar="N", help="For gpus and slurm: instead of the recipes' own.")
    ] = None,
    torchrun: Annotated[
        list[str] | None,
        typer.Option("--torchrun", metavar="KEY=VALUE,…", help="For torchrun: its options, e.g. nproc_per_node=8."),
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            "--slurm", metavar="KEY=VALUE,…", help="For slurm: sbatch's options, e.g. partition=gpu,time=4:00:00."
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="For slurm: wait for all submitted jobs.")] = False,
    only: Annotated[str | None, typer.Option("--only", hidden=True, help="Run this job of the plan alone.")] = None,
    folders: Include = None,
    as_json: Json = False,
) -> None:
    """Run tasks or a suite from checkpoints (or from scratch) and print the results."""
    include(folders)
    if from_record is not None:
        if suite or tasks or checkpoint or arch or scratch or overrides or seeds:
            raise UserError(
                "--from runs a record's job as it was: of the other options only --out and --data go with it"
            )
        return _again(from_record, out, data or [], as_json)
    from mae_bench import api
    from mae_bench.launchers.base import Settings
    from mae_bench.recipes.options import Options, parse_data, with_arch

    options = Options(
        parse_data(data or []),
        overrides or [],
        _parse_seeds("--seeds", seeds),
        _parse_seeds("--pretrain-seeds", pretrain_seeds),
    )
    request = api.make_request(
        checkpoint=[with_arch(item, arch) for item in checkpoint or []],
        scratch=scratch,
        tasks=[t.strip() for t in tasks.split(",") if t.strip()] if tasks else [],
        suite=suite,
        options=options,
    )
    if rehearse and not dry_run:
        raise UserError("--rehearse goes with --dry-run")
    if dry_run:
        return _show_plan(request, out, as_json, rehearse)
    settings = Settings(
        gpus=tuple(g.strip() for g in gpus.split(",") if g.strip()) if gpus else (),
        gpus_per_job=gpus_per_job,
        jobs=jobs,
        torchrun=_pairs("--torchrun", torchrun),
        slurm=_pairs("--slurm", slurm),
        wait=wait,
    )
    outcome = api.run_request(request, out, api.Launcher(launcher, settings, only))
    if is_main():
        _show_outcome(outcome, out, as_json)
    if outcome.interrupted:
        raise typer.Exit(INTERRUPTED)
    if outcome.failures or outcome.not_run:
        raise typer.Exit(FAILED)


def _show_plan(request: Request, out: Path, as_json: bool, rehearsed: bool) -> None:
    from mae_bench.jobs import dry_run
    from mae_bench.jobs.plan import make_plan
    from mae_bench.rehearsal.starts import obstacles

    plan = make_plan(request)
    lines = dry_run.forecast(plan, out)
    stopped = obstacles(plan[line.job] for line in lines if line.state != "done" and line.data_found)
    if rehearsed:
        from mae_bench.rehearsal import show

        reports = show.reports(plan.jobs, show.Asked())
    if as_json:
        content = {**dry_run.as_json(plan, lines), "does_not_start": stopped}
        print_json({**content, "rehearsal": show.as_json(reports, show.Asked())} if rehearsed else content)
    else:
        print_rows(dry_run.as_rows(lines))
        print_lines(dry_run.summary(plan, lines))
        print_lines(f"does not start: {name}: {said}" for name, said in stopped.items())
    if rehearsed:
        if not as_json:
            print()
            print_rows(show.rows(reports))
            print_lines(show.lines(reports, show.Asked()))
        if any(each.stops for each in reports):
            raise typer.Exit(FAILED)
    if stopped:
        raise typer.Exit(FAILED)


def _show_outcome(outcome: Outcome, out: Path, as_json: bool) -> None:
    """The run's own results to stdout, and what to do next; what went wrong comes last, on stderr."""
    from mae_bench.tables.own import own_results

    if as_json:
        print_json([r.to_dict() for r in outcome.records])
    elif outcome.records:
        print_rows(own_results(outcome.records, out))
        print_lines(_next_steps(_filled(outcome, out), out))
    print_lines((f"note: {note}" for note in outcome.notes), err=True)
    if outcome.failures or outcome.not_run:
        typed = shlex.join(["mae-bench", *sys.argv[1:]])
        print_lines(["again, with what is done kept, once the cause is mended:", f"  {typed}"], err=True)
    failures = {name: f"{said}{_log(name, out)}" for name, said in outcome.failures.items()}
    for what, jobs in (("queued", outcome.queued), ("not run", outcome.not_run), ("failed", failures)):
        print_lines((f"{what}: {name}: {said}" for name, said in jobs.items()), err=True)
    if outcome.interrupted:
        print("interrupted: the same command goes on from the last checkpoints", file=sys.stderr)


def _filled(outcome: Outcome, out: Path) -> list[str]:
    """The plan's tables in which figures of this run stand: not those of protocols whose jobs failed."""
    from mae_bench.report.own_tables import own_rows
    from mae_bench.tables import build

    return [name for name in outcome.tables if own_rows(build(name, outcome.records, runs_dir=out))]


def _log(name: str, out: Path) -> str:
    """Where to read on about a job that failed; nothing where it failed before it had a log."""
    logs = sorted((log.stat().st_mtime, log) for log in out.glob(f"{glob.escape(name)}-*/log.jsonl"))
    return f" (log: {logs[-1][1]})" if logs else ""


def _next_steps(tables: list[str], out: Path) -> list[str]:
    """Commands that show more of what was run, as one types them."""
    runs = shlex.quote(str(out))
    lines = [f"mae-bench table {name} --runs {runs}" for name in tables[:3]]
    lines.append(f"mae-bench report --runs {runs} --out {shlex.quote(str(out / 'report.html'))}")
    return ["", f"Records and checkpoints: {out.resolve()}", "Next:", *(f"  {line}" for line in lines)]


def _again(path: Path, out: Path, data: list[str], as_json: bool) -> None:
    from mae_bench.jobs.rerun import compare, rerun
    from mae_bench.recipes.options import parse_data

    old, new = rerun(path, out, parse_data(data))
    if not is_main():
        return
    rows = compare(old, new)
    if as_json:
        print_json({"record": new.to_dict(), "metrics": rows})
        return
    print_rows(
        [{k: "–" if v is None else f"{v:.6g}" if isinstance(v, float) else str(v) for k, v in r.items()} for r in rows]
    )
    print_lines([f"record: {out / 'record.json'}"])


def _parse_seeds(flag: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return list(dict.fromkeys(int(s) for s in text.split(",")))
    except ValueError:
        raise UserError(f"{flag} {text}: give whole numbers, such as 0,1,2") from None


def _pairs(flag: str, items: list[str] | None) -> dict[str, str]:
    """``a=b,c=d`` (repeatable) as a mapping; a bare ``c`` has no value."""
    pairs = {}
    for text in (part for item in items or [] for part in item.split(",")):
        key, _, value = text.strip().partition("=")
        if not key:
            raise UserError(f"{flag} {text}: give KEY=VALUE, several separated by commas")
        pairs[key] = value
    return pairs
