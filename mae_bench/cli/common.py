"""What the verbs of the command line share: options and printing. The verbs are in the files beside this one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from backbones.atomic import json_text
from mae_bench.common.text import visible

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
        metavar="timm:NAME",
        help="Which model a file holds that does not say so itself (no config.json, names of several models).",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with errors.")]


_state = {"debug": False}


def set_debug(on: bool, *, reset: bool = False) -> None:
    """Turns tracebacks on, or off with `reset`; so the flag works before and after the verb."""
    _state["debug"] = on or (_state["debug"] and not reset)


def debugging() -> bool:
    """Whether errors come with a traceback."""
    return _state["debug"]


def include(folders: list[Path] | None) -> None:
    """Takes the folders of ``--include`` into what recipes and suites are found in."""
    if folders:
        from mae_bench.recipes import protocol_files

        protocol_files.include(folders)


def print_rows(rows: list[dict[str, str]]) -> None:
    """Aligned columns, plain text; a terminal gets them as wide as they are."""
    if not rows:
        return
    headings = list(rows[0])
    rows = [{h: visible(text) for h, text in row.items()} for row in rows]
    widths = {h: max(len(h), *(len(r[h]) for r in rows)) for h in headings}
    print("  ".join(h.ljust(widths[h]) for h in headings).rstrip())
    for row in rows:
        print("  ".join(row[h].ljust(widths[h]) for h in headings).rstrip())


def print_json(content: Any) -> None:
    """Prints JSON for programs."""
    print(json_text(content, indent=2, ascii=True))


def is_main() -> bool:
    """Whether this process prints: under torchrun only the first does."""
    from mae_bench.common.console import processes

    return bool(processes().is_main_process)


Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder with records.")]
