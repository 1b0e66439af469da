"""Verbs of the command line that run jobs and say where they stand: parsing and printing only. `cli` registers them."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from backbones.errors import UserError
from mae_bench.cli_common import (
    FAILED,
    Debug,
    Json,
    Overrides,
    is_main,
    print_json,
    print_rows,
    print_tables,
    set_debug,
)


def pretrain(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name (`mae-bench list recipes`) or YAML file.")],
    out: Annotated[Path, typer.Option("--out", help="Run directory; an interrupted run there goes on.")],
    data: Annotated[str | None, typer.Option("--data", metavar="DIR", help="Folder of the data set.")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Pre-train a masked autoencoder by a recipe."""
    set_debug(debug)
    from mae_bench import api

    folder = data.partition("=")[2] if data and "=" in data else data
    record = api.pretrain(recipe, out, data=folder, overrides=overrides or [])
    if not is_main():
        return
    if as_json:
        print_json(record.to_dict())
    else:
        print(f"encoder: {out / 'encoder.safetensors'}\nrecord:  {out / 'record.json'}")


def run(
    out: Annotated[Path, typer.Option("--out", help="Folder for run directories; what is done there is kept.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", metavar="CKPT", help="Checkpoint file, or a pre-training's run directory."),
    ] = None,
    scratch: Annotated[
        str | None, typer.Option("--scratch", metavar="ARCH", help="Start from random weights, e.g. vit_base_patch16.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option("--tasks", metavar="T1,T2", help="finetune, linear, detection, segmentation, or recipe names."),
    ] = None,
    suite: Annotated[str | None, typer.Option("--suite", metavar="S", help="A suite, e.g. quickstart.")] = None,
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
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run tasks or a suite from a checkpoint (or from scratch) and print the tables."""
    set_debug(debug)
    from mae_bench import api
    from mae_bench.suites import Options, parse_data

    options = Options(parse_data(data or []), overrides or [], _parse_seeds(seeds))
    outcome = api.run(
        out,
        checkpoint=checkpoint,
        scratch=scratch,
        tasks=[t.strip() for t in tasks.split(",") if t.strip()] if tasks else [],
        suite=suite,
        options=options,
    )
    if is_main():
        if as_json:
            print_json([r.to_dict() for r in outcome.records])
        else:
            print_tables(outcome.tables, out)
            print(f"Records and checkpoints: {out.resolve()}")
        for name, message in outcome.failures.items():
            print(f"failed: {name}: {message}", file=sys.stderr)
    if outcome.failures:
        raise typer.Exit(FAILED)


def status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The --out folder of a run.")],
    as_json: Json = False,
) -> None:
    """Show jobs done, running, failed, interrupted and left."""
    from mae_bench.status import collect

    jobs = collect(folder)
    if as_json:
        print_json([asdict(job) for job in jobs])
        return
    rows = []
    for job in jobs:
        metrics = {k: v for k, v in (job.metrics or {}).items() if k in ("top1", "box_ap", "mask_ap", "mIoU")}
        rows.append(
            {
                "job": job.name,
                "state": job.state,
                "step": f"{job.step}/{job.total}" if job.step is not None and job.total else "",
                "left": f"{job.seconds_left:.0f} s" if job.state == "running" and job.seconds_left else "",
                "result": job.error or "  ".join(f"{k} {v:.1f}" for k, v in metrics.items() if v is not None),
            }
        )
    print_rows(rows)
    counts = {s: sum(j.state == s for j in jobs) for s in ("done", "running", "interrupted", "failed", "left")}
    print(", ".join(f"{n} {s}" for s, n in counts.items() if n))


def _parse_seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return list(dict.fromkeys(int(s) for s in text.split(",")))
    except ValueError:
        raise UserError(f"--seeds {text}: give whole numbers, such as 0,1,2") from None
