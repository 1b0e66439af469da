"""The classification task: class folders, the official transforms and losses, top-1."""

from __future__ import annotations

from typing import Any

from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn
from torch.utils.data import Dataset

from backbones.checkpoints.checkpoint import Checkpoint, open_encoder
from backbones.errors import UserError
from backbones.vit.param_groups import param_groups
from tasks.base import Evaluator, Task
from tasks.classification.config import ClassificationRecipe
from tasks.classification.evaluation import AccuracyEvaluator
from tasks.classification.load_head import load_head, number_by_head, other_names
from tasks.classification.mixing import Mixup
from tasks.classification.model import Classifier
from tasks.classification.pooled import PooledEncoder
from tasks.classification.robustness import TestSet, open_test_set
from tasks.classification.transforms import train_crop, train_transform
from tasks.datasets.describe import allowed, describe, drop_unreadable, first_look, look_at_parts
from tasks.datasets.embedded.root import embedded_root
from tasks.datasets.images import ImageSet, TransformedImages, open_split, training_images
from tasks.datasets.label_subset import choose_labels
from tasks.datasets.options import layout_options
from tasks.datasets.transforms import at_evaluation, eval_crop, normalise


class ClassificationTask(Task[ClassificationRecipe]):
    """Fine-tuning (Table 9), whole or in part, probes (Table 10) or supervised training (Table 11), by the recipe's values.

    A schedule of no iterations evaluates a fine-tuned checkpoint with its own head; else the head is a new one.
    """

    primary_metric = "top1"

    def __init__(self, recipe: ClassificationRecipe, checkpoint: Checkpoint | None = None) -> None:
        super().__init__(recipe)
        if recipe.from_scratch and checkpoint is not None:
            raise UserError(
                f"{checkpoint.path}: the recipe trains from scratch: start it with --scratch {checkpoint.arch}"
            )
        self.test_set = self._open_test_set(checkpoint)
        if self.test_set:
            self.data = self.test_set.info(recipe.data)
            self.data.notes += other_names(checkpoint, self.data.class_names)
        else:
            self._open_data(checkpoint)
        config, augmentation = recipe.encoder, recipe.augmentation
        encoder = open_encoder(config, checkpoint, positions="resample")
        self._layers = encoder.layer_rules
        self.preprocessing = at_evaluation(encoder.preprocessing, config.img_size, augmentation.eval_crop_ratio)
        self.mixup: Mixup | None = None
        smoothing = recipe.head.label_smoothing
        if augmentation.mixup or augmentation.cutmix:
            self.mixup = Mixup(
                mixup_alpha=augmentation.mixup,
                cutmix_alpha=augmentation.cutmix,
                label_smoothing=smoothing,
                num_classes=self.data.classes,
            )
            smoothing = 0.0  # the mixed targets are smoothed already
        self.erasing = RandomErasing(augmentation.erasing, mode="pixel", device="cpu") if augmentation.erasing else None
        self.model = Classifier(encoder, self.data.classes, recipe.head, nn.CrossEntropyLoss(label_smoothing=smoothing))
        if recipe.evaluate_only and checkpoint is not None:
            load_head(self.model, checkpoint, f"--data {self.data.name}={self.data.root}")

    def _open_test_set(self, checkpoint: Checkpoint | None) -> TestSet | None:
        recipe = self.recipe
        if recipe.test_set is None:
            return None
        if checkpoint is None or not recipe.evaluate_only:
            raise UserError(
                f"test_set={recipe.test_set} only evaluates: give --checkpoint with a fine-tuned model, and "
                "schedule.iterations=0"
            )
        return open_test_set(recipe.test_set, recipe.data)

    def _open_data(self, checkpoint: Checkpoint | None) -> None:
        data = self.recipe.data
        root, options = embedded_root(data, "imagenet"), layout_options(data)
        notes: list[str] = []
        self.train_images = None
        class_to_idx = None
        if not self.recipe.evaluate_only:
            self.train_images = open_split(data.name, root, "train", options=options, allow=allowed(data, "train"))
            class_to_idx = self.train_images.class_to_idx
            if chosen := choose_labels(self.train_images, data):
                notes.append(chosen)
            self.train_images.limit(data.limit_train)
            notes += drop_unreadable(self.train_images, data)
        self.val_images = open_split(data.name, root, "val", class_to_idx, options=options, allow=allowed(data, "val"))
        if self.train_images is None and checkpoint is not None:
            self.val_images, said = number_by_head(self.val_images, checkpoint, data.allow)
            notes += said
        self.val_images.limit(data.limit_val)
        notes += drop_unreadable(self.val_images, data)
        self.data = describe(data, root, self._splits(), notes)

    def _splits(self) -> dict[str, ImageSet]:
        training = {} if self.train_images is None else {"train": self.train_images}
        return {**training, "val": self.val_images}

    def look_at_data(self) -> list[str]:
        """See `Task`."""
        if self.test_set is None:
            return first_look(self.data, self._splits())
        parts = self.test_set.images  # ImageNet-C has 75, of the same images
        return first_look(self.data, {"val": parts[0]}) if len(parts) == 1 else look_at_parts(self.data, parts)

    def train_dataset(self) -> Dataset[Any]:
        assert self.train_images is not None
        if self.recipe.train.cache_images:
            self.train_images.cache()
        size, augmentation = self.recipe.encoder.img_size, self.recipe.augmentation
        transform, crop = (
            train_transform(size, augmentation, self.preprocessing),
            train_crop(size, augmentation, self.preprocessing),
        )
        return training_images(self.train_images, self.recipe.data.decoder, transform, crop)

    def val_dataset(self) -> Dataset[Any]:
        transform = eval_crop(self.preprocessing)
        return self.test_set.dataset(transform) if self.test_set else TransformedImages(self.val_images, transform)

    def prepare_batch(self, batch: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Normalise, erase, mix: erasing comes after normalisation, since it fills with unit noise."""
        images, targets = normalise(batch[0], self.preprocessing), batch[1]
        if self.erasing is not None:
            self.erasing.device = images.device.type
            images = self.erasing(images)
        if self.mixup is not None:
            if len(images) % 2:
                raise UserError("mixup pairs images: give an even train.batch_size and train.micro_batch_size")
            images, targets = self.mixup(images, targets)
        return images, targets

    def param_groups(self) -> list[dict[str, Any]]:
        optimizer = self.recipe.optimizer
        return param_groups(
            self.model,
            weight_decay=optimizer.weight_decay,
            layer_decay=optimizer.layer_decay,
            encoder_prefix="encoder.encoder." if isinstance(self.model.encoder, PooledEncoder) else "encoder.",
            **self._layers,
        )

    def evaluator(self) -> Evaluator:
        if self.test_set:
            return self.test_set.evaluator(self.preprocessing)
        return AccuracyEvaluator(self.data.classes, self.preprocessing)

    def export(self, model: nn.Module) -> dict[str, dict[str, Tensor]]:
        assert isinstance(model, Classifier)
        if self.recipe.evaluate_only:
            return {}  # nothing was trained: it would be a copy of the checkpoint
        return {"model": model.timm_state()}
