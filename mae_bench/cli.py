"""The command line: parsing, printing, exit codes. Verbs live in `api`, `status` and `tables`.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 a job failed, 2 bad input (one line says what and
the way out), 75 interrupted (everything is saved; the same command goes on).
"""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from backbones.errors import UserError, unknown
from mae_bench import cli_checkpoints, cli_data, cli_runs
from mae_bench.cli_common import BAD_INPUT, INTERRUPTED, Debug, Json, debugging, print_json, print_rows, set_debug

app = typer.Typer(
    name="mae-bench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="From a ViT checkpoint to the tables of the MAE paper (He et al., CVPR 2022).",
    epilog="Exit codes: 0 done, 1 a job failed, 2 bad input, 75 interrupted (the same command goes on).",
)


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
    set_debug(debug, reset=True)


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
        print_json(rows)
    else:
        print_rows(rows)


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
    set_debug(debug)
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


app.command()(cli_runs.pretrain)
app.command()(cli_runs.run)
app.command()(cli_runs.status)
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
    set_debug(debug)
    from mae_bench.speed import measure, table2
    from mae_bench.tables import render

    measured = measure(arch, batch_size=batch_size, steps=steps, epochs=epochs, out=out)
    if as_json:
        print_json(asdict(measured))
    else:
        print(render(table2(measured), "md"), end="")


def main() -> None:
    """Entry point of ``mae-bench``."""
    # Read when torch loads GNU OpenMP. Its default is to spin for milliseconds at the end of every parallel loop, which
    # slows small models eightfold as soon as anything else runs on the machine; a short spin costs an idle one little.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        app()
    except UserError as e:
        if debugging():
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
