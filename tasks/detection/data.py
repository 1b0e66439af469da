"""COCO-layout data as detectron2's dicts: splits, large-scale jitter, test resizing. No metrics.

What a json must hold is in `annotations`, where it lies in `layout`. Any number of categories; ids that skip are mapped to
0..K-1 in order of id, as detectron2 does. Geometry is detectron2's (projects/ViTDet/configs/common/coco_loader_lsj.py), drawn
from numpy's global generator.
"""

from __future__ import annotations

import copy
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import ExifTags, ImageOps
from torch.utils.data import Dataset

from backbones.errors import UserError
from backbones.files.tensor_files import sha256_file
from tasks.datasets.decoding import WHITE, read_rgb
from tasks.datasets.pictures import open_picture, orientation
from tasks.datasets.roots import fingerprint
from tasks.detection.annotations import Content, read_content
from tasks.detection.config import DetectionConfig
from tasks.detection.files import locate
from tasks.detection.layout import find_images, find_json, no_json

Record = dict[str, Any]  # one image and its annotations in detectron2's dataset format


@dataclass(frozen=True)
class CocoSplit:
    """One json: its images in order of id, and its categories in order of id."""

    json: Path
    images: Path
    records: list[Record]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]  # in the json, of class 0, 1, …
    content: Content  # the json itself, which the metric is computed against
    notes: list[str] = field(default_factory=list)  # for the record


def read_split(
    root: Path,
    split: str,
    options: Mapping[str, Any] | None = None,
    *,
    with_masks: bool = True,
    skip_broken: bool = False,
) -> CocoSplit:
    """``train`` or ``val`` of a data set, in any layout of `tasks.detection.layout`. Opens no image.

    Args:
        options: of the recipe (``data.options``): what the layout does not tell.
        with_masks: read segmentations too.
        skip_broken: leave broken objects out and note them.

    Raises:
        UserError: no such json, what `read_content` refuses, or a json that names images that are not there.
    """
    options = options or {}
    json = find_json(root, split, options)
    if json is None:
        raise no_json(root, split)
    content = read_content(json, with_masks=with_masks, skip_broken=skip_broken)
    names = [image["file_name"].replace("\\", "/") for image in content.images]
    images = find_images(root, split, json, names, options)
    paths = locate(json, root, images, names, outside=bool(options.get("outside")))
    category_ids = tuple(category["id"] for category in content.categories)
    records = _records(content, paths, {category: i for i, category in enumerate(category_ids)})
    classes = tuple(str(category["name"]) for category in content.categories)
    return CocoSplit(json, images, records, classes, category_ids, content, list(content.notes))


def _records(content: Content, paths: Sequence[str], classes: Mapping[Any, int]) -> list[Record]:
    """What detectron2's `load_coco_json` makes of the json."""
    objects = defaultdict(list)
    for a in content.annotations:
        if a["id"] in content.maskless:
            continue
        each: Record = {key: a[key] for key in ("iscrowd", "bbox", "segmentation") if key in a}
        each |= {"category_id": classes[a["category_id"]], "bbox_mode": BoxMode.XYWH_ABS}
        objects[a["image_id"]].append(each)
    return [
        {
            "file_name": path,
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": objects[image["id"]],
        }
        for image, path in zip(content.images, paths, strict=True)
    ]


def require_masks(split: CocoSplit) -> None:
    """A `UserError` naming the first object of `split` that has no mask."""
    names = {image["id"]: image["file_name"] for image in split.content.images}
    for annotation in split.content.annotations:
        if "segmentation" not in annotation and annotation["id"] not in split.content.maskless:
            raise UserError(
                f"{split.json}: annotation {annotation['id']} ({names[annotation['image_id']]}) has no segmentation, which "
                "masks need: give a json with masks, or train boxes only with --set detection.with_masks=false"
            )


def readable(records: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """Decodes all images: those that can be read and have the json's size, and the file names of the others."""
    good: list[Record] = []
    bad: list[str] = []
    for record in records:
        try:
            read_pixels(record)
        except UserError:
            bad.append(Path(record["file_name"]).name)
        else:
            good.append(record)
    return good, bad


def splits_fingerprint(splits: Sequence[CocoSplit]) -> str:
    """sha256 over the contents of the jsons, and over the images' names and sizes."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(f"{split.json.name} {sha256_file(split.json)}\n".encode())
        digest.update(fingerprint(split.images, (Path(r["file_name"]) for r in split.records)).encode())
    return digest.hexdigest()


def read_pixels(record: Record, white: int = WHITE) -> np.ndarray:
    """(H, W, 3) uint8 RGB, of the size that the json says: another one would shift every box.

    A picture that carries an orientation (EXIF) is turned by it, as detectron2 does (`read_image`), unless the json's size is
    that of the stored pixels: some tools annotate those.

    Args:
        white: ``data.white_level``, of 16-bit grey images.

    Raises:
        UserError: unreadable, or of another size.
    """
    path, wanted = Path(record["file_name"]), (record["width"], record["height"])
    stored = read_rgb(path, white)
    turned = ImageOps.exif_transpose(stored) if stored.getexif().get(ExifTags.Base.Orientation, 1) != 1 else stored
    for image in (turned, stored):
        if image.size == wanted:
            return np.asarray(image)
    raise UserError(
        f"{path} is {turned.width}x{turned.height} pixels, its json says {wanted[0]}x{wanted[1]}: mend the json or the "
        "image, or leave such training images out with --set data.skip_broken=true"
    )


def turned_images(where: str, records: Sequence[Record]) -> list[str]:
    """Notes on pictures with an orientation (EXIF) that the json's size does not settle: boxes may be of the other one."""
    stored: list[str] = []
    turned: list[str] = []
    for record in records:
        path, size = record["file_name"], (record["width"], record["height"])
        if (way := orientation(path)) == 1:
            continue
        with open_picture(path) as image:
            if image.size == size:
                (stored if way >= 5 and size != size[::-1] else turned).append(path)
    said = {
        "are not turned by their EXIF tag, since the json has the size of the picture as stored: boxes of the turned one would "
        "be off": stored,
        "are turned by their EXIF tag, as in detectron2: whether their boxes are, the json's size does not tell (half turns, "
        "mirrors and squares)": turned,
    }
    return [
        f"{where}: {len(found)} of {len(records)} images that were looked at {what}; such as {found[0]}"
        for what, found in said.items()
        if found
    ]


class _AtLeastAPixel:
    """Resizing that leaves the short side of a very narrow image one pixel, where detectron2's fails with none."""

    def get_transform(self, image: np.ndarray) -> T.ResizeTransform:
        t = super().get_transform(image)  # type: ignore[misc]
        return T.ResizeTransform(t.h, t.w, max(1, t.new_h), max(1, t.new_w), t.interp)


class _ResizeScale(_AtLeastAPixel, T.ResizeScale):
    pass


class _ResizeLongerSide(_AtLeastAPixel, T.ResizeShortestEdge):
    pass


def train_augmentations(config: DetectionConfig) -> list[T.Augmentation]:
    """Large-scale jitter: flip, resize by a random factor of the input size, crop. The model pads what is short."""
    size, (smallest, largest) = config.img_size, config.scale_range
    jitter = [
        _ResizeScale(min_scale=smallest, max_scale=largest, target_height=size, target_width=size),
        T.FixedSizeCrop(crop_size=(size, size), pad=False),
    ]
    return [T.RandomFlip(horizontal=True), *jitter] if config.flip else jitter


def test_augmentations(config: DetectionConfig) -> list[T.Augmentation]:
    """The whole image, its longer side at the input size."""
    return [_ResizeLongerSide(short_edge_length=config.img_size, max_size=config.img_size)]


class CocoDataset(Dataset[Record]):
    """Items are detectron2's dicts: uint8 RGB ``image`` (3, H, W), ``image_id``, the original ``height`` and ``width``.

    In training also ``instances``: ``gt_boxes``, ``gt_classes`` and, with masks, ``gt_masks``; none of them when the
    crop caught no object.

    Args:
        train: draw `train_augmentations` and make the targets.
        cache: keep decoded images in memory.
        white: ``data.white_level``.
    """

    def __init__(
        self,
        records: Sequence[Record],
        config: DetectionConfig,
        *,
        train: bool,
        cache: bool = False,
        white: int = WHITE,
    ) -> None:
        self.records, self.white = records, white
        self.train = train
        self.with_masks = config.with_masks
        self.augmentations = T.AugmentationList(train_augmentations(config) if train else test_augmentations(config))
        self._cache: dict[int, np.ndarray] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.records)

    def name(self, index: int) -> str:
        """The image's path, for messages."""
        return str(self.records[index]["file_name"])

    def __getitem__(self, index: int) -> Record:
        record = self.records[index]
        augmented = T.AugInput(self._pixels(index))
        transforms = self.augmentations(augmented)
        image = torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
        item = {key: record[key] for key in ("file_name", "image_id", "height", "width")}
        item["image"] = image
        if self.train:
            item["instances"] = self._targets(record["annotations"], transforms, (image.shape[1], image.shape[2]))
        return item

    def _pixels(self, index: int) -> np.ndarray:
        if self._cache is None:
            return read_pixels(self.records[index], self.white)
        if index not in self._cache:
            self._cache[index] = read_pixels(self.records[index], self.white)
        return self._cache[index]

    def _targets(self, annotations: list[Record], transforms: T.TransformList, size: tuple[int, int]) -> Any:
        objects = [copy.deepcopy(a) for a in annotations if a.get("iscrowd", 0) == 0]
        if not self.with_masks:
            for each in objects:
                each.pop("segmentation", None)
        objects = [utils.transform_instance_annotations(each, transforms, size) for each in objects]
        # Polygons are rasterised inside each proposal, which is exact; run-length masks go as bitmaps.
        polygons = all(isinstance(each.get("segmentation", []), list) for each in objects)
        instances = utils.annotations_to_instances(objects, size, mask_format="polygon" if polygons else "bitmask")
        if instances.has("gt_masks"):  # the box that bounds what the crop left of the mask, not the cropped box
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return utils.filter_empty_instances(instances)
