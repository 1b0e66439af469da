"""Kept features with their labels as data sets: of a split, of a part of it, and of two for one evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

HELD_OUT = 0.1  # share of the training images that heads are chosen by (DINOv3's and CAPI's evaluations)


class KeptRows(Dataset[Any]):
    """Kept features with their labels: ``([(D,) tensor a feature], class index)``, many rows at once by `take`.

    Args:
        rows: those of the arrays that count; default all.
    """

    def __init__(
        self, arrays: Sequence[NDArray[Any]], labels: Sequence[int], rows: NDArray[np.int64] | None = None
    ) -> None:
        self.arrays, self.labels = list(arrays), np.asarray(labels)
        self.rows = np.arange(len(self.labels)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[list[Tensor], int]:
        features, labels = self.take([i])
        return [rows[0] for rows in features], int(labels[0])

    def take(self, indices: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """A batch: an (n, D) tensor a feature, as stored, and labels (n,)."""
        rows = self.rows[np.asarray(indices)]
        return [torch.from_numpy(array[rows]) for array in self.arrays], torch.from_numpy(self.labels[rows])


class BothRows(Dataset[Any]):
    """The validation set and, behind it, what was held out of training: `take` says of each row which it is."""

    def __init__(self, val: KeptRows, held_out: KeptRows) -> None:
        self.val, self.held_out = val, held_out

    def __len__(self) -> int:
        return len(self.val) + len(self.held_out)

    def __getitem__(self, i: int) -> tuple[list[Tensor], int, bool]:
        features, labels, held_out = self.take([i])
        return [rows[0] for rows in features], int(labels[0]), bool(held_out[0])

    def take(self, indices: Sequence[int]) -> tuple[list[Tensor], Tensor, Tensor]:
        """A batch as `KeptRows` has it, in which held-out rows come last, and (n,) whether a row is one."""
        first = [i for i in indices if i < len(self.val)]
        last = [i - len(self.val) for i in indices if i >= len(self.val)]
        parts = [rows.take(of) for rows, of in ((self.val, first), (self.held_out, last)) if of]
        features = [torch.cat(each) for each in zip(*(part[0] for part in parts), strict=True)]
        held_out = torch.arange(len(indices)) >= len(first)
        return features, torch.cat([part[1] for part in parts]), held_out


def split(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(rows to train on, rows held out), in order: a share of `HELD_OUT`, at least one, the same for a seed on any machine."""
    order = np.random.Generator(np.random.PCG64(seed)).permutation(count)
    held = max(1, round(HELD_OUT * count))
    return np.sort(order[held:]), np.sort(order[:held])
