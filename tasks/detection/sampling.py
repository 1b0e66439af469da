"""Repeat-factor sampling (Gupta et al. 2019, App. B.2): images with rare classes are seen more often. Knows no loader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data.samplers import RepeatFactorTrainingSampler
from torch.utils.data import Dataset


def repeat_factors(records: Sequence[dict[str, Any]], threshold: float) -> np.ndarray:
    """How often an epoch shows each image, 1 or more: the greatest sqrt(threshold / share of images) of its classes."""
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, threshold)
    return np.asarray(factors.double().numpy())


class RepeatedDataset(Dataset[Any]):
    """`dataset` with image i shown ``factors[i]`` times an epoch, in expectation, and never less often than its whole part.

    The whole parts are repeats of the index. The fractions lie behind them on a line that is cut into cells of length 1: a cell
    shows the image at a random place of it, from numpy's global generator. So every epoch rounds anew, as detectron2's
    `RepeatFactorTrainingSampler` does, while the number of samples stays the same.
    """

    def __init__(self, dataset: Dataset[Any], factors: np.ndarray) -> None:
        self.dataset = dataset
        whole = np.floor(factors).astype(np.int64)
        self._whole = np.repeat(np.arange(len(factors)), whole)
        self._ends = np.cumsum(factors - whole)  # of the images' fractions on the line
        self._cells = round(float(self._ends[-1]))

    def __len__(self) -> int:
        return len(self._whole) + self._cells

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.image(index)]

    def image(self, index: int) -> int:
        """The image of a sample: drawn anew at every call where it stands for a fraction."""
        if index < len(self._whole):
            return int(self._whole[index])
        place = (index - len(self._whole) + np.random.random()) / self._cells * self._ends[-1]
        return int(np.searchsorted(self._ends, place, side="right"))
