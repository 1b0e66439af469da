"""A progress bar on stderr for what tasks do outside the training loop, which has its own (`mae_bench.engine.run_log`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)
PLAIN_SECONDS = 60.0  # between progress lines where stderr is no terminal


@contextmanager
def progress(label: str, total: int, unit: str = "images", *, active: bool = True) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told how many are done; now and then a line where stderr is no terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    started = last = time.monotonic()

    def advance(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if not active:
            return
        if console.is_terminal:
            bar.update(task, completed=done)
        elif now - last > PLAIN_SECONDS:
            last = now
            rate = done / (now - started)
            console.print(
                f"{label}  {done}/{total}  {rate:.{0 if rate >= 10 else 1}f} {unit}/s", markup=False, soft_wrap=True
            )

    with Progress(*columns, console=console, disable=not (active and console.is_terminal)) as bar:
        task = bar.add_task(label, total=total)
        yield advance
