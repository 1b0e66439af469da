"""What stands in a report: runs, results, tables, figures, curves and pictures, collected and ready for the template."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from backbones.errors import UserError
from mae_bench.common.text import plain
from mae_bench.jobs.status import JobStatus, collect
from mae_bench.records.groups import LOSS, RunGroup, group_runs, place
from mae_bench.records.record import FILE_NAME, Record, find
from mae_bench.report.bars import BarGroup, bar_groups, colours_of
from mae_bench.report.caution import Caution, cautions
from mae_bench.report.overlays import Overlay, overlays
from mae_bench.report.own_tables import is_earnest, own_tables
from mae_bench.report.pictures import Album, Picture, of_run
from mae_bench.tables import Table
from mae_bench.tables.formats import charts
from mae_bench.tables.formats.html import html
from mae_bench.tables.own import own_figures, start_of
from tasks.spec import in_decimals

_CURVES = 60  # groups of runs whose training curves are drawn
_RUNS = 300  # runs whose provenance is given in full
_SMALLEST = 0.75  # pixels a point of matplotlib's drawings


@dataclass(frozen=True)
class TableSection:
    """A table of the paper as the page holds it; `svg` where it is drawn, too."""

    title: str
    html: str
    svg: str
    earnest: bool  # shown open


@dataclass(frozen=True)
class Gallery:
    """Pictures under one heading; `note` where there is none, or something to say."""

    title: str
    pictures: tuple[Picture, ...]
    note: str = ""


@dataclass(frozen=True)
class Contents:
    """Everything that the template shows."""

    folder: str
    records: tuple[Record, ...]
    cells: dict[str, RunGroup]
    jobs: tuple[JobStatus, ...]  # without a record
    cautions: tuple[Caution, ...]
    bars: tuple[BarGroup, ...]
    overlays: tuple[Overlay, ...]
    tables: tuple[TableSection, ...]
    galleries: tuple[Gallery, ...]
    recipes: dict[str, str]  # "name (hash)" -> YAML
    left_out: tuple[str, ...]


def collect_contents(runs: Path) -> Contents:
    """Reads everything below `runs`.

    Raises:
        UserError: no such folder, or nothing in it.
    """
    records = find(runs)
    unreadable = sum(1 for _ in runs.rglob(FILE_NAME)) - len(records)
    jobs = _without_record(runs)
    if not records and not jobs and not unreadable:
        raise UserError(
            f"--runs {runs}: no runs there: give the --out folder of `mae-bench run` or `mae-bench pretrain`"
        )
    cells = group_runs(records)
    album, left_out = Album(), []
    figures = own_figures(records, runs)
    colours = colours_of(start for row in figures for start in row.figures)
    galleries = _galleries(cells, album)
    if len(cells) > _CURVES:
        left_out.append(f"training curves of {len(cells) - _CURVES} of {len(cells)} groups of runs")
    if len(records) > _RUNS:
        left_out.append(f"the provenance of {len(records) - _RUNS} of {len(records)} runs (their record.json has it)")
    if album.left_out:
        left_out.append(f"{album.left_out} pictures")
    if album.outside:
        left_out.append(f"pictures that lie outside of their run's folder: {', '.join(map(plain, album.outside[:10]))}")
    if album.unreadable:
        left_out.append(f"pictures that cannot be read: {', '.join(album.unreadable[:10])}")
    return Contents(
        folder=runs.absolute().name,
        records=tuple(records[:_RUNS]),
        cells=cells,
        jobs=tuple(jobs),
        cautions=tuple(cautions(records, cells, jobs, unreadable)),
        bars=tuple(bar_groups(figures, colours)),
        overlays=tuple(overlays(dict(list(cells.items())[:_CURVES]), colours)),
        tables=tuple(_shown(table) for table in own_tables(records, runs)),
        galleries=galleries,
        recipes={recipe_key(r): yaml.safe_dump(r.recipe, sort_keys=False, allow_unicode=True) for r in records[:_RUNS]},
        left_out=tuple(left_out),
    )


def recipe_key(record: Record) -> str:
    """What tells recipes apart on the page."""
    return f"{plain(record.recipe_name)} ({record.recipe_hash[:12]})"


def run_name(record: Record, runs: Path) -> str:
    """A run's folder below `runs`."""
    return place(record, runs).removesuffix(f"/{FILE_NAME}")


def _without_record(runs: Path) -> list[JobStatus]:
    try:
        return [job for job in collect(runs) if job.state != "done"]
    except UserError:  # records that were copied together, without the files of a run
        return []


def _shown(table: Table) -> TableSection:
    earnest = is_earnest(table)
    svg = _inline(charts.draw(table, "svg").decode()) if earnest and table.chart is not None else ""
    return TableSection(table.title, html(table), svg, earnest)


def _inline(svg: str) -> str:
    """A drawing without the declaration of a file of its own, at least so wide that its text can be read."""
    svg = svg[svg.index("<svg") :]
    width = float(svg.partition('viewBox="')[2].split()[2])
    return svg.replace("<svg", f'<svg style="min-width: {_SMALLEST * width:.0f}px"', 1)


def _galleries(cells: Mapping[str, RunGroup], album: Album) -> tuple[Gallery, ...]:
    """What each detector, segmenter and pre-training predicts: of its first seed that left pictures; pre-trainings first."""
    found = []
    for cell in sorted(cells.values(), key=lambda cell: cell.records[0].task != "pretraining"):
        for record in cell.records:
            folder = record.path.parent if record.path is not None else None
            if folder is not None and (
                pictures := [*of_run(folder, ".", album), *of_run(folder, "predictions", album)]
            ):
                found.append(Gallery(f"{cell.name}, seed {record.seed}", tuple(album.take(pictures))))
                break
        else:
            path = cell.records[0].path
            if cell.records[0].task == "pretraining" and path is not None:
                command = f"mae-bench reconstruct {path.parent.name} IMAGE... --out FILE.png"
                found.append(Gallery(cell.name, (), f"No reconstructions in the run's folder: {command} draws them."))
    return tuple(found)


def figure_text(cell: RunGroup, metric: str) -> str:
    """``43.2 ± 0.9``, with the decimals that tables have."""
    found, decimals = cell.figure(metric), cell.declared(metric).decimals
    if found is None:
        return in_decimals(None, decimals)
    spread = "" if found.std is None or not math.isfinite(found.std) else f" ± {in_decimals(found.std, decimals)}"
    return in_decimals(found.value, decimals) + spread


def costs(contents: Contents) -> list[dict[str, Any]]:
    """A line a cell: what it is, its figure over the seeds, speed and device hours."""
    lines = []
    for cell in contents.cells.values():
        first = cell.records[0]
        figure, speed = cell.figure(cell.primary), cell.figure("images_per_s")
        hours = sum(record.device_hours or 0.0 for record in cell.records)
        lines.append(
            {
                "recipe": cell.name.partition(", ")[0],
                "start": start_of(first),
                "encoder": f"{first.arch}, {first.img_size} px",
                "data": first.data.name,
                "metric": "loss" if cell.primary == LOSS else cell.primary,
                "figure": "several runs" if cell.problem else figure_text(cell, cell.primary),
                "sort": figure.value if figure and not cell.problem and math.isfinite(figure.value) else "",
                "seeds": f"seed{'' if len(cell.seeds) == 1 else 's'} {', '.join(map(str, cell.seeds))}",
                "speed": f"{speed.value:,.0f}" if speed else "–",
                "speed_sort": speed.value if speed else "",
                "hours": f"{hours:.2f}",
            }
        )
    return lines
