"""k-NN as the engine's evaluator: queries are gathered into blocks, neighbours come from `tasks.probing.knn`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tasks.base import Evaluator
from tasks.probing.knn import NearestNeighbours


class KnnEvaluator(Evaluator):
    """Top-1 and top-5 of every k; `results` is one (images, [top-1, top-5] for each k) a process.

    Args:
        block: queries searched for at once.
    """

    def __init__(self, neighbours: NearestNeighbours, block: int) -> None:
        self.neighbours, self.block = neighbours, block
        self.top = min(5, neighbours.classes)
        self.waiting: list[tuple[Tensor, Tensor]] = []
        self.hits = torch.zeros(len(neighbours.ks), 2, dtype=torch.int64)
        self.images = 0

    def update(self, model: nn.Module, batch: Any) -> None:
        (features,), targets = batch
        self.waiting.append((features.float(), targets))
        if sum(len(labels) for _, labels in self.waiting) >= self.block:
            self._search()

    def results(self) -> list[Any]:
        self._search()
        return [(self.images, self.hits.tolist())] if self.images else []

    def metrics(self, results: list[Any]) -> dict[str, float]:
        images = sum(count for count, _ in results)
        hits = torch.tensor([per_k for _, per_k in results]).sum(dim=0).tolist()
        found: dict[str, float] = {}
        for k, (top1, top5) in zip(self.neighbours.ks, hits, strict=True):
            found |= {f"knn{k}_top1": 100 * top1 / images, f"knn{k}_top5": 100 * top5 / images}
        return {**found, "images": images}

    def _search(self) -> None:
        if not self.waiting:
            return
        with torch.autocast(
            self.neighbours.device.type, enabled=False
        ):  # votes are compared as float32, whatever the recipe's
            self._vote()

    def _vote(self) -> None:
        queries, targets = (torch.cat(part) for part in zip(*self.waiting, strict=True))
        self.waiting.clear()
        for start in range(0, len(queries), self.block):
            labels = targets[start : start + self.block].to(self.neighbours.device)
            for i, (_, votes) in enumerate(self.neighbours.votes(queries[start : start + self.block])):
                best = votes.topk(self.top, dim=1)
                # A class that none of the neighbours is of is no answer, though there are five places.
                right = (best.indices == labels.unsqueeze(1)) & (best.values > 0)
                self.hits[i] += torch.stack([right[:, 0].sum(), right.sum()]).cpu()
        self.images += len(queries)
