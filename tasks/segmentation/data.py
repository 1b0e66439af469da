"""Pairs of image and map as data sets for training and validation, through mmseg's pipeline. No files are looked for here."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from backbones.errors import UserError
from tasks.datasets.decoding import WHITE
from tasks.segmentation.config import SegmentationConfig
from tasks.segmentation.folders import IGNORE, Pair
from tasks.segmentation.mm import (
    Compose,
    PackSegInputs,
    PhotoMetricDistortion,
    RandomCrop,
    RandomFlip,
    RandomResize,
    Resize,
    TestTimeAug,
)
from tasks.segmentation.reading import LoadImage, LoadMap, read_image, read_labels


def readable(pairs: Sequence[Pair]) -> list[int]:
    """Rows of the pairs of which image and map can be decoded; reads them all."""
    kept = []
    for row, pair in enumerate(pairs):
        try:
            read_image(pair.image)
            read_labels(pair.map)
        except UserError:
            continue
        kept.append(row)
    return kept


class AtLeastAPixel(Resize):
    """mmseg's resizing by a factor, but that the short side of a very narrow image stays a pixel: OpenCV fails with none."""

    scale: Any
    keep_ratio: bool

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Resizes image and map."""
        scale, (height, width) = self.scale, results["img"].shape[:2]
        factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
        if int(min(height, width) * factor + 0.5) >= 1:
            return dict(super().transform(results))
        self.scale, self.keep_ratio = tuple(max(1, int(side * factor + 0.5)) for side in (width, height)), False
        try:
            return dict(super().transform(results))
        finally:
            self.scale, self.keep_ratio = scale, True


class SegmentationDataset(Dataset[dict[str, Any]]):
    """Map-style: ``dataset[i]`` is what mmseg's pipeline packs, drawn with numpy's global generator.

    ``inputs``: (3, H, W) uint8 BGR image; ``data_samples``: `SegDataSample` with ``gt_sem_seg`` (1, H, W) int64, of the
    image's size in training and of the original size in validation. With test-time augmentation both are lists, an
    item a view.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        load: Sequence[Any],
        augment: Sequence[Any],
        *,
        reduce_zero_label: bool,
        cache: bool = False,
    ) -> None:
        self.pairs = list(pairs)
        self._load, self._augment = Compose(load), Compose(augment)
        self._reduce_zero_label = reduce_zero_label
        self._cache: dict[int, dict[str, Any]] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        """The image's path, for messages."""
        return str(self.pairs[index].image)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self._cache is None:
            return self._augment(self._read(index))
        if index not in self._cache:
            self._cache[index] = self._read(index)
        return self._augment(copy.deepcopy(self._cache[index]))

    def _read(self, index: int) -> dict[str, Any]:
        pair = self.pairs[index]
        return self._load(
            {
                "img_path": str(pair.image),
                "seg_map_path": str(pair.map),
                "label_map": None,
                "reduce_zero_label": self._reduce_zero_label,
                "seg_fields": [],
                "sample_idx": index,
            }
        )


def train_dataset(
    pairs: Sequence[Pair], config: SegmentationConfig, crop: int, classes: int, *, cache: bool, white: int = WHITE
) -> SegmentationDataset:
    """mmseg's training pipeline for ADE20K (configs/_base_/datasets/ade20k.py) with this recipe's sizes.

    Args:
        white: ``data.white_level``.
    """
    augment = [
        RandomResize(
            scale=_scale(config), ratio_range=tuple(config.resize_ratio), resize_type=AtLeastAPixel, keep_ratio=True
        ),
        RandomCrop(crop_size=(crop, crop), cat_max_ratio=config.cat_max_ratio, ignore_index=IGNORE),
        RandomFlip(prob=config.flip),
        *([PhotoMetricDistortion()] if config.photometric_distortion else []),
        PackSegInputs(),
    ]
    load = [LoadImage(skippable=True, white=white), LoadMap(classes)]
    return SegmentationDataset(pairs, load, augment, reduce_zero_label=config.reduce_zero_label, cache=cache)


def val_dataset(
    pairs: Sequence[Pair], config: SegmentationConfig, classes: int, *, white: int = WHITE
) -> SegmentationDataset:
    """mmseg's test pipeline: the image is resized, the map is read afterwards and keeps its size."""
    return SegmentationDataset(
        pairs,
        [LoadImage(skippable=False, white=white)],
        _views(config, classes),
        reduce_zero_label=config.reduce_zero_label,
    )


def _views(config: SegmentationConfig, classes: int) -> list[Any]:
    """One view, or every scale with and without a flip, which mmseg's test-time augmentation takes apart again.

    Scales are of `resize_scale`, as in the published multi-scale figures; mmseg 1.x's own tta_pipeline has them of the
    original image's size.
    """
    scales = list(config.tta_scales)
    if not scales or min(scales) <= 0:
        raise UserError(f"segmentation.tta_scales must be factors above 0, such as [0.75,1.0,1.25], not {scales}")
    resizes = [AtLeastAPixel(scale=_scale(config, factor), keep_ratio=True) for factor in scales]
    if len(scales) == 1 and not config.tta_flip:
        return [*resizes, LoadMap(classes), PackSegInputs()]
    flips = [RandomFlip(prob=p, direction="horizontal") for p in ([0.0, 1.0] if config.tta_flip else [0.0])]
    return [TestTimeAug([resizes, flips, [LoadMap(classes)], [PackSegInputs()]])]


def _scale(config: SegmentationConfig, factor: float = 1.0) -> tuple[int, int]:
    if len(config.resize_scale) != 2 or len(config.resize_ratio) != 2:
        raise UserError("segmentation.resize_scale and segmentation.resize_ratio must each be a pair of numbers")
    return round(config.resize_scale[0] * factor), round(config.resize_scale[1] * factor)
