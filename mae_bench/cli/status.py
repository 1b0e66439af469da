"""The verb `status`: a table, live with ``--watch``. What it shows is found out by `mae_bench.jobs.status`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from mae_bench.cli.common import Json, print_json, print_lines, print_rows
from mae_bench.common.terminal import columns
from mae_bench.common.text import duration, visible
from mae_bench.jobs.status import UNDER_WAY, JobStatus, collect, progress, summary
from mae_bench.records.groups import shown_metrics

_COLOURS = {
    "done": "green",
    "running": "cyan",
    "queued": "blue",
    "failed": "red",
    "interrupted": "yellow",
    "not run": "red",
}
_REFRESH_SECONDS = 1.0


def rows(jobs: Sequence[JobStatus]) -> list[dict[str, str]]:
    """Plain cells: job, state, progress, images/s, time left, last metrics or what went wrong."""
    return [
        {
            "job": job.name,
            "state": job.state + (f" ({job.slurm})" if job.slurm and job.state in UNDER_WAY else ""),
            "step": " ".join(progress(job)),
            "images/s": f"{job.images_per_s:.0f}" if job.images_per_s else "",
            "left": duration(job.seconds_left) if job.state == "running" and job.seconds_left else "",
            "result": job.error if job.state in ("failed", "not run") and job.error else _metrics(job),
        }
        for job in jobs
    ]


def watch_jobs(folder: Path, console: Console) -> list[JobStatus]:
    """Shows the jobs until none is under way; without a terminal, a line for each change."""
    jobs = collect(folder)
    if not console.is_terminal:
        return _watch_plain(folder, console, jobs)
    with Live(table(jobs, console.width), console=console, auto_refresh=False) as live:
        while any(job.state in UNDER_WAY for job in jobs):
            time.sleep(_REFRESH_SECONDS)
            jobs = collect(folder)
            live.update(table(jobs, console.width), refresh=True)
    return jobs


def table(jobs: Sequence[JobStatus], width: int) -> Text:
    """The jobs in lines of a terminal of `width` characters, in the colours of their states."""
    heading, *lines = columns(rows(jobs), width)
    drawn = [("\n".join(each), _COLOURS.get(job.state, "")) for job, each in zip(jobs, lines, strict=True)]
    return Text("\n").join(Text(*each) for each in [("\n".join(heading), "bold"), *drawn, (summary(jobs), "")])


def _watch_plain(folder: Path, console: Console, jobs: list[JobStatus]) -> list[JobStatus]:
    said: dict[str, str] = {}
    while True:
        for job in jobs:
            line = f"{job.name}: {job.state}"
            if said.get(job.name) != line:
                said[job.name] = line
                detail = rows([job])[0]
                shown = visible(" ".join(filter(None, [line, detail["step"], detail["result"]])))
                console.print(shown, markup=False, soft_wrap=True)
        if not any(job.state in UNDER_WAY for job in jobs):
            return jobs
        time.sleep(_REFRESH_SECONDS)
        jobs = collect(folder)


def _metrics(job: JobStatus) -> str:
    return "  ".join(shown_metrics(job.task, job.primary_metric, job.metrics or {}))


def status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The --out folder of a run.")],
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing, until no job is running or queued.")] = False,
    as_json: Json = False,
) -> None:
    """Show jobs done, running, queued, failed, interrupted and left."""
    console = Console()
    if as_json:
        if watch:
            watch_jobs(folder, Console(stderr=True))
        print_json([asdict(job) for job in collect(folder)])
    elif watch:
        print_lines([summary(watch_jobs(folder, console))])
    elif console.is_terminal:
        console.print(table(collect(folder), console.width), soft_wrap=True)
    else:
        jobs = collect(folder)
        print_rows(rows(jobs))
        print_lines([summary(jobs)])
