"""The command line: parsing, printing, exit codes. Verbs live in `api`, `status` and `tables`.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 a job failed, 2 bad input (one line says what and
the way out), 75 interrupted (everything is saved; the same command goes on).
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

from backbones.errors import UserError, unknown
from mae_bench import cli_checkpoints, cli_data

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 75

app = typer.Typer(
    name="mae-bench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="From a ViT checkpoint to the tables of the MAE paper (He et al., CVPR 2022).",
    epilog="Exit codes: 0 done, 1 a job failed, 2 bad input, 75 interrupted (the same command goes on).",
)
_debug = False


def _version(show: bool) -> None:
    if show:
        try:
            print(f"mae-bench {version('mae-bench')}")
        except PackageNotFoundError:
            print("mae-bench (not installed)")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with errors.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    global _debug
    _debug = debug


Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a recipe's key, e.g. --set optimizer.blr=1e-3 (repeatable)."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with errors.")]


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(metavar="tasks|suites|tables|recipes", help="What to list.")],
    as_json: Json = False,
) -> None:
    """List tasks, suites, tables or recipes."""
    from mae_bench.listing import KINDS

    if what not in KINDS:
        raise unknown("listing", what, KINDS)
    rows = KINDS[what]()
    if as_json:
        _print_json(rows)
    else:
        _print_rows(rows)


@app.command()
def pretrain(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name (`mae-bench list recipes`) or YAML file.")],
    out: Annotated[Path, typer.Option("--out", help="Run directory; an interrupted run there goes on.")],
    data: Annotated[str | None, typer.Option("--data", metavar="DIR", help="Folder of the data set.")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Pre-train a masked autoencoder by a recipe."""
    _set_debug(debug)
    from mae_bench import api

    folder = data.partition("=")[2] if data and "=" in data else data
    record = api.pretrain(recipe, out, data=folder, overrides=overrides or [])
    if not _is_main():
        return
    if as_json:
        _print_json(record.to_dict())
    else:
        print(f"encoder: {out / 'encoder.safetensors'}\nrecord:  {out / 'record.json'}")


@app.command()
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
    _set_debug(debug)
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
    if _is_main():
        if as_json:
            _print_json([r.to_dict() for r in outcome.records])
        else:
            _print_tables(outcome.tables, out)
            print(f"Records and checkpoints: {out.resolve()}")
        for name, message in outcome.failures.items():
            print(f"failed: {name}: {message}", file=sys.stderr)
    if outcome.failures:
        raise typer.Exit(FAILED)


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The --out folder of a run.")],
    as_json: Json = False,
) -> None:
    """Show jobs done, running, failed, interrupted and left."""
    from mae_bench.status import collect

    jobs = collect(folder)
    if as_json:
        _print_json([asdict(job) for job in jobs])
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
    _print_rows(rows)
    counts = {s: sum(j.state == s for j in jobs) for s in ("done", "running", "interrupted", "failed", "left")}
    print(", ".join(f"{n} {s}" for s, n in counts.items() if n))


@app.command()
def table(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as table3; `mae-bench list tables` shows all.")],
    runs: Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder with records.")],
    fmt: Annotated[
        str | None,
        typer.Option("--format", metavar="md|csv|json|png|svg", help="Default: by the ending of --out, else md."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write a file instead of printing.")] = None,
    debug: Debug = False,
) -> None:
    """Print a table of the paper (published figure, own figure, difference), or draw fig5, fig7, fig9 to a file."""
    _set_debug(debug)
    from mae_bench.record import find
    from mae_bench.tables import build
    from mae_bench.tables.files import check_out, choose_format, contents, write

    if not runs.is_dir():
        raise UserError(f"--runs {runs}: no such folder")
    fmt = choose_format(fmt, out)
    if out is not None:
        check_out(out)
    content = contents(build(name, find(runs), runs_dir=runs), fmt)
    if out is None:
        print(content.decode(), end="")
    else:
        write(content, out)
        print(out)


app.command()(cli_checkpoints.inspect)
app.command()(cli_checkpoints.convert)
app.command()(cli_checkpoints.reconstruct)
app.command()(cli_checkpoints.extract)
app.add_typer(cli_data.app, name="data")


@app.command()
def speed(
    arch: Annotated[
        str, typer.Option("--arch", metavar="ARCH", help="Encoder, e.g. vit_large_patch16.")
    ] = "vit_large_patch16",
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", metavar="N", help="Images a step (default: 64 on a GPU, 2 on a CPU).")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", help="Steps to measure (default: 20 on a GPU, 2 on a CPU).")
    ] = None,
    epochs: Annotated[float, typer.Option("--epochs", metavar="E", help="Schedule to compute the hours of.")] = 800,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder for speed.json.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure pre-training steps on this machine: the paper's Table 2, with FLOPs."""
    _set_debug(debug)
    from mae_bench.speed import measure, table2
    from mae_bench.tables import render

    measured = measure(arch, batch_size=batch_size, steps=steps, epochs=epochs, out=out)
    if as_json:
        _print_json(asdict(measured))
    else:
        print(render(table2(measured), "md"), end="")


def _print_tables(names: list[str], runs: Path) -> None:
    from mae_bench.record import find
    from mae_bench.tables import build, render

    records = find(runs)
    for name in names:
        print(render(build(name, records, runs_dir=runs), "md"), end="\n\n")


def _print_rows(rows: list[dict[str, str]]) -> None:
    """Aligned columns, plain text; a terminal gets them as wide as they are."""
    if not rows:
        return
    headings = list(rows[0])
    widths = {h: max(len(h), *(len(r[h]) for r in rows)) for h in headings}
    print("  ".join(h.ljust(widths[h]) for h in headings).rstrip())
    for row in rows:
        print("  ".join(row[h].ljust(widths[h]) for h in headings).rstrip())


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2))


def _parse_seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return list(dict.fromkeys(int(s) for s in text.split(",")))
    except ValueError:
        raise UserError(f"--seeds {text}: give whole numbers, such as 0,1,2") from None


def _is_main() -> bool:
    """Whether this process prints: under torchrun only the first does."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def _set_debug(debug: bool) -> None:
    global _debug
    _debug = _debug or debug


def main() -> None:
    """Entry point of ``mae-bench``."""
    # Read when torch loads GNU OpenMP. Its default is to spin for milliseconds at the end of every parallel loop, which
    # slows small models eightfold as soon as anything else runs on the machine; a short spin costs an idle one little.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        app()
    except UserError as e:
        if _debug:
            traceback.print_exc()
        print(f"error: {e}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as e:
        # Named by type, not imported: the engine (and torch) may never have been needed.
        if type(e).__name__ != "Interrupted":
            raise
        print(f"interrupted: {e}", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
