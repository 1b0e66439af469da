"""The command line: the app, `main` and its exit codes. Each verb has a file beside this one.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 a job failed, 2 bad input (one line says what and
the way out), 75 interrupted (everything is saved; the same command goes on).
"""

from __future__ import annotations

import os
import sys
import traceback
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from backbones.errors import Interrupted, RunFailed, UserError
from mae_bench.cli import check, checkpoint, data, listing, report, run, speed, status, table
from mae_bench.cli.common import debugging, set_debug
from mae_bench.common.exit_codes import BAD_INPUT, FAILED, INTERRUPTED
from mae_bench.common.signals import stop_signals

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


app.command("list")(listing.list_)
app.command()(run.pretrain)
app.command()(run.run)
app.command()(status.status)
app.command()(report.report)
app.command()(check.check)
app.command()(checkpoint.inspect)
app.command()(checkpoint.convert)
app.command()(checkpoint.reconstruct)
app.command()(checkpoint.extract)
app.add_typer(data.app, name="data")
app.command()(table.table)
app.command()(speed.speed)


def main() -> None:
    """Entry point of ``mae-bench``."""
    # Read when torch loads GNU OpenMP. Its default is to spin for milliseconds at the end of every parallel loop, which
    # slows small models eightfold as soon as anything else runs on the machine; a short spin costs an idle one little.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        with stop_signals():  # from the first import on: a job that is stopped early is asked for again, too
            app()
    except UserError as e:
        if debugging():
            traceback.print_exc()
        print(f"error: {e}", file=sys.stderr)
        sys.exit(FAILED if isinstance(e, RunFailed) else BAD_INPUT)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Interrupted as e:
        print(f"interrupted: {e}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as e:
        said = _dead_worker(e)
        if said is None:
            raise
        print(f"error: {said}; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(FAILED)


def _dead_worker(error: Exception) -> str | None:
    """The message if `error` reports a data worker's death, which can surface anywhere, even while the process exits."""
    loading = sys.modules.get(
        "tasks.datasets.loading"
    )  # not imported: no workers, and other errors need not wait for torch
    if loading is None or not isinstance(error, loading.WORKER_DEATH_ERRORS):
        return None
    said: str | None = loading.explain_dead_worker(error)
    return said


if __name__ == "__main__":
    main()
