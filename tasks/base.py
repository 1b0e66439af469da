"""What a task is to the engine: a passive object that declares model, data, losses and metrics; no loop here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from backbones.encoders.preprocessing import Preprocessing
from backbones.errors import UserError
from backbones.vit.blocks import blocks_of, recompute
from tasks.recipe import Recipe

RecipeT = TypeVar("RecipeT", bound=Recipe)


@dataclass
class DataInfo:
    """What the record says of the data; `fingerprint` is part of a job's identity."""

    name: str
    root: str
    train_count: int
    val_count: int
    classes: int
    fingerprint: str  # sha256 over the files' relative paths and sizes
    split: str = "val"
    notes: list[str] = field(default_factory=list)  # such as "3 unreadable images left out"
    account: dict[str, Any] = field(default_factory=dict)  # split -> `Account.to_json` (`tasks.datasets.account`)
    looked: list[str] = field(default_factory=list)  # what a look before the first step saw, such as sizes and copies
    class_names: list[str] = field(default_factory=list)  # class index -> name; the order is part of a head


class Evaluator(ABC):
    """Turns a model's predictions into metrics; knows nothing of training or of processes.

    One `Evaluator` lives for one evaluation. Each process updates its own with its share of the validation set (no image
    twice); `results` of all of them, concatenated in any order, go to `metrics` on the main process.
    """

    @abstractmethod
    def update(self, model: nn.Module, batch: Any) -> None:
        """Predict one batch (on the model's device) and keep what the metric needs."""

    @abstractmethod
    def results(self) -> list[Any]:
        """What was kept, picklable, on the CPU: one item an image, or a few partial sums."""

    @abstractmethod
    def metrics(self, results: list[Any]) -> dict[str, float]:
        """Metrics over everybody's results, percentages as the papers print them."""

    def write(self, results: list[Any], folder: Path) -> None:  # noqa: B027 (nothing is what most have to write)
        """Files of the last evaluation for people and other programs, such as predictions in the field's format and pictures.

        Called on the main process, after `metrics`, with the same results. `folder` is there.
        """


class Task(ABC, Generic[RecipeT]):
    """(encoder, recipe, data set) as losses and metrics. Making one reads no images and trains nothing.

    Attributes:
        model: what is trained; ``model(batch)`` in training mode gives a dict of scalar losses (so that it can be wrapped
            by DDP), summed by the engine.
        data: what is known of the data set.
        preprocessing: what images go through, for the record; of detection and segmentation mean and deviation alone.
        primary_metric: the metric that stands for a run, one that the `TaskSpec` declares; empty when there is no evaluation.
        selection: which model the final metrics describe (for the record).
        not_rehearsed: what of a step looks at values, and so is left out of `rehearse_losses` and `rehearse_evaluation`.
        parts_may_diverge: the model is several that train side by side: one whose gradient is not finite holds up no other.
    """

    model: nn.Module
    data: DataInfo
    preprocessing: Preprocessing
    primary_metric: str = ""
    selection: str = "last epoch"
    parts_may_diverge: bool = False
    not_rehearsed: str = ""

    def __init__(self, recipe: RecipeT) -> None:
        self.recipe = recipe

    def prepare(self) -> None:
        """Makes what is made once and kept, before training and evaluation; all processes call it, at every start."""

    def look_at_data(self) -> list[str]:
        """Looks at some of the data before the first step, on the main process; adds to the notes of `data`.

        Returns:
            Lines for people, three at most.

        Raises:
            UserError: what is seen cannot be used.
        """
        return []

    @abstractmethod
    def train_dataset(self) -> Dataset[Any]:
        """Map-style; ``dataset[i]`` draws its augmentation from the global generators, which the engine seeds."""

    @abstractmethod
    def param_groups(self) -> list[dict[str, Any]]:
        """Optimiser groups (``params``, ``weight_decay``, optional ``lr_scale``) over the parameters that train."""

    def repeated_blocks(self) -> list[nn.Module]:
        """The blocks of encoder and decoder: of these activations are recomputed, and FSDP gathers one at a time."""
        return blocks_of(self.model)

    def checkpoint_activations(self) -> None:
        """Has them recomputed in the backward pass, in place, where the recipe says so (`train.activation_checkpointing`).

        Raises:
            UserError: the net is no stack of blocks.
        """
        train = self.recipe.train
        if not train.activation_checkpointing or self.recipe.evaluate_only or self.recipe.task == "probing":
            return  # which keeps no activations of the encoder in any case
        blocks = self.repeated_blocks()
        if not blocks:
            raise UserError(
                f"train.activation_checkpointing=true: {self.recipe.encoder.arch} repeats no blocks that could be recomputed: "
                "leave it out"
            )
        recompute(blocks, compiled=train.compile)

    def collate(self) -> Callable[[list[Any]], Any]:
        """Makes a batch of samples, for training and validation."""
        return torch.utils.data.default_collate

    def prepare_batch(self, batch: Any) -> Any:
        """Training batch on the device to what the model takes: normalisation, mixup. Seeded by the engine."""
        return batch

    def val_dataset(self) -> Dataset[Any] | None:
        """Map-style validation set, or None when there is nothing to evaluate."""
        return None

    def evaluator(self) -> Evaluator:
        """A fresh evaluator."""
        raise NotImplementedError(f"{type(self).__name__} has no evaluation")

    def rehearsed_modules(self) -> list[nn.Module]:
        """What a rehearsal moves to the fake device: the model, and an encoder that a task has beside it."""
        return [self.model]

    def rehearse_batch(self, count: int, *, train: bool) -> Any:
        """A batch of `count` samples as the loader makes it, of one sample again and again."""
        dataset: Any = self.train_dataset() if train else self.val_dataset()
        return self.collate()([dataset[0]] * count)

    def rehearse_losses(self, batch: Any) -> Any:
        """What `model` gives for a training batch of fake tensors, which have no values (`mae_bench.rehearsal`)."""
        return self.model(batch)

    def rehearse_evaluation(self, batch: Any) -> None:
        """A validation batch of fake tensors through model and evaluator."""
        self.evaluator().update(self.model, batch)

    def draw(self, model: nn.Module, folder: Path) -> None:
        """Pictures of what the trained model does, for people; on the main process once training is over. `folder` is there.

        Evaluators draw theirs themselves (`Evaluator.write`).
        """

    def export(self, model: nn.Module) -> dict[str, dict[str, Tensor]]:
        """Files to write at the end: name without suffix -> tensors (written as safetensors)."""
        return {"model": model.state_dict()}
