"""Folders of images and class maps as data sets: layouts, class names, mmseg's pipeline, and checks of what is read."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from backbones.errors import UserError
from tasks.decoding import read_rgb
from tasks.segmentation.config import SegmentationConfig
from tasks.segmentation.mm import (
    ADE20KDataset,
    BaseSegDataset,
    Compose,
    LoadAnnotations,
    LoadImageFromFile,
    PackSegInputs,
    PhotoMetricDistortion,
    RandomCrop,
    RandomFlip,
    RandomResize,
    Resize,
)
from tasks.segmentation.model import IGNORE

ADE_FOLDER = "ADEChallengeData2016"
ADE_CLASSES: tuple[str, ...] = tuple(ADE20KDataset.METAINFO["classes"])
CLASS_LIST = "classes.txt"
_UNREADABLE = (OSError, ValueError, SyntaxError, AttributeError)  # what Pillow raises on broken files


@dataclass(frozen=True)
class Pair:
    """An image and its map of classes."""

    image: Path
    map: Path


def layout_root(root: Path, config: SegmentationConfig) -> Path:
    """`root`, or the folder ADEChallengeData2016 in it when the layout is there."""
    inside = root / ADE_FOLDER
    return inside if not (root / config.val_images).is_dir() and inside.is_dir() else root


def find_pairs(root: Path, images: str, maps: str, config: SegmentationConfig) -> list[Pair]:
    """The images of a folder with their maps, in order of path.

    Raises:
        UserError: a folder is missing or holds no image of the suffix, or an image has no map.
    """
    image_folder, map_folder = root / images, root / maps
    for folder in (image_folder, map_folder):
        if not folder.is_dir():
            raise UserError(
                f"{folder}: no such folder; segmentation reads {images} and {maps} below the data set's folder "
                "(--set segmentation.train_images=… and the like name others)"
            )
    suffix = config.image_suffix
    listed = BaseSegDataset(
        img_suffix=suffix,
        seg_map_suffix=config.map_suffix,
        data_prefix={"img_path": str(image_folder), "seg_map_path": str(map_folder)},
        serialize_data=False,
        lazy_init=True,
    ).load_data_list()
    if not listed:
        raise UserError(f"{image_folder}: the folder holds no *{suffix} (see segmentation.image_suffix)")
    pairs = [Pair(Path(item["img_path"]), Path(item["seg_map_path"])) for item in listed]
    for pair in pairs:
        if not pair.map.is_file():
            raise UserError(f"{pair.image} has no map: {pair.map} is missing (see segmentation.map_suffix)")
    return pairs


def class_names(root: Path, data_name: str, num_classes: int | None) -> list[str]:
    """Names of the classes, in order of label.

    Their number is `num_classes`, else that of the lines of ``classes.txt``, else ADE20K's 150 for the data set ade20k.
    """
    names = _read_class_list(root / CLASS_LIST)
    if names is None and data_name == "ade20k":
        names = list(ADE_CLASSES)
    if num_classes is None:
        if names is None:
            raise UserError(f"{root}: no {CLASS_LIST} and no --set segmentation.num_classes=…: give one of them")
        return names
    if not 1 <= num_classes <= IGNORE:
        raise UserError(f"segmentation.num_classes must lie in 1..{IGNORE}, not {num_classes}")
    return names if names and len(names) == num_classes else [str(i) for i in range(num_classes)]


def _read_class_list(path: Path) -> list[str] | None:
    """A name a line, or a tab-separated table as ADE20K's objectInfo150.txt: headed ``Idx``, the name last."""
    if not path.is_file():
        return None
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if lines and lines[0].startswith("Idx"):
        lines = [line.split("\t")[-1] for line in lines[1:]]
    if not lines:
        raise UserError(f"{path}: the list of classes is empty")
    return [line.strip() for line in lines]


def readable(pairs: Sequence[Pair]) -> list[Pair]:
    """Those of which image and map can be decoded; reads them all."""
    kept = []
    for pair in pairs:
        try:
            read_rgb(pair.image)
            read_rgb(pair.map)
        except UserError:
            continue
        kept.append(pair)
    return kept


class SegmentationDataset(Dataset[dict[str, Any]]):
    """Map-style: ``dataset[i]`` is what mmseg's pipeline packs, drawn with numpy's global generator.

    ``inputs``: (3, H, W) uint8 BGR image; ``data_samples``: `SegDataSample` with ``gt_sem_seg`` (1, H, W) int64, of the
    image's size in training and of the original size in validation.
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
    pairs: Sequence[Pair], config: SegmentationConfig, crop: int, classes: int, *, cache: bool
) -> SegmentationDataset:
    """mmseg's training pipeline for ADE20K (configs/_base_/datasets/ade20k.py) with this recipe's sizes."""
    augment = [
        RandomResize(scale=_scale(config), ratio_range=tuple(config.resize_ratio), resize_type=Resize, keep_ratio=True),
        RandomCrop(crop_size=(crop, crop), cat_max_ratio=config.cat_max_ratio, ignore_index=IGNORE),
        RandomFlip(prob=config.flip),
        *([PhotoMetricDistortion()] if config.photometric_distortion else []),
        PackSegInputs(),
    ]
    load = [LoadImage(skippable=True), LoadMap(classes)]
    return SegmentationDataset(pairs, load, augment, reduce_zero_label=config.reduce_zero_label, cache=cache)


def val_dataset(pairs: Sequence[Pair], config: SegmentationConfig, classes: int) -> SegmentationDataset:
    """mmseg's test pipeline: the image is resized, the map is read afterwards and keeps its size."""
    load = [LoadImage(skippable=False), Resize(scale=_scale(config), keep_ratio=True), LoadMap(classes)]
    return SegmentationDataset(pairs, load, [PackSegInputs()], reduce_zero_label=config.reduce_zero_label)


def _scale(config: SegmentationConfig) -> tuple[int, int]:
    if len(config.resize_scale) != 2 or len(config.resize_ratio) != 2:
        raise UserError("segmentation.resize_scale and segmentation.resize_ratio must each be a pair of numbers")
    return config.resize_scale[0], config.resize_scale[1]


class LoadImage(LoadImageFromFile):
    """mmcv's loader with Pillow: OpenCV fills the rest of a file that is cut short with grey and says nothing."""

    def __init__(self, *, skippable: bool) -> None:
        super().__init__(imdecode_backend="pillow")
        self._way_out = "replace it"
        if skippable:
            self._way_out += ", or leave such images out with --set data.skip_broken=true"

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Adds ``img``, (H, W, 3) uint8 BGR. Raises UserError naming a file that cannot be read."""
        try:
            return super().transform(results)
        except _UNREADABLE as e:
            raise UserError(f"{results['img_path']}: unreadable image ({e}): {self._way_out}") from e


class LoadMap(LoadAnnotations):
    """mmseg's loader, with the checks that it leaves out: it would take labels modulo 256 and train on wrong ones."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self._classes = classes

    def _load_seg_map(self, results: dict[str, Any]) -> None:
        path = results["seg_map_path"]
        try:
            with Image.open(path) as header:
                mode, size = header.mode, header.size
            if mode in ("L", "P", "1"):
                super()._load_seg_map(results)
        except _UNREADABLE as e:
            raise UserError(f"{path}: unreadable map ({e}): replace it") from e
        if mode not in ("L", "P", "1"):
            raise UserError(f"{path}: a map must be one channel of 8-bit labels, this file is {mode}: convert it")
        width, height = size
        if (height, width) != tuple(results["ori_shape"]):
            rows, columns = results["ori_shape"]
            raise UserError(
                f"{path} is {width}x{height} pixels and its image {columns}x{rows}: the map belongs to another image"
            )
        self._check_labels(path, results["gt_seg_map"])

    def _check_labels(self, path: str, labels: np.ndarray) -> None:
        largest = int(np.max(labels, where=labels != IGNORE, initial=0))
        if largest >= self._classes:
            value = largest + 1 if self.reduce_zero_label else largest
            most = self._classes if self.reduce_zero_label else self._classes - 1
            raise UserError(
                f"{path} holds label {value}, but {self._classes} classes allow labels up to {most} "
                f"(segmentation.reduce_zero_label={str(self.reduce_zero_label).lower()}): set "
                f"segmentation.num_classes, mend {CLASS_LIST}, or mend the map"
            )
