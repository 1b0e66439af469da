"""Data workers that die are explained in a line: with what torch really says, and for the causes that users meet."""

from __future__ import annotations

import errno
import gc
import os
import resource
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from backbones.errors import RunFailed
from tasks.datasets.loading import (
    begin_worker,
    dead_workers_explained,
    explain_dead_worker,
    in_time,
    reset_worker_death_handler,
)


class Deadly(Dataset[Any]):
    """Reading sample 3 ends the process."""

    def __init__(self, how: signal.Signals | None) -> None:
        self.how = how

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> int:
        if i == 3:
            if self.how is None:
                os._exit(9)
            os.kill(os.getpid(), self.how)
            time.sleep(30)
        return i


def read(how: signal.Signals | None, **options: Any) -> None:
    with dead_workers_explained(), dead_workers_explained():  # as a job does it, and why twice: `mae_bench.jobs`
        for _ in DataLoader(Deadly(how), num_workers=1, worker_init_fn=begin_worker, **options):
            pass


@pytest.mark.parametrize("how", [signal.SIGKILL, None], ids=["killed", "exit"])
def test_a_dead_worker_is_named_with_a_way_out(how: signal.Signals | None) -> None:
    with pytest.raises(RunFailed, match=r"^data worker \(pid \d+\) (was ended|left with exit code 9).*train\.workers"):
        read(how)


@pytest.mark.parametrize(
    ("torch_says", "we_say"),
    [
        (
            "(pid 7) is killed by signal: Killed. ",
            "(pid 7) was ended by a signal (Killed), most likely by the",
        ),
        (
            "(pid 7) is killed by signal: Bus error. It is possible",
            "(pid 7) was ended by a signal (Bus error), most likely /dev",
        ),
        (
            "(pid 7) is killed by signal: Segmentation fault. ",
            "(pid 7) was ended by a signal (Segmentation fault), most",
        ),
        ("(pid 7) is killed by signal: Aborted. ", "(pid 7) was ended by a signal (Aborted), set train.workers=0"),
        ("(pid 7) exited unexpectedly with exit code 9. Details", "(pid 7) left with exit code 9: set train.workers=0"),
        ("(pid(s) 7, 8) exited unexpectedly", "(pid 7, 8) was ended unexpectedly, most likely by the system"),
    ],
)
def test_the_likely_cause_is_given(torch_says: str, we_say: str) -> None:
    assert (explain_dead_worker(RuntimeError(f"DataLoader worker {torch_says}")) or "").startswith(
        f"data worker {we_say}"
    )


def test_a_worker_that_hangs_is_named_where_a_limit_is_set() -> None:
    with pytest.raises(
        RunFailed, match=r"no data worker gave a batch for 1 s: look whether the data's file system answers"
    ):
        read(signal.SIGTERM, timeout=1)  # which workers leave to the parent: it sleeps on


@pytest.mark.filterwarnings("error")  # torch's iterator, half made, must not fail once more when it is deleted
def test_too_few_descriptors_for_workers_are_said() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), hard))
    try:
        with (
            pytest.raises(
                RunFailed, match=r"^data workers cannot be used \(Too many open files\): raise `ulimit -n`, or"
            ),
            dead_workers_explained(),
        ):
            list(in_time(DataLoader(Deadly(None), num_workers=2)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    gc.collect()


@pytest.fixture(autouse=True)
def _no_death_is_left_for_the_next_test() -> Iterator[None]:
    """A worker that hangs is killed when its iterator is deleted, which the system reports somewhat later."""
    yield
    gc.collect()
    time.sleep(0.1)
    reset_worker_death_handler()


class Narrow(Dataset[Any]):
    """Its worker can open no file any more, once it gives a batch: handing that over takes some."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> torch.Tensor:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)  # the lowest number that is free; the limit is on numbers
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        return torch.ones(100)


def test_what_a_worker_lacks_is_said_by_the_parent_and_nothing_by_the_worker(capfd: pytest.CaptureFixture[str]) -> None:
    """A thread of the worker's meets it; Python would print a traceback, and the parent would wait for ever."""
    loader = DataLoader(Narrow(), num_workers=1, worker_init_fn=begin_worker, timeout=60)
    with (
        pytest.raises(RunFailed, match=r"^data workers cannot be used \(Too many open files\): raise `ulimit -n`, or"),
        dead_workers_explained(),
    ):
        list(in_time(loader))
    assert capfd.readouterr().err == ""


class Refused(DataLoader[Any]):
    """The system refuses what the workers need."""

    error: Exception

    def __iter__(self) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "way_out"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "/dev/shm is full"),  # where semaphores are
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "lower train.workers"),
        (RuntimeError("Too many open files. Communication with the workers is no longer possible."), "ulimit -n"),
    ],
)
def test_what_workers_want_is_said(error: Exception, way_out: str) -> None:
    loader = Refused(Deadly(None), num_workers=2)
    loader.error = error
    with pytest.raises(RunFailed, match=way_out), dead_workers_explained():
        list(in_time(loader))
    loader = Refused(Deadly(None))
    loader.error = error
    with pytest.raises(type(error)), dead_workers_explained():  # without workers it is of another cause
        list(in_time(loader))


def test_other_errors_are_left_as_they_are() -> None:
    assert explain_dead_worker(RuntimeError("CUDA error: an illegal memory access")) is None
    with pytest.raises(RuntimeError, match=r"^other$"), dead_workers_explained():
        raise RuntimeError("other")
