"""Segmentation for the engine: joins recipe, encoder, heads, folders, network and metric. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from backbones.checkpoints.checkpoint import Checkpoint, open_dense
from backbones.checkpoints.dense_heads import load_heads
from backbones.encoders.maps import dense_rules
from backbones.errors import UserError
from backbones.vit.blocks import blocks_of
from backbones.vit.param_groups import param_groups
from tasks.base import DataInfo, Evaluator, Task
from tasks.datasets.embedded.root import embedded_root
from tasks.datasets.manifest import copies
from tasks.datasets.roots import data_root, fingerprint
from tasks.segmentation import checks, data, folders
from tasks.segmentation.classes import class_names
from tasks.segmentation.config import SegmentationRecipe
from tasks.segmentation.evaluation import SegmentationEvaluator
from tasks.segmentation.mm import pseudo_collate, without_values
from tasks.segmentation.model import ENCODER_PREFIX, Segmenter, build_segmenter


class SegmentationTask(Task[SegmentationRecipe]):
    """UPerNet or a linear head on the encoder of `checkpoint`, or of a fresh one.

    Finds files; reads images only for ``skip_broken``. A recipe with ``schedule.iterations: 0`` only evaluates: it needs no
    training folders, and of a checkpoint all heads. Otherwise training starts from those heads that fit.
    """

    model: Segmenter
    primary_metric = "mIoU"
    not_rehearsed = "mmseg's pixel accuracy and class weights in each head, joining of windows, what the metric counts"

    def __init__(self, recipe: SegmentationRecipe, checkpoint: Checkpoint | None = None) -> None:
        super().__init__(recipe)
        encoder_config, config = recipe.encoder, recipe.segmentation
        root = folders.layout_root(data_root(recipe.data.name, embedded_root(recipe.data, folders.ADE_FOLDER)), config)
        self.class_names, notes = class_names(root, recipe.data.name, config)
        notes += self._find_files(root)
        self.data = DataInfo(
            name=recipe.data.name,
            root=str(root),
            train_count=len(self._train),
            val_count=len(self._val),
            classes=len(self.class_names),
            fingerprint=fingerprint(root, _files([*self._train, *self._val])),
            split=config.val_images,
            notes=notes,
            account={used.name: used.account.to_json() for used in self._splits},
            class_names=self.class_names,
        )
        encoder = open_dense(encoder_config, checkpoint, encoder_config.img_size)
        self.preprocessing = encoder.preprocessing
        self._layers = dense_rules(encoder)
        self.model = build_segmenter(encoder, config, encoder_config.img_size, len(self.class_names))
        if checkpoint is not None:
            notes += load_heads(
                self.model,
                checkpoint,
                task="segmentation",
                encoder_prefix=ENCODER_PREFIX,
                whole=recipe.evaluate_only,
            )

    def _find_files(self, root: Path) -> list[str]:
        """Sets the pairs of both splits; returns what the record should say of them."""
        config, limits = self.recipe.segmentation, self.recipe.data
        allow = frozenset(limits.allow)
        val = folders.find_pairs(root, config.val_images, config.val_maps, config, allow)
        self._splits = [_first("val", val, limits.limit_val)]
        if not self._splits[0].rows:
            raise UserError(f"data.limit_val={limits.limit_val} leaves no validation image")
        notes = val.account.notes("val")
        if not self.recipe.evaluate_only:
            train, said = self._find_training(root, allow)
            notes = [*said, *notes, *checks.check_overlap(train, self._splits[0], self.class_names, allow)]
            self._splits = [train, *self._splits]
        self._train = [pair for used in self._splits[:-1] for pair in used.pairs]
        self._val = self._splits[-1].pairs
        return notes

    def _find_training(self, root: Path, allow: frozenset[str]) -> tuple[checks.Used, list[str]]:
        config, limits = self.recipe.segmentation, self.recipe.data
        found = folders.find_pairs(root, config.train_images, config.train_maps, config, allow)
        used, notes = _first("train", found, limits.limit_train), found.account.notes("train")
        if limits.skip_broken or "unreadable" in allow:
            kept = [used.rows[k] for k in data.readable(used.pairs)]
            if lost := sorted(set(used.rows) - set(kept)):
                for kind, files in (("images", found.images), ("maps", found.maps)):
                    found.account.give_up(kind, "unreadable", files.names[lost[0]], len(lost))
                notes.append(f"{len(lost)} of {len(used.rows)} training images left out: image or map unreadable")
            used = checks.Used("train", found, kept)
        if not used.rows:
            raise UserError(
                f"{root / config.train_images}: no training image is left (data.limit_train, data.skip_broken)"
            )
        return used, notes

    def look_at_data(self) -> list[str]:
        """See `Task`."""
        reduced, names = self.recipe.segmentation.reduce_zero_label, self.class_names
        labels = {used.name: checks.look_at_labels(used, len(names), reduced) for used in self._splits}
        parts = [used.name for used in self._splits if len(used.rows) < len(used.found.pairs)]
        self.data.notes += checks.check_labels(labels, names, reduced, parts)
        for used in self._splits:
            checks.count_classes(used.account, labels[used.name], names)
            self.data.account[used.name] = used.account.to_json()
        if len(self._splits) == 2:
            self.data.notes += copies(*(checks.manifest(used, names) for used in self._splits))
        return checks.first_look(self.data, self._splits, labels, self.recipe.data.white_level)

    def train_dataset(self) -> Dataset[Any]:
        """Random crops of `encoder.img_size`, see `tasks.segmentation.data.train_dataset`."""
        recipe = self.recipe
        return data.train_dataset(
            self._train,
            recipe.segmentation,
            recipe.encoder.img_size,
            len(self.class_names),
            cache=recipe.train.cache_images,
            white=recipe.data.white_level,
        )

    def val_dataset(self) -> Dataset[Any]:
        """Whole images at the recipe's scale, maps at their own."""
        recipe = self.recipe
        return data.val_dataset(self._val, recipe.segmentation, len(self.class_names), white=recipe.data.white_level)

    def collate(self) -> Callable[[list[Any]], Any]:
        """Keeps images in lists: they differ in size."""
        collate: Callable[[list[Any]], Any] = pseudo_collate
        return collate

    def repeated_blocks(self) -> list[nn.Module]:
        """See `Task`; heads repeat layers, too."""
        return blocks_of(self.model.net.backbone)

    def param_groups(self) -> list[dict[str, Any]]:
        """Layer-wise decay over the encoder, the full rate for neck and heads."""
        optimizer = self.recipe.optimizer
        return param_groups(
            self.model,
            weight_decay=optimizer.weight_decay,
            layer_decay=optimizer.layer_decay,
            encoder_prefix=ENCODER_PREFIX,
            **self._layers,
        )

    def rehearse_losses(self, batch: Any) -> Any:
        """See `Task`."""
        with without_values(self.model):
            return self.model(batch)

    def rehearse_evaluation(self, batch: Any) -> None:
        """See `Task`: each window of each image through the network."""
        self.model.predict_windows(batch)

    def evaluator(self) -> Evaluator:
        """mIoU over the classes of the data set, and pictures of images spread over the validation set."""
        count = min(self.recipe.segmentation.pictures, len(self._val))
        drawn = [str(self._val[k * len(self._val) // count].image) for k in range(count)]
        return SegmentationEvaluator(self.class_names, drawn, self.recipe.data.white_level)


def _first(name: str, found: folders.Pairs, limit: int | None) -> checks.Used:
    """The first `limit` pairs of a split."""
    rows = range(len(found.pairs))[:limit]
    if beyond := len(found.pairs) - len(rows):
        for kind, files in (("images", found.images), ("maps", found.maps)):
            found.account.give_up(kind, "not_chosen", files.names[len(rows)], beyond)
    return checks.Used(name, found, rows)


def _files(pairs: Sequence[folders.Pair]) -> list[Path]:
    return [file for pair in pairs for file in (pair.image, pair.map)]
