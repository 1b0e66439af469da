"""The time limit of a loader holds where torch's own does not reach."""

from __future__ import annotations

import signal
import time

import pytest

from tasks.datasets.loading import explain_dead_worker, in_time


class Stopped:
    """A loader whose batch never comes: the worker that announced it was stopped."""

    timeout = 0.1

    def __iter__(self) -> Stopped:
        return self

    def __next__(self) -> None:
        time.sleep(60)


class Quick(list[int]):
    timeout = 5.0


def test_a_batch_that_never_comes_ends_in_the_line_that_tells_of_it() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(RuntimeError) as caught:
        next(iter(in_time(Stopped())))  # type: ignore[arg-type]
    assert "no data worker gave a batch for 0.1 s" in str(explain_dead_worker(caught.value))
    assert signal.getsignal(signal.SIGALRM) is before


def test_batches_in_time_are_passed_on_and_no_alarm_stays() -> None:
    assert list(in_time(Quick([1, 2, 3]))) == [1, 2, 3]  # type: ignore[arg-type]
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
