"""Signals that ask a run to stop: SIGINT, SIGTERM and SIGUSR1, which Slurm sends ahead of a preemption or a time limit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from backbones.errors import Interrupted

STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_active: StopSignals | None = None


class StopSignals:
    """What a stop signal does: where nothing is half done it leaves at once, inside `deferred` it is noted for the loop."""

    def __init__(self) -> None:
        self._came = False
        self._deferred = False

    def is_set(self) -> bool:
        """Whether a signal came."""
        return self._came

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """The block asks `is_set` itself, saves and leaves."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def handle(self, number: int, _: Any) -> None:
        """The second SIGINT stops at once, wherever it comes."""
        first, self._came = not self._came, True
        if not first and number == signal.SIGINT:
            raise KeyboardInterrupt
        if first and not self._deferred:
            raise Interrupted(f"{signal.Signals(number).name} came outside the steps: the same command goes on")


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Handlers for the time of the block; inside another such block they are that one's. A thread gets none."""
    try:
        with _handlers() as stop:
            yield stop
    except KeyboardInterrupt:  # which the command line's library would turn into a code of its own
        raise Interrupted("stopped at once: the same command goes on from the last checkpoint") from None


@contextmanager
def _handlers() -> Iterator[StopSignals]:
    global _active
    if _active is not None or threading.current_thread() is not threading.main_thread():
        yield _active or StopSignals()
        return
    _active = stop = StopSignals()
    before = {s: signal.signal(s, stop.handle) for s in STOP}
    try:
        yield stop
    finally:
        _active = None
        for s, old in before.items():
            signal.signal(s, old)
