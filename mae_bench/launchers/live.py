"""Where the jobs that run as processes stand, on one display: what they print themselves goes to their logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.live import Live
from rich.text import Text

from mae_bench.common.console import console
from mae_bench.common.text import duration, visible
from mae_bench.jobs.status import JobStatus, collect, progress, summary
from tasks.progress import PLAIN_SECONDS


@contextmanager
def display(out: Path) -> Iterator[Callable[[Container[str]], None]]:
    """Gives a function to call often with the names of the jobs that were started: each second it draws where they stand.

    Without a terminal it says so each minute.
    """
    every = 1.0 if console.is_terminal else PLAIN_SECONDS
    drawn = time.monotonic()

    with Live(console=console, auto_refresh=False, transient=True) as live:

        def tick(started: Container[str]) -> None:
            nonlocal drawn
            if time.monotonic() - drawn < every:
                return
            drawn = time.monotonic()
            width = console.width if console.is_terminal else None
            text = "\n".join(lines(collect(out), started, width))
            if console.is_terminal:
                live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)
            else:
                console.print(text, markup=False, soft_wrap=True)

        yield tick


def lines(jobs: Sequence[JobStatus], started: Container[str], width: int | None = None) -> list[str]:
    """A line for each of the jobs started, such as ``linear/…-s0  20/160  12 %  45 s left``, then ``3 done, 2 running``.

    Where `width` is too small the end of a job's name goes.
    """
    now = [replace(job, state="running") if job.name in started and job.state != "done" else job for job in jobs]
    return [*(_line(job, width) for job in now if job.state == "running"), summary(now)]


def _line(job: JobStatus, width: int | None) -> str:
    left = [f"{duration(job.seconds_left)} left"] if job.seconds_left else []
    facts = "".join(f"  {fact}" for fact in [*progress(job), *left])
    name = visible(job.name)
    room = len(name) if width is None else max(1, width - len(facts))
    return (name if len(name) <= room else f"{name[: room - 1]}…") + facts
