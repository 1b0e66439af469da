"""The verb `report`: one HTML page for a folder of runs (`mae_bench.report`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backbones.errors import UserError, no_folder
from mae_bench.cli.common import Runs, print_lines


def report(
    runs: Runs,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.html", help="The file to write.")],
) -> None:
    """Write everything under DIR as one HTML file: results, curves, pictures, tables, provenance."""
    from mae_bench.report.page import summary, write_report

    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out}: the report is HTML: give a name that ends in .html")
    if not runs.is_dir():
        raise no_folder(f"--runs {runs}", runs)
    contents = write_report(runs, out)
    print_lines([summary(contents), str(out)])
