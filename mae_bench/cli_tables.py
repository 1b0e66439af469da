"""The verbs `table` and `speed` of the command line. Tables themselves are `mae_bench.tables`' subject."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from backbones.atomic import check_writable, write_bytes
from backbones.errors import UserError
from mae_bench.cli_common import Debug, Json, print_json, set_debug


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
    debug: Debug = False,
) -> None:
    """Print a table of the paper (published figure, own figure, difference), or draw a figure to a file."""
    set_debug(debug)
    from mae_bench.record import find
    from mae_bench.tables import build
    from mae_bench.tables.files import choose_format, contents

    if not runs.is_dir():
        raise UserError(f"--runs {runs}: no such folder")
    fmt = choose_format(fmt, out)
    if out is not None:
        check_writable(out)
    content = contents(build(name, find(runs), runs_dir=runs), fmt)
    if out is None:
        print(content.decode(), end="")
    else:
        write_bytes(out, content)
        print(out)


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
