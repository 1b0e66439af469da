"""COCO-layout data as detectron2's dicts: reading and checking the json, large-scale jitter, test resizing. No metrics.

The folder has the layout of COCO 2017: ``annotations/instances_{train,val}2017.json`` and ``{train,val}2017/``. Any
number of categories; ids that skip are mapped to 0..K-1 in order of id, as detectron2 does. Geometry is detectron2's
(projects/ViTDet/configs/common/coco_loader_lsj.py), drawn from numpy's global generator.
"""

from __future__ import annotations

import copy
import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.data.datasets.coco import load_coco_json
from torch.utils.data import Dataset

from backbones.errors import UserError
from backbones.tensor_files import sha256_file
from tasks.data import fingerprint
from tasks.decoding import read_rgb
from tasks.detection.config import DetectionConfig

Record = dict[str, Any]  # one image and its annotations in detectron2's dataset format


@dataclass(frozen=True)
class CocoSplit:
    """One json: its images in order of id, and its categories in order of id."""

    json: Path
    images: Path
    records: list[Record]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]  # in the json, of class 0, 1, …


def read_split(root: Path, split: str) -> CocoSplit:
    """``train`` or ``val`` of a folder in COCO's layout. Opens no image.

    Raises:
        UserError: folder or json missing, not in COCO's format, without images or annotations, or naming images that
            are not there.
    """
    json, images = root / "annotations" / f"instances_{split}2017.json", root / f"{split}2017"
    if not json.is_file():
        raise UserError(f"{json}: no such file; {root} must have the layout of COCO 2017")
    if not images.is_dir():
        raise UserError(f"{images}: no such folder; {root} must have the layout of COCO 2017")
    records, classes, category_ids = _load(json, images)
    if not records:
        raise UserError(f"{json} lists no images")
    if not any(record["annotations"] for record in records):
        raise UserError(f"{json} holds no annotations: detection needs a json with boxes")
    missing = [record["file_name"] for record in records if not Path(record["file_name"]).is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"{missing[0]}: no such image{more}, but {json} names it")
    return CocoSplit(json, images, records, classes, category_ids)


def _load(json: Path, images: Path) -> tuple[list[Record], tuple[str, ...], tuple[int, ...]]:
    # detectron2 hands the categories over through its global catalogue, under a name that is ours alone and goes again.
    name = f"coco-{uuid.uuid4()}"
    try:
        records = load_coco_json(str(json), str(images), name)
        metadata = MetadataCatalog.get(name)
        ids = metadata.thing_dataset_id_to_contiguous_id
        return records, tuple(metadata.thing_classes), tuple(sorted(ids, key=ids.get))
    except UnicodeDecodeError as e:
        raise UserError(f"{json} is not a json file ({e.reason}): give COCO's instances json") from e
    except ValueError as e:
        raise UserError(f"{json} is not a json file in COCO's format ({_line(e)}): give COCO's instances json") from e
    except (KeyError, TypeError, AssertionError, IndexError, AttributeError) as e:
        kind = "missing key " if isinstance(e, KeyError) and " " not in str(e) else ""
        raise UserError(f"{json} is not in COCO's format ({kind}{_line(e)}): give COCO's instances json") from e
    finally:
        if name in MetadataCatalog:
            MetadataCatalog.remove(name)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def require_masks(split: CocoSplit) -> None:
    """A `UserError` naming the first object of `split` that has no mask."""
    for record in split.records:
        for annotation in record["annotations"]:
            if annotation.get("iscrowd", 0) == 0 and "segmentation" not in annotation:
                raise UserError(
                    f"{split.json}: an object in {Path(record['file_name']).name} has no segmentation, which masks "
                    "need: give a json with masks, or train boxes only with --set detection.with_masks=false"
                )


def with_objects(records: Sequence[Record]) -> list[Record]:
    """Images that have an object which is not a crowd: only these train, as in detectron2."""
    return [r for r in records if any(a.get("iscrowd", 0) == 0 for a in r["annotations"])]


def readable(records: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """Decodes all images: those that can be read, and the file names of those that cannot."""
    good: list[Record] = []
    bad: list[str] = []
    for record in records:
        try:
            read_rgb(Path(record["file_name"]))
        except UserError:
            bad.append(Path(record["file_name"]).name)
        else:
            good.append(record)
    return good, bad


def splits_fingerprint(root: Path, splits: Sequence[CocoSplit]) -> str:
    """sha256 over the contents of the jsons, and over the images' names and sizes."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(f"{split.json.name} {sha256_file(split.json)}\n".encode())
        digest.update(fingerprint(root, (Path(r["file_name"]) for r in split.records)).encode())
    return digest.hexdigest()


def train_augmentations(config: DetectionConfig) -> list[T.Augmentation]:
    """Large-scale jitter: flip, resize by a random factor of the input size, crop. The model pads what is short."""
    size, (smallest, largest) = config.img_size, config.scale_range
    jitter = [
        T.ResizeScale(min_scale=smallest, max_scale=largest, target_height=size, target_width=size),
        T.FixedSizeCrop(crop_size=(size, size), pad=False),
    ]
    return [T.RandomFlip(horizontal=True), *jitter] if config.flip else jitter


def test_augmentations(config: DetectionConfig) -> list[T.Augmentation]:
    """The whole image, its longer side at the input size."""
    return [T.ResizeShortestEdge(short_edge_length=config.img_size, max_size=config.img_size)]


class CocoDataset(Dataset[Record]):
    """Items are detectron2's dicts: uint8 RGB ``image`` (3, H, W), ``image_id``, the original ``height`` and ``width``.

    In training also ``instances``: ``gt_boxes``, ``gt_classes`` and, with masks, ``gt_masks``; none of them when the
    crop caught no object.

    Args:
        train: draw `train_augmentations` and make the targets.
        cache: keep decoded images in memory.
    """

    def __init__(self, records: Sequence[Record], config: DetectionConfig, *, train: bool, cache: bool = False) -> None:
        self.records = records
        self.train = train
        self.with_masks = config.with_masks
        self.augmentations = T.AugmentationList(train_augmentations(config) if train else test_augmentations(config))
        self._cache: dict[int, np.ndarray] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.records)

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
        """(H, W, 3) uint8 RGB. The size in the json is checked: a wrong one would shift every box."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        record = self.records[index]
        pixels = np.asarray(read_rgb(Path(record["file_name"])))
        if pixels.shape[:2] != (record["height"], record["width"]):
            raise UserError(
                f"{record['file_name']} is {pixels.shape[1]}x{pixels.shape[0]} pixels, its json says "
                f"{record['width']}x{record['height']}: mend the json or the image"
            )
        if self._cache is not None:
            self._cache[index] = pixels
        return pixels

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
