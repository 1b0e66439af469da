"""The verb `speed`: what a pre-training step costs (`mae_bench.speed`)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mae_bench.cli.common import Json, print_json


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
) -> None:
    """Measure pre-training steps on this machine: the paper's Table 2, with FLOPs."""
    from mae_bench.speed import measure
    from mae_bench.tables import render
    from mae_bench.tables.fill.wall_clock import table2_of

    measured = measure(arch, batch_size=batch_size, steps=steps, epochs=epochs, out=out)
    if as_json:
        print_json(asdict(measured))
    else:
        print(render(table2_of(measured), "md"), end="")
