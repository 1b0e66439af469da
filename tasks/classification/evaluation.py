"""Top-1, top-5 and loss over a validation set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from backbones.encoders.preprocessing import Preprocessing
from tasks.base import Evaluator
from tasks.datasets.transforms import normalise


class AccuracyEvaluator(Evaluator):
    """Counts on the device; `results` is one (images, top-1, top-5, summed cross-entropy) a process.

    Args:
        told: the encoder's preprocessing.
    """

    def __init__(self, classes: int, told: Preprocessing) -> None:
        self.told = told
        self.top = min(5, classes)
        self.sums: Tensor | None = None

    def update(self, model: nn.Module, batch: Any) -> None:
        logits, targets = self.predict(model, batch)
        hits = logits.topk(self.top, dim=1).indices == targets.unsqueeze(1)
        loss = nn.functional.cross_entropy(logits, targets, reduction="sum")
        count = torch.tensor(len(targets), device=logits.device)
        sums = torch.stack([count, hits[:, 0].sum(), hits.sum(), loss]).double()
        self.sums = sums if self.sums is None else self.sums + sums

    def predict(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        """Logits (N, classes) in float32, and targets."""
        images, targets = batch[:2]
        return model((normalise(images, self.told), targets)).float(), targets

    def results(self) -> list[Any]:
        return [] if self.sums is None else [self.sums.tolist()]

    def metrics(self, results: list[Any]) -> dict[str, float]:
        images, top1, top5, loss = (sum(column) for column in zip(*results, strict=True))
        return {"top1": 100 * top1 / images, "top5": 100 * top5 / images, "loss": loss / images, "images": images}
