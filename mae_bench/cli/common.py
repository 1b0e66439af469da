"""What the verbs of the command line share: options and printing. The verbs are in the files beside this one."""

from __future__ import annotations

import functools
import inspect
import os
import resource
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from backbones.atomic import json_text
from backbones.errors import RunFailed
from mae_bench.common.terminal import columns, shown_on, width_of

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a recipe's key, e.g. --set optimizer.blr=1e-3 (repeatable)."
    ),
]
Include = Annotated[
    list[Path] | None,
    typer.Option("--include", metavar="DIR", help="Folder with protocols and suites of your own (repeatable)."),
]
Arch = Annotated[
    str | None,
    typer.Option(
        "--arch",
        metavar="timm:NAME|vit_wW_dD_hH_patchP",
        help="Which model a file holds that does not say so itself (no config.json, names of several models): one of timm's, "
        "or a plain ViT by width, depth, heads and patch (or vit_base_patch16).",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks, and what libraries warn of.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress: results and errors only.")]

_state = {"debug": False, "quiet": False}
_TORCH = int(3.2 * 2**30)  # bytes of addresses that a process with torch and what it loads takes at least


def set_debug(on: bool, *, reset: bool = False) -> None:
    """Turns tracebacks on, or off with `reset`; so the flag works before and after the verb."""
    from mae_bench.common.library_warnings import show_library_warnings

    _state["debug"] = on or (_state["debug"] and not reset)
    if _state["debug"]:
        show_library_warnings()


def debugging() -> bool:
    """Whether errors come with a traceback."""
    return _state["debug"]


class _FlagsWithoutType:
    """``--json``, not ``--json <bool>``; those that typer adds, ``--help`` and ``--install-completion``, too."""

    def get_params(self, ctx: Any) -> Any:
        found = super().get_params(ctx)  # type: ignore[misc]
        for option in found:
            if getattr(option, "is_flag", False):
                option.metavar = ""
        return found


class Verb(_FlagsWithoutType, TyperCommand):
    """A verb; of words that it has no place for it says how an option takes several values."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        try:
            return super().parse_args(ctx, args)
        except Exception as e:
            message = getattr(e, "message", "")
            if "extra argument" in message:
                e.message = f"{message}. Several values have commas and no spaces: --tasks knn,linear"  # type: ignore[attr-defined]
            raise


class Verbs(_FlagsWithoutType, TyperGroup):
    """The app, or a verb that has verbs of its own."""


def add_verb(app: typer.Typer, function: Callable[..., None], *, name: str, example: str, slow: bool = False) -> None:
    """Makes a function a verb of the command line, with what all verbs have: ``--debug``, ``--quiet`` and an example.

    Args:
        example: what follows ``mae-bench NAME`` in a command that runs; shown under the help text.
        slow: it imports torch, which takes seconds, so a terminal is told at once that something goes on.
    """
    told = inspect.signature(function, eval_str=True)
    words = f"{'data ' if app.info.name == 'data' else ''}{name}"
    common = [
        inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug),
        inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet),
    ]

    @functools.wraps(function)
    def verb(*args: Any, debug: bool, quiet: bool, **kwargs: Any) -> None:
        set_debug(debug)
        set_quiet(quiet)
        if slow and not _state["quiet"] and sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
            print(f"mae-bench {words}: loading", file=sys.stderr, flush=True)
        if slow:
            check_address_space()
        function(*args, **kwargs)

    parameters = [*told.parameters.values(), *common]
    verb.__signature__ = told.replace(parameters=parameters)  # type: ignore[attr-defined]
    verb.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {"return": None}
    app.command(name, cls=Verb, epilog=f"Example: mae-bench {words} {example}")(verb)


def check_address_space() -> None:
    """Says at once where `ulimit -v` does not let torch be imported: the system's loader would end the process without a word.

    Raises:
        RunFailed: that is so.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < _TORCH:
        raise RunFailed(
            f"`ulimit -v` allows {limit / 2**30:.1f} GiB, of which torch alone takes {_TORCH / 2**30:.1f}: raise it"
        )


def set_quiet(on: bool, *, reset: bool = False) -> None:
    """Turns progress off, or on with `reset`."""
    from tasks.progress import console

    _state["quiet"] = on or (_state["quiet"] and not reset)
    console.quiet = _state["quiet"]


def include(folders: list[Path] | None) -> None:
    """Takes the folders of ``--include`` into what recipes and suites are found in."""
    if folders:
        from mae_bench.recipes import protocol_files

        protocol_files.include(folders)


def print_lines(lines: Iterable[str], err: bool = False) -> None:
    """Each as one line, to stderr with `err`: what files and people name cannot steer a terminal or begin a line of its own."""
    stream = sys.stderr if err else sys.stdout
    for line in lines:
        print(shown_on(stream, line), file=stream)


def print_rows(rows: list[dict[str, str]]) -> None:
    """Aligned columns, plain text; a terminal gets them no wider than it is."""
    for lines in columns(rows, width_of(sys.stdout)) if rows else []:
        print("\n".join(lines))


def print_json(content: Any) -> None:
    """Prints JSON for programs."""
    print(json_text(content, indent=2, ascii=True))


def is_main() -> bool:
    """Whether this process prints: under torchrun only the first does."""
    from mae_bench.common.console import processes

    return bool(processes().is_main_process)


Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder with records.")]
