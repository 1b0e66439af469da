"""Segmentation for the engine: joins recipe, encoder, heads, folders, network and metric. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from backbones.checkpoints.checkpoint import Checkpoint, build_encoder
from backbones.checkpoints.dense_heads import load_heads
from backbones.errors import UserError
from backbones.vit.param_groups import param_groups
from tasks.base import DataInfo, Evaluator, Task
from tasks.datasets.embedded.root import embedded_root
from tasks.datasets.roots import data_root, fingerprint
from tasks.segmentation import data, folders
from tasks.segmentation.config import SegmentationRecipe
from tasks.segmentation.evaluation import SegmentationEvaluator
from tasks.segmentation.mm import pseudo_collate
from tasks.segmentation.model import ENCODER_PREFIX, build_segmenter


class SegmentationTask(Task[SegmentationRecipe]):
    """UPerNet or a linear head on the encoder of `checkpoint`, or of a fresh one.

    Finds files; reads images only for ``skip_broken``. A recipe with ``schedule.iterations: 0`` only evaluates: it needs no
    training folders, and of a checkpoint all heads. Otherwise training starts from those heads that fit.
    """

    primary_metric = "mIoU"

    def __init__(self, recipe: SegmentationRecipe, checkpoint: Checkpoint | None = None) -> None:
        super().__init__(recipe)
        encoder_config, config = recipe.encoder, recipe.segmentation
        root = folders.layout_root(data_root(recipe.data.name, embedded_root(recipe.data, folders.ADE_FOLDER)), config)
        self.class_names = folders.class_names(root, recipe.data.name, config.num_classes, config.class_names)
        notes = self._find_files(root)
        self.data = DataInfo(
            name=recipe.data.name,
            root=str(root),
            train_count=len(self._train),
            val_count=len(self._val),
            classes=len(self.class_names),
            fingerprint=fingerprint(root, _files([*self._train, *self._val])),
            split=config.val_images,
            notes=notes,
        )
        encoder = build_encoder(encoder_config.arch, encoder_config.img_size, encoder_config.drop_path, checkpoint)
        self._depth = len(encoder.blocks)
        self.model = build_segmenter(encoder, config, encoder_config.img_size, len(self.class_names))
        if checkpoint is not None:
            notes += load_heads(
                self.model,
                checkpoint,
                task="segmentation",
                encoder_prefix=ENCODER_PREFIX,
                whole=recipe.schedule.iterations == 0,
            )

    def _find_files(self, root: Path) -> list[str]:
        """Sets the pairs of both splits; returns what the record should say of them."""
        config, limits, notes = self.recipe.segmentation, self.recipe.data, []
        self._train: list[folders.Pair] = []
        if self.recipe.schedule.iterations != 0:
            found = folders.find_pairs(root, config.train_images, config.train_maps, config)[: limits.limit_train]
            self._train = data.readable(found) if limits.skip_broken else found
            if left_out := len(found) - len(self._train):
                notes.append(f"{left_out} of {len(found)} training images left out: image or map unreadable")
            if not self._train:
                raise UserError(
                    f"{root / config.train_images}: no training image is left (data.limit_train, data.skip_broken)"
                )
        self._val = folders.find_pairs(root, config.val_images, config.val_maps, config)[: limits.limit_val]
        if not self._val:
            raise UserError(f"data.limit_val={limits.limit_val} leaves no validation image")
        return notes

    def train_dataset(self) -> Dataset[Any]:
        """Random crops of `encoder.img_size`, see `tasks.segmentation.data.train_dataset`."""
        recipe = self.recipe
        return data.train_dataset(
            self._train,
            recipe.segmentation,
            recipe.encoder.img_size,
            len(self.class_names),
            cache=recipe.train.cache_images,
        )

    def val_dataset(self) -> Dataset[Any]:
        """Whole images at the recipe's scale, maps at their own."""
        return data.val_dataset(self._val, self.recipe.segmentation, len(self.class_names))

    def collate(self) -> Callable[[list[Any]], Any]:
        """Keeps images in lists: they differ in size."""
        collate: Callable[[list[Any]], Any] = pseudo_collate
        return collate

    def param_groups(self) -> list[dict[str, Any]]:
        """Layer-wise decay over the encoder, the full rate for neck and heads."""
        optimizer = self.recipe.optimizer
        return param_groups(
            self.model,
            weight_decay=optimizer.weight_decay,
            depth=self._depth,
            layer_decay=optimizer.layer_decay,
            encoder_prefix=ENCODER_PREFIX,
        )

    def evaluator(self) -> Evaluator:
        """mIoU over the classes of the data set, and pictures of images spread over the validation set."""
        count = min(self.recipe.segmentation.pictures, len(self._val))
        drawn = [str(self._val[k * len(self._val) // count].image) for k in range(count)]
        return SegmentationEvaluator(self.class_names, drawn)


def _files(pairs: Sequence[folders.Pair]) -> list[Path]:
    return [file for pair in pairs for file in (pair.image, pair.map)]
