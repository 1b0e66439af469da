"""The verb `check`: runs against a baseline (`mae_bench.check`)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from backbones import atomic
from backbones.errors import UserError, no_folder
from mae_bench.cli.common import Json, Runs, print_json, print_lines, print_rows


def check(
    runs: Runs,
    baseline: Annotated[Path, typer.Option("--baseline", metavar="FILE", help="YAML file of figures to hold.")],
    update: Annotated[
        bool, typer.Option("--update", help="Write these runs' figures into FILE; tolerances and comments stay.")
    ] = False,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML, too.")] = None,
    github: Annotated[
        bool,
        typer.Option("--github", help="Annotations for GitHub, on stderr (by itself where GITHUB_ACTIONS=true)."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Hold runs against a baseline. Exit codes: 0 holds, 1 regressed, 2 could not compare."""
    from mae_bench.check import ci, show
    from mae_bench.check.baseline import load
    from mae_bench.check.baseline import update as write
    from mae_bench.check.compare import HOLDS, Verdict, compare, unfinished_cells
    from mae_bench.records.groups import group_runs
    from mae_bench.records.record import find

    if not runs.is_dir():
        raise no_folder(f"--runs {runs}", runs)
    if junit is not None:
        atomic.check_writable(junit, f"--junit {junit}")
    cells = group_runs(find(runs))
    if update:
        atomic.check_writable(baseline, f"--baseline {baseline}")
        if not cells:
            raise UserError(f"--runs {runs}: no finished run to take a baseline from")
        before = load(baseline) if baseline.exists() else None
        verdict = compare(before, cells, unfinished_cells(runs, before.cells)) if before else Verdict(())
        write(baseline, cells)
    else:
        held = load(baseline)
        verdict = compare(held, cells, unfinished_cells(runs, held.cells))
    if junit is not None:
        atomic.write_bytes(junit, ci.junit(verdict))
    if github or os.environ.get("GITHUB_ACTIONS") == "true":
        for line in ci.github(verdict, baseline):
            print(line, file=sys.stderr)
        ci.write_summary(verdict)
    if as_json:
        print_json(show.as_dict(verdict))
    else:
        print_rows(show.rows(verdict))
        count = f"{len(cells)} cell{'' if len(cells) == 1 else 's'}"
        print_lines([f"{baseline}: written, {count}" if update else show.summary(verdict)])
    if not update and verdict.code != HOLDS:
        raise typer.Exit(verdict.code)
