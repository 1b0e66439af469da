"""Rooms whose floor goes away from the viewer, darker with the distance; a linear layer tells each patch's distance."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from backbones.checkpoints.checkpoint import Checkpoint, open_encoder
from depth_task.config import DepthRecipe
from tasks.base import DataInfo, Evaluator, Task


class Rooms(Dataset[tuple[Tensor, Tensor]]):
    """Images (3, size, size) and the depth of their patches (L,) in metres, row by row."""

    def __init__(self, count: int, size: int, patch: int, metres: float, seed: int) -> None:
        self.count, self.size, self.patch, self.metres, self.seed = count, size, patch, metres, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 1000 + i)
        near, far = (self.metres * torch.rand(2, generator=generator)).sort().values
        depth = torch.linspace(float(far), float(near), self.size)[:, None].expand(self.size, self.size)
        image = (1 - depth / self.metres).expand(3, -1, -1)
        return image, depth.unfold(0, self.patch, self.patch).unfold(1, self.patch, self.patch).mean((-1, -2)).flatten()


class DepthModel(nn.Module):
    """Depth of every patch (N, L); in training the loss."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.width, 1)

    def forward(self, batch: Any) -> Any:
        images, depth = batch
        found = self.head(self.encoder(images)[:, self.encoder.prefix_tokens :]).squeeze(-1)
        return {"loss": (found - depth).square().mean()} if self.training else found


class DepthEvaluator(Evaluator):
    """Root mean square error in metres, and the share of patches that are less than a quarter off."""

    def __init__(self) -> None:
        self.sums: list[tuple[int, float, int]] = []

    def update(self, model: nn.Module, batch: Any) -> None:
        found, depth = model(batch).float(), batch[1]
        close = (found - depth).abs() < 0.25 * depth
        self.sums.append((depth.numel(), float((found - depth).square().sum()), int(close.sum())))

    def results(self) -> list[Any]:
        return self.sums

    def metrics(self, results: list[Any]) -> dict[str, float]:
        patches, squares, close = (sum(column) for column in zip(*results, strict=True))
        return {"rmse": math.sqrt(squares / patches), "delta25": 100 * close / patches}


class DepthTask(Task[DepthRecipe]):
    """Linear depth on an encoder that is trained with it."""

    def __init__(self, recipe: DepthRecipe, checkpoint: Checkpoint | None = None) -> None:
        super().__init__(recipe)
        encoder = open_encoder(recipe.encoder, checkpoint, positions="resample")
        size, patch, metres = recipe.encoder.img_size, encoder.stages[-1].stride, recipe.depth.metres
        self.train_rooms, self.val_rooms = (Rooms(n, size, patch, metres, seed) for seed, n in enumerate((16, 8)))
        self.primary_metric = recipe.depth.primary_metric
        self.preprocessing = encoder.preprocessing
        self.model = DepthModel(encoder)
        self.data = DataInfo(recipe.data.name, str(recipe.data.root), 16, 8, classes=0, fingerprint=f"rooms {metres}")

    def train_dataset(self) -> Dataset[Any]:
        return self.train_rooms

    def val_dataset(self) -> Dataset[Any]:
        return self.val_rooms

    def param_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.model.parameters()), "weight_decay": 0.0}]

    def evaluator(self) -> Evaluator:
        return DepthEvaluator()
