"""Test sets that share ImageNet's classes, for a fine-tuned classifier as it is: what each holds and how it is counted.

ImageNet-A, -R, -Sketch, -C (paper Table 13), -V2 and ReaL. Their folders are read by `tasks.datasets.images`,
their class lists are in
`tasks.datasets.imagenet`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from backbones.encoders.preprocessing import Preprocessing
from backbones.errors import UserError, unknown
from tasks.base import DataInfo, Evaluator
from tasks.classification.evaluation import AccuracyEvaluator
from tasks.datasets.account import Account
from tasks.datasets.describe import allowed, drop_unreadable
from tasks.datasets.imagenet import SEVERITIES, class_subset, corruption_folders, real_labels, synsets
from tasks.datasets.images import ImageSet, open_split
from tasks.datasets.options import layout_options
from tasks.datasets.roots import data_root
from tasks.datasets.transforms import normalise
from tasks.recipe import DataConfig

# AlexNet's error on each corruption, mean over the severities (arXiv 1903.12261; figures of hendrycks/robustness, as
# google-research/augmix has them in imagenet.py).
ALEXNET_ERROR = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}


@dataclass(frozen=True)
class TestSet:
    """Images with what its way of counting needs: `extra` of image i goes to the evaluator after its label."""

    images: Sequence[ImageSet]  # parts of the same length
    extra: Callable[[int], Any]
    evaluator: Callable[[Preprocessing], Evaluator]

    def __len__(self) -> int:
        return sum(map(len, self.images))

    def info(self, data: DataConfig) -> DataInfo:
        """What the record says of it."""
        prints = "\n".join(images.fingerprint() for images in self.images)
        account, notes = Account(), dict[str, None]()
        for images in self.images:
            account.add(images.account)
            notes |= dict.fromkeys(images.reader.notes)
        return DataInfo(
            name=data.name,
            root=str(data.root),
            train_count=0,
            val_count=len(self),
            classes=len(synsets()),
            fingerprint=hashlib.sha256(prints.encode()).hexdigest(),
            notes=[*account.notes("val"), *notes],
            account={"val": account.to_json()},
            class_names=list(synsets()),
        )

    def dataset(self, transform: Callable[[Image.Image], Any]) -> Dataset[Any]:
        """``dataset[i]`` is (transformed image, class index among the 1000, extra)."""
        return _Images(self, transform)


def open_test_set(kind: str, data: DataConfig) -> TestSet:
    """The test set of this kind (a key of `KINDS`) in ``data.root``.

    Raises:
        UserError: no such kind, classes that are not the set's, a corruption or severity that is missing.
    """
    if kind not in KINDS:
        raise unknown("test set", kind, KINDS, where="test_set")
    return KINDS[kind](data)


def _plain(data: DataConfig) -> TestSet:
    classes = len(synsets())
    return TestSet([_open(data)], lambda _: 0, lambda told: AccuracyEvaluator(classes, told))


def _subset(name: str) -> Callable[[DataConfig], TestSet]:
    classes = class_subset(name)

    def open_(data: DataConfig) -> TestSet:
        images = _open(data)
        if outside := sorted(set(images.labels) - set(classes)):
            raise UserError(
                f"--data {data.name}={data.root}: class {synsets()[outside[0]]} is none of the {len(classes)} of {name} "
                f"({len(outside)} such): remove it, or give the data set that this folder is"
            )
        return TestSet([images], lambda _: 0, lambda told: SubsetEvaluator(classes, told))

    return open_


def _real(data: DataConfig) -> TestSet:
    images = _open(data)
    labels = real_labels((images.relative_name(i) for i in range(len(images))), data.options.get("real_json"))

    def mask(i: int) -> Tensor:
        return torch.zeros(len(synsets()), dtype=torch.bool).index_fill_(
            0, torch.tensor(labels[i], dtype=torch.long), 1
        )

    return TestSet([images], mask, RealEvaluator)


def _corrupted(data: DataConfig) -> TestSet:
    folders = corruption_folders(data_root(data.name, data.root))
    images = [_open(data, str(path), whole=True) for _, _, path in folders]
    by_place: dict[Path, Path] = {}
    for (_, _, path), part in zip(folders, images, strict=True):
        if len(part) != len(images[0]):
            raise UserError(f"{path}: {len(part)} images, {folders[0][2]} has {len(images[0])}: unpack it again")
        if part.labels != images[0].labels:
            raise UserError(f"{path}: other images of each class than in {folders[0][2]}: unpack it again")
        if (other := by_place.setdefault(path.resolve(), path)) != path:
            raise UserError(f"{path}: the very folder that {other} is: unpack its own")
    conditions = [(corruption, severity) for corruption, severity, _ in folders]
    each = len(images[0])
    return TestSet(images, lambda i: i // each, lambda told: CorruptionEvaluator(conditions, told))


def _open(data: DataConfig, root: str | None = None, *, whole: bool = False) -> ImageSet:
    """The validation images at `root`, their labels being indices among ImageNet's 1000 classes.

    Args:
        whole: those that cannot be read must not be left out, where that is allowed.
    """
    options = layout_options(data)
    images = open_split(data.name, root or data.root, "val", options=options, allow=allowed(data, "val"))
    known = {name: i for i, name in enumerate(synsets())}
    if images.reader.numbered and images.classes == len(known):
        known = (
            images.class_to_idx
        )  # parquet and shards of ImageNet have names of other kinds, in the order of the synsets
    if other := sorted(set(images.class_names) - known.keys()):
        raise UserError(
            f"--data {data.name}={data.root}: class {other[0]!r} is none of ImageNet's 1000 ({len(other)} such): give class "
            "folders named by synset"
        )
    images = replace(images, class_to_idx=known, way_out="" if whole else images.way_out)
    images.limit(data.limit_val)
    if not whole:
        drop_unreadable(images, data)  # which the account tells of
    return images


KINDS: dict[str, Callable[[DataConfig], TestSet]] = {
    "imagenet_a": _subset("imagenet_a"),
    "imagenet_r": _subset("imagenet_r"),
    "imagenet_sketch": _plain,
    "imagenet_v2": _plain,
    "imagenet_real": _real,
    "imagenet_c": _corrupted,
}


class SubsetEvaluator(AccuracyEvaluator):
    """Accuracy among some of the classes: the others' logits do not compete (hendrycks/natural-adv-examples, eval.py)."""

    def __init__(self, classes: list[int], told: Preprocessing) -> None:
        super().__init__(len(classes), told)
        self.classes = torch.tensor(classes)

    def predict(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        logits, targets = super().predict(model, batch)
        classes = self.classes.to(logits.device)
        return logits[:, classes], torch.searchsorted(classes, targets)


class RealEvaluator(Evaluator):
    """ReaL accuracy (arXiv 2006.07159): any of an image's labels is right, images without labels do not count.

    `results` is one (images, with ReaL labels, right by ReaL, right by the original label) a process.
    """

    def __init__(self, told: Preprocessing) -> None:
        self.told = told
        self.sums: Tensor | None = None

    def update(self, model: nn.Module, batch: Any) -> None:
        images, targets, labels = batch
        predicted = model((normalise(images, self.told), targets)).argmax(1)
        counted = labels.any(1)
        right = labels[torch.arange(len(labels), device=labels.device), predicted]
        count = torch.tensor(len(targets), device=predicted.device)
        sums = torch.stack([count, counted.sum(), right.sum(), (predicted == targets).sum()])
        self.sums = sums if self.sums is None else self.sums + sums

    def results(self) -> list[Any]:
        return [] if self.sums is None else [self.sums.tolist()]

    def metrics(self, results: list[Any]) -> dict[str, float]:
        images, counted, right, original = (sum(column) for column in zip(*results, strict=True))
        top1 = 100 * right / counted if counted else float("nan")
        return {"top1": top1, "original_top1": 100 * original / images, "images": counted}


class CorruptionEvaluator(Evaluator):
    """ImageNet-C: errors (%) by corruption and severity, and over all corruptions once raw and once against AlexNet's.

    ``inc_error`` is the mean error over corruptions and severities. ``inc_mce`` divides each corruption's error by AlexNet's
    first (arXiv 1903.12261, Sec. 4.2); the paper's Table 13 prints this one.
    """

    def __init__(self, conditions: Sequence[tuple[str, int]], told: Preprocessing) -> None:
        self.told = told
        self.conditions = conditions
        self.counts = torch.zeros(len(conditions), 2, dtype=torch.long)  # images, wrong

    def update(self, model: nn.Module, batch: Any) -> None:
        images, targets, condition = batch
        wrong = model((normalise(images, self.told), targets)).argmax(1) != targets
        both = torch.stack([torch.ones_like(wrong), wrong], 1).long().cpu()
        self.counts.index_add_(0, condition.cpu(), both)

    def results(self) -> list[Any]:
        return [self.counts.tolist()]

    def metrics(self, results: list[Any]) -> dict[str, float]:
        counts = torch.tensor(results).sum(0)
        errors = dict(zip(self.conditions, (100 * counts[:, 1].double() / counts[:, 0]).tolist(), strict=True))
        by_corruption = {c: sum(errors[c, s] for s in SEVERITIES) / len(SEVERITIES) for c in ALEXNET_ERROR}
        error = sum(by_corruption.values()) / len(by_corruption)
        relative = [value / ALEXNET_ERROR[c] for c, value in by_corruption.items()]
        return {
            "top1": 100 - error,
            "inc_error": error,
            "inc_mce": sum(relative) / len(relative),
            **{f"error.{c}": value for c, value in by_corruption.items()},
            **{f"error.{c}.{s}": value for (c, s), value in errors.items()},
            "images": int(counts[:, 0].sum()),
        }


class _Images(Dataset[Any]):
    def __init__(self, test_set: TestSet, transform: Callable[[Image.Image], Any]) -> None:
        self.test_set, self.transform = test_set, transform
        self.each = len(test_set.images[0])

    def __len__(self) -> int:
        return len(self.test_set)

    def __getitem__(self, i: int) -> tuple[Any, int, Any]:
        part, k = divmod(i, self.each)
        image, label = self.test_set.images[part].read(k)
        return self.transform(image), label, self.test_set.extra(i)
