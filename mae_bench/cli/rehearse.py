"""The verb `rehearse`: whether jobs start, fit and how long they take, without a GPU (`mae_bench.rehearsal`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from backbones.errors import UserError
from mae_bench.cli.common import Arch, Include, Json, Overrides, include, print_json, print_lines, print_rows
from mae_bench.common.exit_codes import FAILED

if TYPE_CHECKING:
    from mae_bench.jobs.job import PlannedJob
    from mae_bench.rehearsal.show import Asked

Device = Annotated[str, typer.Option("--device", metavar="h100|h200|a100|v100", help="Device to estimate for.")]
Memory = Annotated[str | None, typer.Option("--memory", metavar="SIZE", help="Of a device, e.g. 80GiB.")]
Gpus = Annotated[int | None, typer.Option("--gpus", metavar="N", help="GPUs of a node (default: the recipe's own).")]
Nodes = Annotated[int, typer.Option("--nodes", metavar="N", help="Nodes of a job.")]
Share = Annotated[
    float | None,
    typer.Option("--share", metavar="S", help="Share of the device's peak (default: what published runs reached)."),
]
Network = Annotated[str, typer.Option("--network", metavar="SIZE", help="Bytes a second between nodes, e.g. 50GB.")]


def rehearse(
    recipes: Annotated[
        list[str] | None, typer.Argument(metavar="RECIPE", help="Names (`mae-bench list recipes`) or YAML files.")
    ] = None,
    suite: Annotated[str | None, typer.Option("--suite", metavar="S", help="All jobs of a suite.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All recipes.")] = False,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint", metavar="CKPT", help="Start from it; else from a stand-in of the published shape."
        ),
    ] = None,
    arch: Arch = None,
    data: Annotated[
        list[str] | None, typer.Option("--data", metavar="NAME=DIR", help="Folder of a data set (repeatable).")
    ] = None,
    overrides: Overrides = None,
    device: Device = "h100",
    memory: Memory = None,
    gpus: Gpus = None,
    nodes: Nodes = 1,
    share: Share = None,
    network: Network = "50GB",
    folders: Include = None,
    as_json: Json = False,
) -> None:
    """Rehearse jobs at full size without a GPU: do they start, fit, and how long do they take?"""
    include(folders)
    if sum((bool(recipes), suite is not None, every)) != 1:
        raise UserError("give one of RECIPE, --suite and --all")
    from mae_bench.rehearsal.devices import parse_bytes
    from mae_bench.rehearsal.show import Asked

    room = parse_bytes("--memory", memory) if memory else None
    asked = Asked(device.lower(), room, gpus, nodes, share, parse_bytes("--network", network))
    show(_jobs(recipes or [], suite, checkpoint, arch, data or [], overrides or []), asked, as_json)


def show(jobs: list[PlannedJob], asked: Asked, as_json: bool) -> None:
    """Rehearses and prints; ends with exit code 1 where a job would not start."""
    from mae_bench.rehearsal import show as shown

    reports = shown.reports(jobs, asked)
    if as_json:
        print_json(shown.as_json(reports, asked))
    else:
        print_rows(shown.rows(reports))
        print_lines(shown.lines(reports, asked))
    if failed := sum(each.stops for each in reports):
        print_lines([f"{failed} of {len(reports)} jobs would not start or not fit"], err=True)
        raise typer.Exit(FAILED)


def _jobs(
    recipes: list[str],
    suite: str | None,
    checkpoint: str | None,
    arch: str | None,
    data: list[str],
    overrides: list[str],
) -> list[PlannedJob]:
    from backbones.checkpoints.checkpoint import load_checkpoint
    from mae_bench.jobs.job import PlannedJob
    from mae_bench.jobs.plan import Request, make_plan
    from mae_bench.recipes.load import recipe_names
    from mae_bench.recipes.options import Options, check_used, load_recipes, parse_data, with_arch

    options = Options(parse_data(data), overrides)
    source = with_arch(checkpoint, arch) if checkpoint else None
    if suite is not None:
        return make_plan(Request([source] if source else [], suite=suite, options=options)).jobs
    loaded = load_recipes(recipes or recipe_names(), options)
    check_used(options, [recipe for recipe, _ in loaded.values()])
    start = load_checkpoint(source) if source else None
    return [
        PlannedJob(name, recipe, start if recipe.task != "pretraining" else None, start="checkpoint")
        for name, (recipe, _) in loaded.items()
    ]
