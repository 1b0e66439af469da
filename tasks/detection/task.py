"""Detection as the engine sees it: encoder, data set and recipe as model, parameter groups, data and evaluator."""

from __future__ import annotations

import itertools
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
from backbones.vit.param_groups import NoDecay, param_groups
from tasks.base import DataInfo, Task
from tasks.datasets.account import Account, printable
from tasks.datasets.embedded.root import embedded_root
from tasks.datasets.manifest import VAL_IN_TRAIN, check_pair, copies, twice
from tasks.datasets.roots import data_root
from tasks.detection.checks import Used, class_counts, class_notes, first_look, has_objects, open_books
from tasks.detection.config import DetectionRecipe
from tasks.detection.data import (
    CocoDataset,
    CocoSplit,
    Record,
    read_split,
    readable,
    require_masks,
    splits_fingerprint,
)
from tasks.detection.evaluation import DetectionEvaluator
from tasks.detection.fixed_proposals import prediction_outputs, training_outputs
from tasks.detection.lvis import LvisEvaluator, check_lvis, image_counts, is_lvis
from tasks.detection.model import Detector, build_detector, encoder_prefix
from tasks.detection.sampling import RepeatedDataset, repeat_factors

# What detectron2's `get_default_optimizer_params` takes for a norm. Its own channels-first LayerNorm is none of them:
# norms of the pyramid and the heads decay, as they did for the published figures.
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)


class DetectionTask(Task[DetectionRecipe]):
    """Mask R-CNN of ViTDet on a COCO-layout data set (`data.name` ``embedded`` makes its own)."""

    model: Detector
    primary_metric = "box_ap"
    not_rehearsed = "matching and sampling of proposals, their losses, non-maximum suppression, pasting of masks"

    def __init__(self, recipe: DetectionRecipe, checkpoint: Checkpoint | None = None) -> None:
        super().__init__(recipe)
        root = data_root(recipe.data.name, embedded_root(recipe.data, "coco"))
        self.evaluates_only = recipe.evaluate_only
        train, self.val = self._read(root)
        self._used, notes = self._choose(train)
        self.train_records = [record for used in self._used[:-1] for record in used.records]
        self.val_records = self._used[-1].records
        encoder = open_dense(recipe.encoder, checkpoint, recipe.detection.img_size)
        self.preprocessing = encoder.preprocessing
        self._layers = dense_rules(encoder)
        self.model = build_detector(encoder, recipe.detection, len(train.classes), image_counts(train))
        if checkpoint is not None:
            notes += self._take_heads(checkpoint, len(train.classes))
        self.data = DataInfo(
            name=recipe.data.name,
            root=str(root),
            train_count=len(self.train_records),
            val_count=len(self.val_records),
            classes=len(train.classes),
            fingerprint=splits_fingerprint([self.val] if train is self.val else [train, self.val]),
            notes=list(dict.fromkeys([*train.notes, *self.val.notes, *notes])),
            account={used.name: used.account.to_json() for used in self._used},
            class_names=list(train.classes),
        )

    def _choose(self, train: CocoSplit) -> tuple[list[Used], list[str]]:
        """What is used of each split, validation last, and what the record has to say of it."""
        data = self.recipe.data
        val = Used("val", self.val, self.val.records[: data.limit_val], open_books(self.val, trains=False))
        _enter_limit(val.account, self.val.records, len(val.records))
        if not val.records:
            raise UserError(f"data.limit_val={data.limit_val} leaves no validation image")
        if not class_counts(self.val, self.val.records).any():
            raise UserError(f"{self.val.json}: no validation object counts (all are crowds): AP is not defined on it")
        splits, notes = [val], [*val.account.notes("val"), *twice(val.manifest)]
        if is_lvis(self.val) and self.recipe.protocol != "lvis":
            notes.append(f"{self.val.json.name} lists neg_category_ids: AP is counted by LVIS's rules, not by COCO's")
        if not self.evaluates_only:
            used, unreadable = _train_images(self.recipe, train)
            splits = [used, val]
            notes = [*used.account.notes("train"), *unreadable, *notes]
            notes += twice(used.manifest) + check_pair(used.manifest, val.manifest, data.allow)
            notes += class_notes(used, val)
        return splits, notes

    def look_at_data(self) -> list[str]:
        """See `Task`."""
        if len(self._used) == 2:
            self.data.notes += copies(*(used.manifest for used in self._used))
        return first_look(self.data, self._used, self.recipe.data.white_level)

    def _read(self, root: Path) -> tuple[CocoSplit, CocoSplit]:
        """Both splits, checked; a run that only evaluates needs no training set, and takes the classes from the other."""
        recipe, options = self.recipe, {} if self.recipe.data.name == "embedded" else self.recipe.data.options

        def read(split: str) -> CocoSplit:
            masks = recipe.detection.with_masks
            found = read_split(
                root,
                split,
                options,
                with_masks=masks,
                skip_broken=recipe.data.skip_broken or "broken" in recipe.data.allow,
            )
            if masks:
                require_masks(found)
            return found

        val = read("val")
        if is_lvis(val):
            check_lvis(val)
        elif recipe.protocol == "lvis":
            raise UserError(f"{val.json}: its images have no neg_category_ids, which LVIS's AP needs: give LVIS's json")
        train = val if self.evaluates_only else read("train")
        _check_classes(recipe, train, val)
        return train, val

    def _take_heads(self, checkpoint: Checkpoint, classes: int) -> list[str]:
        """A detector's trained heads: all of them to evaluate, those that fit to train; what the record has to say."""
        try:
            return load_heads(
                self.model,
                checkpoint,
                task="detection",
                encoder_prefix=encoder_prefix(self.recipe.detection),
                whole=self.evaluates_only,
            )
        except UserError as e:
            way = "schedule.iterations=0 only evaluates, for which recipe and classes must be the checkpoint's"
            raise UserError(f"{e}; {self.val.json} has {classes} classes; {way}") from e

    def repeated_blocks(self) -> list[nn.Module]:
        """See `Task`; heads repeat layers, too."""
        return blocks_of(self.model.backbone)

    def param_groups(self) -> list[dict[str, Any]]:
        """As ViTDet trains: layer decay in the encoder; norms of torch's and positions without weight decay, but for ViT-H."""
        if self.recipe.detection.decay_all:
            return self._groups(lambda name, _: False)
        spared = {
            f"{name}.{parameter}"
            for name, module in self.model.named_modules()
            if isinstance(module, _NORMS)
            for parameter, _ in module.named_parameters(recurse=False)
        }
        positions = (".pos_embed", ".bias_tables.window", ".bias_tables.global")
        return self._groups(lambda name, _: name in spared or name.endswith(positions))

    def _groups(self, no_decay: NoDecay) -> list[dict[str, Any]]:
        return param_groups(
            self.model,
            weight_decay=self.recipe.optimizer.weight_decay,
            layer_decay=self.recipe.optimizer.layer_decay,
            encoder_prefix=encoder_prefix(self.recipe.detection),
            no_decay=no_decay,
            **self._layers,
        )

    def train_dataset(self) -> Dataset[Record]:
        config, recipe = self.recipe.detection, self.recipe
        dataset = CocoDataset(
            self.train_records, config, train=True, cache=recipe.train.cache_images, white=recipe.data.white_level
        )
        if config.repeat_threshold is None:
            return dataset
        return RepeatedDataset(dataset, repeat_factors(self.train_records, config.repeat_threshold))

    def val_dataset(self) -> Dataset[Record]:
        return CocoDataset(self.val_records, self.recipe.detection, train=False, white=self.recipe.data.white_level)

    def collate(self) -> Callable[[list[Record]], list[Record]]:
        """Images of different sizes stay a list; the model pads them."""
        return list

    def rehearse_losses(self, batch: list[Record]) -> Any:
        """See `Task`: on a fixed number of proposals."""
        return training_outputs(self.model, batch, self.recipe.detection)

    def rehearse_evaluation(self, batch: list[Record]) -> None:
        """See `Task`: on a fixed number of proposals."""
        prediction_outputs(self.model, batch, self.recipe.detection)

    def evaluator(self) -> DetectionEvaluator:
        kind = LvisEvaluator if is_lvis(self.val) else DetectionEvaluator
        config, white = self.recipe.detection, self.recipe.data.white_level
        return kind(self.val, self.val_records, with_masks=config.with_masks, pictures=config.pictures, white=white)


def _check_classes(recipe: DetectionRecipe, train: CocoSplit, val: CocoSplit) -> None:
    if train is not val and train.json.resolve() == val.json.resolve() and VAL_IN_TRAIN not in recipe.data.allow:
        raise UserError(
            f"{train.json} is the json of both training and validation: figures on it would mean nothing (to see a model "
            f"learn it by heart: --set data.allow=[{VAL_IN_TRAIN}])"
        )
    for ours, theirs in itertools.zip_longest(*(zip(s.category_ids, s.classes, strict=True) for s in (train, val))):
        if ours != theirs:
            said = ", ".join("none" if each is None else f"{each[0]} ({each[1]})" for each in (ours, theirs))
            raise UserError(
                f"{train.json} and {val.json} have different categories: both must list the same ids: {said}"
            )
    wanted = recipe.detection.classes
    if wanted is not None and wanted != len(train.classes):
        raise UserError(
            f"detection.classes={wanted}, but {train.json} has {len(train.classes)}: leave detection.classes out"
        )


def _enter_limit(books: Account, records: Sequence[Record], count: int) -> None:
    """Images beyond the first `count`, which the recipe does not ask for."""
    if count < len(records):
        books.give_up("images", "not_chosen", Path(records[count]["file_name"]).name, len(records) - count)


def _train_images(recipe: DetectionRecipe, split: CocoSplit) -> tuple[Used, list[str]]:
    """Images to train on, and what the record has to say of those that cannot be read."""
    books, notes = open_books(split, trains=True), []
    whole = [record for record in split.records if has_objects(record)]
    records = whole[: recipe.data.limit_train]
    _enter_limit(books, whole, len(records))
    if recipe.data.skip_broken or "unreadable" in recipe.data.allow:
        records, broken = readable(records)
        for name in broken:
            books.give_up("images", "unreadable", name)
        if broken:
            some = ", ".join(map(printable, broken[:5])) + (", …" if len(broken) > 5 else "")
            notes.append(f"{len(broken)} unreadable training images left out ({some})")
    if not records:
        why = "check the json and data.limit_train"
        if split.content.maskless:
            count = len(split.content.maskless)
            why = f"{count} objects have no polygon of 3 points: --set detection.with_masks=false trains boxes"
        raise UserError(f"{split.json}: no training image is left; {why}")
    return Used("train", split, records, books), notes
