"""Weighted k-nearest neighbours, exact and in bounded memory. Where features come from is `tasks.probing.kept`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from backbones.errors import UserError

LEAST_TEMPERATURE = 0.0125
"""exp(1 / temperature) of every neighbour, summed, must fit into a float32, and exp(-1 / temperature) must not become 0."""
_LAST = 2**32 - 1  # largest training index that a key holds


class NearestNeighbours:
    """A training set that votes on the class of queries, as Wu et al. 2018 (Sec. 3.4) and DINO (eval_knn.py) do.

    Similarity is the cosine. Each of the k nearest votes ``exp(similarity / temperature)`` for its class. Neighbours whose
    similarities are equal as computed come in the order of the training set.

    Training images pass by in chunks, and a query keeps its ``max(k)`` nearest so far; so of N training images of width D, Q
    queries at once, chunks of C and M classes, memory on the device is at most some ``4 (Q + 2 C) D + 24 Q C + 24 Q max(k) +
    8 Q M`` bytes, whatever N is: 0.9 GB for Q = 4096, C = 8192, D = 768, M = 1000. `train` may be a memory map.

    Args:
        train: (N, D), of any floating type; computed with in float32.
        labels: (N,) class indices.
        classes: M.
        ks: numbers of neighbours, each answered for.
        chunk: training images compared at once.

    Raises:
        UserError: a k below 1 or above N, or other settings that make no sense.
    """

    def __init__(
        self,
        train: NDArray[Any],
        labels: Sequence[int],
        classes: int,
        ks: Sequence[int],
        temperature: float = 0.07,
        *,
        chunk: int = 8192,
        device: torch.device | str = "cpu",
    ) -> None:
        if not ks or min(ks) < 1:
            raise UserError(f"knn.k={list(ks)}: give numbers of neighbours, such as [10,20,100,200]")
        if max(ks) > len(train):
            raise UserError(
                f"knn.k={max(ks)}: the training set has {len(train)} images: give that many neighbours at most"
            )
        if not LEAST_TEMPERATURE <= temperature < math.inf or chunk < 1:
            raise UserError(
                f"knn.temperature={temperature} and knn.train_chunk={chunk}: give at least {LEAST_TEMPERATURE}, so that votes "
                "stay numbers, and at least 1"
            )
        if len(train) > _LAST:
            raise UserError(f"knn: {len(train)} training images: at most {_LAST} can be told apart")
        self.train, self.classes, self.chunk = train, classes, chunk
        self.ks, self.temperature = sorted(set(ks)), temperature
        self.device = torch.device(device)
        self.labels = torch.tensor(labels, device=self.device)

    def votes(self, queries: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(k, votes (Q, M)) for each k, smallest first; one pass over the training set. The tensor is used again.

        Args:
            queries: (Q, D).

        Raises:
            UserError: queries are of another width than the training set.
        """
        similarity, index = self.neighbours(queries)
        weight = (similarity / self.temperature).exp()
        label = self.labels[index]
        votes = torch.zeros(len(queries), self.classes, device=self.device)
        for start, k in zip([0, *self.ks], self.ks, strict=False):
            votes.scatter_add_(1, label[:, start:k], weight[:, start:k])
            yield k, votes

    def neighbours(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine similarities, largest first, and training indices of the ``max(k)`` nearest: both (Q, max(k))."""
        if queries.shape[1] != self.train.shape[1]:
            raise UserError(
                f"features of width {queries.shape[1]} cannot be compared with training features of {self.train.shape[1]}"
            )
        queries = _unit(queries.to(self.device))
        best = torch.empty(len(queries), 0, dtype=torch.int64, device=self.device)
        for start in range(0, len(self.train), self.chunk):
            # A copy: torch wants memory that can be written to.
            rows = np.array(self.train[start : start + self.chunk])
            chunk = _unit(torch.from_numpy(rows).to(self.device))
            with torch.autocast(self.device.type, enabled=False):
                keys = _keys(queries @ chunk.T, start)
            nearest = keys.topk(min(max(self.ks), keys.shape[1]), dim=1, sorted=False).values
            merged = torch.cat([best, nearest], dim=1)
            best = merged.topk(min(max(self.ks), merged.shape[1]), dim=1).values
        return _similarity(best), _LAST - (best & _LAST)


def _unit(rows: Tensor) -> Tensor:
    return normalize(rows.float(), dim=1)


def _keys(similarity: Tensor, start: int) -> Tensor:
    """int64 in the order of the float32 similarities, among equal ones the earlier training image above; in place.

    The upper half is the similarity's bits, of which those but the sign are flipped where it is negative; the lower one counts
    down from the training image.
    """
    bits = similarity.view(torch.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF
    down = torch.arange(_LAST - start, _LAST - start - bits.shape[1], -1, device=bits.device)
    return bits.long().bitwise_left_shift_(32).bitwise_or_(down)


def _similarity(keys: Tensor) -> Tensor:
    """The float32 that `_keys` took."""
    bits = (keys >> 32).to(torch.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF
    return bits.view(torch.float32)
