"""What every loop over images needs of its data workers: errors in one line, signals left to the parent, deaths explained."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from backbones.errors import RunFailed, UserError


@dataclass(frozen=True)
class Failed:
    """A sample that could not be read; travels through the loader so that its one-line message survives the worker."""

    message: str


class SampleOrFailed(Dataset[Any]):
    """`dataset` with UserErrors turned into `Failed`."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: Any) -> Any:
        try:
            return self.dataset[index]
        except UserError as e:
            return Failed(str(e))


class CollateOrFail:
    """`collate`, except that a failed sample takes the place of its batch."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        for sample in samples:
            if isinstance(sample, Failed):
                return sample
        return self.collate(samples)


def raise_if_failed(batch: Any) -> Any:
    """`batch`, or the UserError that a worker met."""
    if isinstance(batch, Failed):
        raise UserError(batch.message)
    return batch


def leave_signals_to_parent(_: int) -> None:
    """For data workers: Ctrl-C and `timeout` signal the whole process group, and only the loop should act on it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


_CAUSES = {
    "Killed": "most likely by the system, for want of memory: give the job more, or lower train.workers",
    "Bus error": "most likely /dev/shm is full: make it larger (docker run --shm-size), or set train.workers=0",
    "Segmentation fault": "most likely in a library that decodes images: set train.workers=0 to see where",
}


def explain_dead_worker(error: RuntimeError) -> str | None:
    """One line on the data worker whose death `error` tells of: its number, what ended it, the likely cause, the way out.

    None when it is another error. torch raises it wherever the parent is when the system reports the death.
    """
    text = str(error)
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
        status = re.search(r"exit code (-?\d+)", text)
        end = f"left with exit code {status[1]}" if status else "left unexpectedly"
        return f"data worker (pid {pid[1]}) {end}: set train.workers=0 to see why"
    cause = _CAUSES.get(how[1], "set train.workers=0 to see why")
    return f"data worker (pid {pid[1]}) was ended by a signal ({how[1]}), {cause}"


@contextmanager
def dead_workers_explained() -> Iterator[None]:
    """`RunFailed` with `explain_dead_worker`'s line in place of torch's error."""
    try:
        yield
    except RuntimeError as e:
        if said := explain_dead_worker(e):
            raise RunFailed(said) from e
        raise
