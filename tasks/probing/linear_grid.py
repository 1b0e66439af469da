"""Many linear heads on kept features, trained at once as if each were alone. No data, no encoder."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tasks.base import Evaluator


@dataclass(frozen=True)
class Head:
    """One point of the grid."""

    lr: float
    pool: str  # token | avg
    layer: int
    feature: str  # name of the kept feature

    @property
    def name(self) -> str:
        """Such as ``lr0.1_avg_l11``."""
        return f"lr{self.lr:g}_{self.pool}_l{self.layer}"


class ProbeHeads(nn.Module):
    """A linear head for each point of the grid, on a non-affine BatchNorm for each feature.

    ``(features, targets)`` -> ``{"loss": sum over heads}`` in training mode, logits (heads, N, classes) in evaluation;
    `features` holds an (N, D) tensor a feature. Heads share no parameter, so each learns from its own loss alone; normalisation
    has no parameters, so heads of one feature have it in common. A head starts from numbers drawn by its name, and is thus the
    same in any company.

    Args:
        widths: D by the name of the feature.
        seed: of the heads' initialisation.
    """

    def __init__(
        self,
        grid: Sequence[Head],
        widths: Mapping[str, int],
        classes: int,
        *,
        batch_norm: bool,
        init_std: float,
        criterion: nn.Module,
        seed: int,
    ) -> None:
        super().__init__()
        self.grid = list(grid)
        self.features = list(dict.fromkeys(head.feature for head in grid))
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(widths[name], affine=False, eps=1e-6) if batch_norm else nn.Identity()
            for name in self.features
        )
        self.heads = nn.ModuleList(_linear(widths[head.feature], classes, init_std, seed, head.name) for head in grid)
        self.criterion = criterion

    def forward(self, batch: Any) -> Any:
        """See the class."""
        features, targets = batch
        with torch.autocast(targets.device.type, enabled=False):  # the precision of a recipe is the encoder's
            normed = {name: norm(x.float()) for name, norm, x in zip(self.features, self.norms, features, strict=True)}
            logits = [linear(normed[head.feature]) for head, linear in zip(self.grid, self.heads, strict=True)]
        if not self.training:
            return torch.stack(logits)
        losses = torch.stack([self.criterion(head, targets) for head in logits])
        # A learning rate of the grid that is too high must not stop the others: its head ends as not-a-number, alone.
        return {"loss": torch.where(losses.isfinite(), losses, 0.0).sum()}

    def tensors(self) -> dict[str, Tensor]:
        """Every head under its name, with its feature's normalisation."""
        state: dict[str, Tensor] = {}
        for head, linear in zip(self.grid, self.heads, strict=True):
            norm = self.norms[self.features.index(head.feature)]
            state |= {f"{head.name}.norm.{k}": v.clone() for k, v in norm.state_dict().items()}
            state |= {f"{head.name}.{k}": v for k, v in linear.state_dict().items()}
        return state


def _linear(width: int, classes: int, std: float, seed: int, name: str) -> nn.Linear:
    generator = torch.Generator().manual_seed(
        int.from_bytes(hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest(), "little") >> 1
    )
    linear = nn.Linear(width, classes)
    nn.init.trunc_normal_(linear.weight, std=std, generator=generator)
    nn.init.zeros_(linear.bias)
    return linear


class GridEvaluator(Evaluator):
    """Top-1 and top-5 of every head on the validation images; the best head is chosen by top-1, on what its name says.

    That is the validation images themselves, or, where batches say of some rows that they were held out of training
    (`tasks.probing.rows.BothRows`), those, which count for nothing else.
    """

    def __init__(self, grid: Sequence[Head], classes: int) -> None:
        self.grid, self.top = list(grid), min(5, classes)
        # Validation, then held-out images: (2, heads, 4) of images, top-1, top-5, predictions that are no numbers.
        self.counts: Tensor | None = None

    def update(self, model: nn.Module, batch: Any) -> None:
        logits = model(batch[:2])
        targets = batch[1]
        held_out = batch[2] if len(batch) > 2 else torch.zeros_like(targets, dtype=torch.bool)
        hits = logits.topk(self.top, dim=2).indices == targets.view(1, -1, 1)
        each = torch.stack(
            [torch.ones_like(hits[..., 0]), hits[..., 0], hits.any(2), ~logits.isfinite().all(dim=2)], dim=2
        ).long()
        sums = torch.stack([each[:, ~held_out].sum(1), each[:, held_out].sum(1)])
        self.counts = sums if self.counts is None else self.counts + sums

    def results(self) -> list[Any]:
        return [] if self.counts is None else [self.counts.tolist()]

    def metrics(self, results: list[Any]) -> dict[str, float]:
        val, held_out = torch.tensor(results).sum(0).tolist()
        found: dict[str, float] = {}
        for head, (images, top1, top5, broken) in zip(self.grid, val, strict=True):
            found[f"top1_{head.name}"] = math.nan if broken else 100 * top1 / images
            found[f"top5_{head.name}"] = math.nan if broken else 100 * top5 / images
        chosen_by, split = {name.removeprefix("top1_"): v for name, v in found.items() if name[:5] == "top1_"}, "val"
        if held_out[0][0]:
            split = "train_split"
            for head, (images, top1, _, broken) in zip(self.grid, held_out, strict=True):
                chosen_by[head.name] = math.nan if broken else 100 * top1 / images
            found |= {f"held_out_top1_{name}": value for name, value in chosen_by.items()}
        usable = [name for name, value in chosen_by.items() if not math.isnan(value)]
        best = max(usable, key=lambda name: chosen_by[name], default=None)
        chosen = {f"{top}_best_on_{split}": found[f"{top}_{best}"] if best else math.nan for top in ("top1", "top5")}
        return {**chosen, **found, "images": val[0][0]}
