"""The command line: the app, `main` and its exit codes. Each verb has a file beside this one.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 a job failed, 2 bad input (one line says what and
the way out), 75 interrupted (everything is saved; the same command goes on).
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import traceback
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from backbones.errors import Interrupted, RunFailed, UserError
from mae_bench.cli import check, checkpoint, data, listing, rehearse, report, run, setup, speed, status, table
from mae_bench.cli.common import Debug, Quiet, Verbs, add_verb, debugging, set_debug, set_quiet
from mae_bench.common.exit_codes import BAD_INPUT, FAILED, INTERRUPTED
from mae_bench.common.library_warnings import library_warnings_kept
from mae_bench.common.signals import stop_signals
from mae_bench.common.terminal import shown_on

app = typer.Typer(
    name="mae-bench",
    cls=Verbs,
    no_args_is_help=True,
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
    debug: Debug = False,
    quiet: Quiet = False,
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave."),
    ] = False,
) -> None:
    set_debug(debug, reset=True)
    set_quiet(quiet, reset=True)


_RUNS = "--runs runs/quickstart"
add_verb(app, listing.list_, name="list", example="tasks")
add_verb(app, run.pretrain, name="pretrain", example="pretrain/vit_micro_patch8_embedded --out runs/mae", slow=True)
add_verb(app, run.run, name="run", example="--suite quickstart --out runs/quickstart", slow=True)
add_verb(app, rehearse.rehearse, name="rehearse", example="pretrain/vit_large_patch16_imagenet", slow=True)
add_verb(app, status.status, name="status", example="runs/quickstart")
add_verb(app, report.report, name="report", example=f"{_RUNS} --out report.html", slow=True)
add_verb(app, check.check, name="check", example=f"{_RUNS} --baseline baseline.yaml --update")
add_verb(app, checkpoint.inspect, name="inspect", example="timm:vit_tiny_patch16_224", slow=True)
add_verb(app, checkpoint.convert, name="convert", example="runs/mae --to timm --out encoder.safetensors", slow=True)
add_verb(
    app, checkpoint.reconstruct, name="reconstruct", example="runs/mae photo.jpg --out reconstruction.png", slow=True
)
add_verb(app, checkpoint.extract, name="extract", example="runs/mae --data photos --out features.npy", slow=True)
app.add_typer(data.app, name="data")
add_verb(app, table.table, name="table", example=f"table3 {_RUNS}")
add_verb(app, setup.setup, name="setup", example="detectron2")
add_verb(app, speed.speed, name="speed", example="--arch vit_micro_patch8", slow=True)


def main() -> None:
    """Entry point of ``mae-bench``."""
    # Read when torch loads GNU OpenMP. Its default is to spin for milliseconds at the end of every parallel loop, which
    # slows small models eightfold as soon as anything else runs on the machine; a short spin costs an idle one little.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    _write_any_text()
    stop = None
    try:
        with (
            library_warnings_kept(),
            stop_signals() as stop,
        ):  # from the first import on: a job that is stopped early is asked for again, too
            _run_app()
    except UserError as e:
        _leave(FAILED if isinstance(e, RunFailed) else BAD_INPUT, f"error: {e}")
    except KeyboardInterrupt:
        _leave(INTERRUPTED, "interrupted: the same command goes on from the last checkpoint")
    except Interrupted as e:
        _leave(INTERRUPTED, f"interrupted: {e}")
    except Exception as e:
        if stop is not None and stop.is_set():  # which a library that was being imported made another error of
            _leave(INTERRUPTED, "interrupted: a signal came: the same command goes on")
        said = _dead_worker(e)
        if said is not None:
            _leave(FAILED, f"error: {said}; the same command goes on from the last checkpoint")
        said = _of_the_system(e)
        if said is None:
            raise  # a mistake of ours: its traceback helps whoever reports it
        _leave(FAILED, f"error: {said}")


def _write_any_text() -> None:
    """Names that a terminal's encoding does not have are written with other characters, not met with a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            unicode = (stream.encoding or "").lower().replace("-", "") == "utf8"
            stream.reconfigure(errors="backslashreplace" if unicode else "replace")


def _run_app() -> None:
    """The app, and its results on their way: what cannot be written (a full disk behind stdout) is an error like any other."""
    try:
        app(prog_name="mae-bench")
    finally:
        try:
            sys.stdout.flush()
        except OSError as e:
            # What is left in the buffer would be tried again at the end of the interpreter.
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            if e.errno == errno.EPIPE:  # whoever reads has seen enough
                sys.exit(128 + signal.SIGPIPE)
            raise OSError(e.errno, e.strerror, "stdout") from e


def _leave(code: int, text: str) -> None:
    if debugging():
        traceback.print_exc()
    print(shown_on(sys.stderr, text), file=sys.stderr)
    sys.exit(code)


def _of_the_system(error: Exception) -> str | None:
    """What to say of files that cannot be read or written, and of too little memory; None of all else."""
    memory = sys.modules.get("mae_bench.engine.out_of_memory")
    no_room = isinstance(error, MemoryError) or "std::bad_alloc" in str(error)  # the latter while torch is imported
    short = no_room or (isinstance(error, ImportError) and "failed to map segment" in str(error))
    if short or (isinstance(error, RuntimeError) and memory and memory.is_out_of_memory(error)):
        return "this machine's memory is too small for it: give smaller batches or images, or another machine"
    if isinstance(error, RuntimeError) and str(error).startswith("can't start new thread"):
        return "the system gives no more threads: raise `ulimit -v` (memory) or `ulimit -u` (processes)"
    if not isinstance(error, OSError):
        return None
    return f"{error.filename or 'reading or writing failed'}: {error.strerror or error}"


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
