"""What every loop over images needs of its data workers: errors that arrive in one line, signals left to the parent."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from backbones.errors import UserError


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
