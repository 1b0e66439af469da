"""The verb `table`: one table or figure (`mae_bench.tables`)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from backbones.atomic import check_writable, write_bytes
from backbones.errors import no_folder
from mae_bench.cli.common import print_lines
from mae_bench.common.terminal import width_of


def table(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as table3; `mae-bench list tables` shows all.")],
    runs: Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder with records.")],
    fmt: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="md|csv|json|latex|html|png|svg",
            help="Default: by the ending of --out (.tex is latex), else md.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write a file instead of printing.")] = None,
) -> None:
    """Print a table of the paper (published figure, own figure, difference), or draw a figure to a file."""
    from mae_bench.records.record import find
    from mae_bench.tables import build
    from mae_bench.tables.formats.files import choose_format, contents
    from mae_bench.tables.formats.markdown import markdown

    if not runs.is_dir():
        raise no_folder(f"--runs {runs}", runs)
    fmt = choose_format(fmt, out)
    if out is not None:
        check_writable(out)
    built = build(name, find(runs), runs_dir=runs)
    if out is not None:
        write_bytes(out, contents(built, fmt))
        print_lines([str(out)])
    elif fmt == "md":
        print_lines(markdown(built, width_of(sys.stdout)).splitlines())
    else:
        print(contents(built, fmt).decode(), end="")
