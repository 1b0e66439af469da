"""What every loop over images needs of its data workers: errors in one line, signals left to the parent, deaths explained."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.multiprocessing
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from backbones.errors import RunFailed, UserError

T = TypeVar("T")


@dataclass(frozen=True)
class FailedSample:
    """A sample that could not be read; travels through the loader so that its one-line message survives the worker."""

    message: str


class SampleOrFailed(Dataset[Any]):
    """`dataset` with UserErrors turned into `FailedSample`."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: Any) -> Any:
        try:
            return self.dataset[index]
        except UserError as e:
            return FailedSample(str(e))


class CollateOrFail:
    """`collate`, except that a failed sample takes the place of its batch."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        for sample in samples:
            if isinstance(sample, FailedSample):
                return sample
        return self.collate(samples)


def raise_if_failed(batch: Any) -> Any:
    """`batch`, or the UserError that a worker met."""
    if isinstance(batch, FailedSample):
        raise UserError(batch.message)
    return batch


def begin_worker(_: int) -> None:
    """For data workers: signals are the parent's, and what a worker cannot hand on, it tells by leaving.

    Ctrl-C and `timeout` signal the whole process group, and only the loop should act on it. An error behind a worker's back, in
    the threads that hand batches over, Python prints and forgets; the parent would wait for the batch for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    sys.excepthook = lambda _kind, error, _trace: _leave(error)  # multiprocessing.resource_sharer calls it
    threading.excepthook = lambda args: _leave(args.exc_value)
    # Of the queue's thread, and of the worker's own loop.
    traceback.print_exc = lambda *_, **__: _leave(sys.exc_info()[1])


def _leave(error: BaseException | None) -> None:
    """Ends this worker with an exit code that `explain_dead_worker` knows; a parent that closed its ears is no error."""
    if not isinstance(error, (EOFError, ConnectionError)):
        number = _want(error)
        os._exit(1 if number is None else _WANTING + number)


def _want(error: BaseException | None) -> int | None:
    """The number of `_WANTS` that an error of Python, or of torch, is about."""
    if isinstance(error, OSError) and error.errno in _WANTS:
        return error.errno
    return next((number for number in _WANTS if os.strerror(number) in str(error)), None)


def in_time(loader: DataLoader[T]) -> Iterator[T]:
    """The loader's batches, each within its `timeout` or soon after.

    torch's own limit is on waiting for a batch. Receiving the descriptors of one that a worker announced before it was stopped
    waits for that worker inside a socket; an alarm ends that, half as long again after the limit.
    """
    limit = loader.timeout if threading.current_thread() is threading.main_thread() else 0
    with _means_for_workers(loader):
        batches = iter(loader)
    while True:
        with _alarm(limit), _means_for_workers(loader):
            try:
                batch = next(batches)
            except StopIteration:
                return
        yield batch


class NoMeans(RuntimeError):
    """Data workers cannot be started or heard for want of descriptors, processes, memory or room in /dev/shm."""


_WANTING = 128  # with the error's number: the exit code of a worker that lacks what it needs to hand its batches on
_WANTS = {
    errno.EMFILE: "raise `ulimit -n`",
    errno.ENFILE: "give the system more descriptors (fs.file-max)",
    errno.ENOSPC: "most likely /dev/shm is full: make it larger (docker run --shm-size)",
    errno.EAGAIN: "raise `ulimit -u`, or lower train.workers",
    errno.ENOMEM: "give the job more memory, or lower train.workers",
}


@contextmanager
def _means_for_workers(loader: DataLoader[Any]) -> Iterator[None]:
    """`NoMeans`, in a line with the way out, in place of what Python and torch raise for want of them."""
    try:
        yield
    except (OSError, RuntimeError) as e:
        number = _want(e)
        if number is None or not loader.num_workers:
            raise
        for half_made in _iterators(e):  # would fail once more when it is deleted
            half_made._shutdown = True
        raise NoMeans(_no_means(number)) from e


def _iterators(error: BaseException) -> Iterator[_MultiProcessingDataLoaderIter]:
    """Those of torch in which an error arose."""
    frames = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    yield from (each for each in frames if isinstance(each, _MultiProcessingDataLoaderIter))


def _no_means(number: int) -> str:
    return f"data workers cannot be used ({os.strerror(number)}): {_WANTS[number]}, or set train.workers=0"


@contextmanager
def _alarm(limit: float) -> Iterator[None]:
    if not limit:
        yield
        return

    def late(_: int, __: Any) -> None:
        raise RuntimeError(f"DataLoader timed out after {limit:g} seconds")  # torch's words

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 1.5 * limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


_CAUSES = {
    "Killed": "most likely by the system, for want of memory: give the job more, or lower train.workers",
    "Bus error": "most likely /dev/shm is full: make it larger (docker run --shm-size), or set train.workers=0",
    "Segmentation fault": "most likely in a library that decodes images: set train.workers=0 to see where",
}


# how a worker's death shows; the last two when it was handing over a batch
WORKER_DEATH_ERRORS = (RuntimeError, OSError, EOFError)


def explain_dead_worker(error: Exception) -> str | None:
    """One line on the data worker whose death `error` tells of: its number, what ended it, the likely cause, the way out.

    None when it is another error. torch raises it wherever the parent is when the system reports the death.
    """
    if isinstance(error, NoMeans):
        return str(error)
    text = str(error if isinstance(error, RuntimeError) else _reported_death())
    if late := re.search(r"DataLoader timed out after (\d+(?:\.\d+)?) seconds", text):
        return (
            f"no data worker gave a batch for {late[1]} s: look whether the data's file system answers, "
            "or raise train.worker_timeout"
        )
    pid = re.search(r"DataLoader worker \(pid\(?s?\)? ?([\d, ]+)\)", text)
    if pid is None:
        return None
    how = re.search(r"killed by signal: ([^.]+)\.", text)
    if how is None:
        code = _exit_code(error, text)
        if code - _WANTING in _WANTS:
            return _no_means(code - _WANTING)
        if code:
            return f"data worker (pid {pid[1]}) left with exit code {code}: set train.workers=0 to see why"
        # What torch says when it finds the worker gone before the system's report comes to it.
        return f"data worker (pid {pid[1]}) was ended unexpectedly, {_CAUSES['Killed']}; dmesg says whether it was"
    cause = _CAUSES.get(how[1], "set train.workers=0 to see why")
    return f"data worker (pid {pid[1]}) was ended by a signal ({how[1]}), {cause}"


def _exit_code(error: Exception, text: str) -> int:
    """Of the worker that an error tells of; 0 where a signal ended it, or nothing is known."""
    if found := re.search(r"exit code (-?\d+)", text):
        return int(found[1])
    codes = [worker.exitcode for each in _iterators(error) for worker in getattr(each, "_workers", [])]
    return next((code for code in codes if code is not None and code > 0), 0)


def _reported_death() -> RuntimeError | None:
    """The death of a worker that the system reports within a second."""
    end = time.monotonic() + 1
    while time.monotonic() < end:
        try:
            signal_handling._error_if_any_worker_fails()
            time.sleep(0.05)
        except RuntimeError as e:
            return e
    return None


@contextmanager
def dead_workers_explained() -> Iterator[None]:
    """`RunFailed` with `explain_dead_worker`'s line in place of torch's error."""
    try:
        yield
    except WORKER_DEATH_ERRORS as e:
        if said := explain_dead_worker(e):
            reset_worker_death_handler()
            raise RunFailed(said) from e
        raise


def reset_worker_death_handler() -> None:
    """After a worker's death: torch would raise again for it, wherever we are, at every process of ours that ends.

    The others end too: what hangs would not let this process leave. The next loader with workers listens anew.
    """
    with suppress(ValueError):  # not the main thread, which alone gets signals
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal_handling._SIGCHLD_handler_set = False
    for worker in torch.multiprocessing.active_children():
        worker.kill()
