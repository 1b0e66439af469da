"""The probing task: k-NN, or a grid of linear heads, on kept features of a frozen encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from backbones.checkpoints.checkpoint import Checkpoint, open_encoder
from backbones.encoders.contract import Encoder
from backbones.encoders.features import Feature, choose, image_features
from backbones.errors import UserError
from tasks.base import Evaluator, Task
from tasks.datasets.describe import allowed, describe, drop_unreadable, first_look
from tasks.datasets.embedded.root import embedded_root
from tasks.datasets.images import ImageSet, TransformedImages, open_split
from tasks.datasets.label_subset import choose_labels
from tasks.datasets.options import layout_options
from tasks.datasets.transforms import at_evaluation, eval_crop, normalise
from tasks.probing.config import FeaturesConfig, ProbingRecipe
from tasks.probing.evaluation import KnnEvaluator
from tasks.probing.kept import Source, kept_features
from tasks.probing.knn import NearestNeighbours
from tasks.probing.linear_grid import GridEvaluator, Head, ProbeHeads
from tasks.probing.rows import HELD_OUT, BothRows, KeptRows, split

# As recipes of classification call them -> `backbones.encoders.features.KINDS`.
POOLS = {"token": "cls", "avg": "mean", "own": "own"}


class Neighbourhood(nn.Module):
    """What k-NN has for a model: the temperature, which nothing trains."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(temperature))


class ProbingTask(Task[ProbingRecipe]):
    """k-NN (``method: knn``) or linear heads for learning rates x poolings x layers (``method: probe``).

    Both see images under the evaluation transform, so the probe's heads, unlike Table 10's, meet no augmentation.
    """

    train_rows: NDArray[np.int64] | None = None  # None: all of them
    held_out: NDArray[np.int64] | None = None
    not_rehearsed = "what is computed on the features"
    parts_may_diverge = True  # each head by itself: it gets no figures then

    def __init__(self, recipe: ProbingRecipe, checkpoint: Checkpoint | None = None) -> None:
        super().__init__(recipe)
        self._open_data()
        config = recipe.encoder
        encoder = open_encoder(replace(config, drop_path=0.0), checkpoint, positions="resample")
        self.preprocessing = at_evaluation(encoder.preprocessing, config.img_size, recipe.features.eval_crop_ratio)
        self.points = _points(encoder, recipe.features)
        self.source = Source(
            encoder.requires_grad_(False),
            checkpoint.sha256 if checkpoint else None,
            self.preprocessing,
            recipe.train.precision,
            recipe.features.store,
            recipe.features.batch_size,
            recipe.train.workers,
        )
        self.kept: dict[str, list[NDArray[Any]]] = {}
        self._set_up_knn() if recipe.method == "knn" else self._set_up_probe()

    def _open_data(self) -> None:
        data = self.recipe.data
        root, options = embedded_root(data, "imagenet"), layout_options(data)
        notes = []
        self.train_images = open_split(data.name, root, "train", options=options, allow=allowed(data, "train"))
        if chosen := choose_labels(self.train_images, data):
            notes.append(chosen)
        self.train_images.limit(data.limit_train)
        numbers = self.train_images.class_to_idx
        self.val_images = open_split(data.name, root, "val", numbers, options=options, allow=allowed(data, "val"))
        self.val_images.limit(data.limit_val)
        for images in (self.train_images, self.val_images):
            notes += drop_unreadable(images, data)
        self.data = describe(data, root, self._splits(), notes)

    def _splits(self) -> dict[str, ImageSet]:
        return {"train": self.train_images, "val": self.val_images}

    def look_at_data(self) -> list[str]:
        """See `Task`."""
        return first_look(self.data, self._splits())

    def _set_up_knn(self) -> None:
        ks, count = self.recipe.knn.k, len(self.train_images)
        if len(self.points) != 1:
            raise UserError(f"k-NN compares one feature, features.pools x features.layers are {len(self.points)}")
        if self.recipe.select_on != "val":
            raise UserError(
                "select_on is for what chooses among heads, k-NN reports every k: give --set probe:select_on=train_split"
            )
        # Told before the features are made, which may take hours; `NearestNeighbours` says the same of itself.
        NearestNeighbours(np.empty((count, 0), np.float16), [], self.data.classes, ks, self.recipe.knn.temperature)
        self.primary_metric = f"knn{20 if 20 in ks else min(ks)}_top1"
        self.model: nn.Module = Neighbourhood(self.recipe.knn.temperature)

    def _set_up_probe(self) -> None:
        probe = self.recipe.probe
        if self.recipe.optimizer.clip_grad is not None:
            raise UserError("optimizer.clip_grad would tie the heads to one another: leave it out")
        self.grid = [Head(lr, pool, f.layer, f.name) for lr in dict.fromkeys(probe.lrs) for pool, f in self.points]
        self.model = ProbeHeads(
            self.grid,
            {f.name: f.shape[-1] for _, f in self.points},
            self.data.classes,
            batch_norm=probe.batch_norm,
            init_std=probe.init_std,
            criterion=nn.CrossEntropyLoss(label_smoothing=probe.label_smoothing),
            seed=self.recipe.seed,
        )
        by = "the validation set itself"
        if self.recipe.select_on == "train_split":
            self.train_rows, self.held_out = split(len(self.train_images), self.recipe.seed)
            by = f"{len(self.held_out)} training images held out ({HELD_OUT:.0%}, seed {self.recipe.seed})"
            self.data.notes.append(f"{len(self.held_out)} training images held out, by which the head is chosen")
        self.primary_metric = f"top1_best_on_{self.recipe.select_on}"
        self.selection = f"last epoch; the best of {len(self.grid)} heads by top-1 on {by}"

    def prepare(self) -> None:
        """Features of both splits, from the cache folder or made anew."""
        wanted = [feature for _, feature in self.points]
        for images in (self.train_images, self.val_images):
            found = kept_features(self.source, images, wanted)
            arrays = [found[feature.name] for feature in wanted]
            self.kept[images.split] = [np.array(a) for a in arrays] if self.recipe.train.cache_images else arrays

    def _rows(self, images: ImageSet, rows: NDArray[np.int64] | None = None) -> KeptRows:
        return KeptRows(self.kept[images.split], images.labels, rows)

    def train_dataset(self) -> Dataset[Any]:
        return self._rows(self.train_images, self.train_rows)

    def val_dataset(self) -> Dataset[Any]:
        val = self._rows(self.val_images)
        return val if self.held_out is None else BothRows(val, self._rows(self.train_images, self.held_out))

    def collate(self) -> Callable[[Any], Any]:
        """Batches come whole from `KeptRows.take`."""
        return _as_it_is

    def param_groups(self) -> list[dict[str, Any]]:
        """A group for each learning rate of the grid."""
        decay = self.recipe.optimizer.weight_decay
        if not isinstance(self.model, ProbeHeads):
            return [{"params": list(self.model.parameters()), "weight_decay": 0.0}]
        optimizer = self.recipe.optimizer
        unit = optimizer.lr if optimizer.lr is not None else optimizer.blr
        if not unit or unit < 0:
            raise UserError("optimizer: give lr or blr, whose unit probe.lrs have, as a positive number")
        groups: dict[float, list[nn.Parameter]] = {}
        for head, linear in zip(self.grid, self.model.heads, strict=True):
            groups.setdefault(head.lr, []).extend(linear.parameters())
        return [{"params": params, "weight_decay": decay, "lr_scale": lr / unit} for lr, params in groups.items()]

    def evaluator(self) -> Evaluator:
        if self.recipe.method == "probe":
            return GridEvaluator(self.grid, self.data.classes)
        knn = self.recipe.knn
        neighbours = NearestNeighbours(
            self.kept[self.train_images.split][0],
            self.train_images.labels,
            self.data.classes,
            knn.k,
            knn.temperature,
            chunk=knn.train_chunk,
            device=next(self.model.parameters()).device,
        )
        return KnnEvaluator(neighbours, knn.query_chunk)

    def rehearsed_modules(self) -> list[nn.Module]:
        """See `Task`."""
        return [self.model, self.source.encoder]

    def rehearse_batch(self, count: int, *, train: bool) -> Any:
        """Features to train on; images to evaluate, since making the features of them is what evaluation takes."""
        if train:
            features = [torch.zeros(count, *feature.shape) for _, feature in self.points]
            return features, torch.zeros(count, dtype=torch.long)
        images = TransformedImages(self.val_images, eval_crop(self.preprocessing))
        return torch.stack([images[0][0]] * count)

    def rehearse_evaluation(self, batch: Tensor) -> None:
        """Makes the features."""
        images = normalise(batch, self.preprocessing)
        image_features(self.source.encoder, images, [feature for _, feature in self.points])

    def export(self, model: nn.Module) -> dict[str, dict[str, Tensor]]:
        """The heads of a probe (``heads.safetensors``); k-NN has nothing to keep."""
        return {"heads": model.tensors()} if isinstance(model, ProbeHeads) else {}


def _as_it_is(batch: Any) -> Any:
    return batch


def _points(encoder: Encoder, config: FeaturesConfig) -> list[tuple[str, Feature]]:
    """(pooling, feature) of the recipe's poolings x layers.

    Raises:
        UserError: no such layer, or no class token.
    """
    depth = len(encoder.stages)
    for pool in config.pools:
        if pool == "token" and not encoder.class_token:
            raise UserError("features.pools=[token]: this encoder has no class token: give --set features.pools=[own]")
    for layer in config.layers:
        if not -depth <= layer < depth:
            raise UserError(f"features.layers={layer}: the encoder has {depth} blocks: give 0 to {depth - 1}, or -1")
    names = {kind: pool for pool, kind in POOLS.items()}
    chosen = choose(encoder, [POOLS[pool] for pool in config.pools], config.layers, config.norm)
    return [(names[feature.kind], feature) for feature in chosen]
