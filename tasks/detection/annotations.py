"""A COCO json checked and completed, before anything relies on it. Opens no image and knows no folders.

What breaks training or a figure is refused in one line that names file and id; ``data.skip_broken`` leaves broken objects out
instead and counts them. What detectron2 and pycocotools bear is kept as it is, or left out as they do, with a note. COCO 2017
itself passes without a note but for its few objects of no area.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as run_length

from backbones.errors import UserError

Annotation = dict[str, Any]  # an object (or an image, or a category) as the json has it

_KEYS = {"images": ("id", "file_name", "height", "width"), "categories": ("id", "name")}
_WAY_OUT = "mend the json, or leave such objects out with --set data.skip_broken=true"
_NAMED = 5  # ids that a note names
_ROUNDING = 1.0  # pixels that a box may reach over the border: annotation tools round


@dataclass
class Content:
    """What a json holds that a detector can use: every annotation is of an image and a category that are listed.

    Annotations have ``area`` and ``iscrowd`` in any case, run lengths are compressed, polygons have three points or more.
    """

    images: list[Annotation]  # in order of id
    annotations: list[Annotation]  # in the json's order
    categories: list[Annotation]  # in order of id
    notes: list[str] = field(default_factory=list)  # what was left out or differs from the file


def read_content(path: Path, *, with_masks: bool = True, skip_broken: bool = False) -> Content:
    """The json at `path`.

    Args:
        with_masks: keep and check segmentations; otherwise they go, and nothing is said of them.
        skip_broken: leave broken objects out instead of refusing the file.

    Raises:
        UserError: not in COCO's format, no images or annotations, ids that stand for two things, or a broken object.
    """
    raw = _load(path)
    images, categories = (_listed(path, raw, kind) for kind in ("images", "categories"))
    _check_sizes(path, images)
    reader = _Reader(path, {i["id"]: i for i in images}, {c["id"] for c in categories}, with_masks, skip_broken)
    annotations = [a for a in raw["annotations"] if reader.takes(a)]
    if not annotations:
        raise UserError(f"{path} holds no annotations of its images: detection needs a json with boxes")
    reader.check_whole(annotations)
    return Content(images, annotations, categories, reader.notes(annotations))


def _load(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_bytes())
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not a json file ({e.reason}): give COCO's instances json") from e
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path} is not a json file in COCO's format ({e}): give COCO's instances json") from e
    if not isinstance(raw, dict):
        said = "a list, as results are" if isinstance(raw, list) else f"a {type(raw).__name__}"
        raise UserError(f"{path} is not in COCO's format ({said}): give COCO's instances json")
    for key in ("images", "annotations", "categories"):
        if not isinstance(raw.get(key), list):
            raise UserError(f"{path} is not in COCO's format (no list of {key}): give COCO's instances json")
        if not all(isinstance(each, dict) for each in raw[key]):
            raise UserError(f"{path} is not in COCO's format ({key} that are no objects): give COCO's instances json")
    for image in raw["images"]:
        if "file_name" not in image and isinstance(image.get("coco_url"), str):  # LVIS: .../train2017/000000391895.jpg
            image["file_name"] = "/".join(image["coco_url"].split("/")[-2:])
    return raw


def _listed(path: Path, raw: dict[str, Any], kind: str) -> list[Annotation]:
    """The json's images or categories in order of id, each id once."""
    items: list[Annotation] = raw[kind]
    if not items:
        raise UserError(f"{path} lists no {kind}")
    for place, item in enumerate(items):
        for key in _KEYS[kind]:
            if item.get(key) is None:
                raise UserError(f"{path} is not in COCO's format: {kind}[{place}] (id {item.get('id')}) has no {key}")
    kinds = {type(item["id"]) for item in items}
    if kinds not in ({int}, {str}):
        raise UserError(f"{path}: ids of {kind} must be whole numbers (or all of them texts)")
    _check_once(path, kind, (item["id"] for item in items))
    return sorted(items, key=lambda item: item["id"])


def _check_once(path: Path, kind: str, ids: Iterable[Any]) -> None:
    twice = [i for i, count in Counter(ids).items() if count > 1]
    if twice:
        raise UserError(f"{path}: ids of {kind} are not unique: {_some(twice)} more than once: give each its own")


def _check_sizes(path: Path, images: list[Annotation]) -> None:
    for image in images:
        if not all(isinstance(image[side], int) and image[side] > 0 for side in ("width", "height")):
            size = f"{image['width']}x{image['height']}"
            raise UserError(f"{path}: image {image['id']} ({image['file_name']}) is {size} pixels: mend its size")


class _Reader:
    """Takes the annotations of one json one by one, and remembers what there is to say of them."""

    def __init__(
        self, path: Path, images: dict[Any, Annotation], categories: set[Any], with_masks: bool, skip_broken: bool
    ) -> None:
        self.path, self.images, self.categories = path, images, categories
        self.with_masks, self.skip_broken = with_masks, skip_broken
        self.strangers: list[Any] = []  # ids of annotations whose image is not listed
        self.broken: list[Any] = []
        self.shapeless: list[Any] = []  # no polygon of theirs has three points

    def takes(self, a: Annotation) -> bool:
        """Whether the object can be used; completes it in place. A `UserError` when it is broken and must not be left out."""
        of = a.get("image_id")
        image = self.images.get(of) if isinstance(of, (int, str)) else None
        if image is None and of is not None:
            self.strangers.append(a.get("id"))
            return False
        if problem := self._problem(a, image or {}):
            if not self.skip_broken:
                name = f" ({image['file_name']})" if image else ""
                raise UserError(f"{self.path}: annotation {a.get('id')}{name} {problem}: {_WAY_OUT}")
            self.broken.append(a.get("id"))
            return False
        return self._complete(a)

    def _problem(self, a: Annotation, image: Annotation) -> str | None:
        """What is wrong with an object, to follow its name in a sentence."""
        for key in ("id", "image_id", "category_id", "bbox"):
            if a.get(key) is None:
                return f"has no {key}"
        if not isinstance(a["category_id"], (int, str)) or a["category_id"] not in self.categories:
            return f"has category_id={a['category_id']}, which the json does not list"
        if a.get("ignore"):
            return "has ignore=1, which COCO's format does not know (iscrowd=1 marks what does not count)"
        area = a.get("area", 0)
        if area is not None and not (isinstance(area, (int, float)) and math.isfinite(area)):
            return f"has area={area}: a number is wanted, or none"
        return box_problem(a["bbox"], image) or (self._mask_problem(a, image) if self.with_masks else None)

    def _mask_problem(self, a: Annotation, image: Annotation) -> str | None:
        mask = a.get("segmentation")
        if not mask:
            return None  # said by `require_masks`, with another way out
        return run_problem(mask, image) if isinstance(mask, dict) else polygon_problem(mask)

    def _complete(self, a: Annotation) -> bool:
        a["iscrowd"] = int(a.get("iscrowd") or 0)
        mask = a.get("segmentation")
        if not self.with_masks or not mask:
            a.pop("segmentation", None)
        elif isinstance(mask, list):
            # As detectron2 does (load_coco_json): pycocotools cannot read such polygons.
            a["segmentation"] = [p for p in mask if len(p) % 2 == 0 and len(p) >= 6]
            if not a["segmentation"]:
                self.shapeless.append(a["id"])
                return False
        elif isinstance(mask["counts"], list):
            a["segmentation"] = run_length.frPyObjects(mask, *mask["size"])
        if a.get("area") is None:
            a["area"] = self._area(a)
        return True

    def _area(self, a: Annotation) -> float:
        """Of the mask, as COCO's own, or of the box where there is none."""
        mask, image = a.get("segmentation"), self.images[a["image_id"]]
        if isinstance(mask, list):
            mask = run_length.merge(run_length.frPyObjects(mask, image["height"], image["width"]))
        return float(run_length.area(mask) if mask else a["bbox"][2] * a["bbox"][3])

    def check_whole(self, annotations: list[Annotation]) -> None:
        """Mistakes that no single object shows."""
        _check_once(self.path, "annotations", (a["id"] for a in annotations))
        if max(max(a["bbox"]) for a in annotations) <= 1:
            raise UserError(f"{self.path}: its boxes are shares of the image: COCO's are pixels, x, y, width, height")

    def notes(self, annotations: list[Annotation]) -> list[str]:
        """What the record has to say of this json."""
        flat = [a["id"] for a in annotations if min(a["bbox"][2:]) <= 0 or a["area"] <= 0]
        wide = [a["id"] for a in annotations if _reaches_out(a["bbox"], self.images[a["image_id"]])]
        said = {
            "annotations of images that are not listed, left out": self.strangers,
            "broken annotations left out": self.broken,
            "objects left out whose polygons have fewer than 3 points or an odd count of numbers": self.shapeless,
            "objects without area, which do not train": flat,
            "boxes that reach out of their image, clipped in training and evaluated as they are": wide,
        }
        return [f"{self.path.name}: {len(ids)} {what} (ids {_some(ids)})" for what, ids in said.items() if ids]


def box_problem(box: Any, image: Annotation) -> str | None:
    """What is wrong with a box x, y, width, height, or None. One that only reaches over the border is not wrong."""
    try:
        x, y, w, h = box
        finite = math.isfinite(x + y + w + h)
    except (TypeError, ValueError):
        return f"has the box {str(box)[:60]}: four numbers are wanted"
    if not finite:
        return f"has the box {box}: it is not finite"
    if w < 0 or h < 0:
        return f"has the box {box}: width and height must not be negative"
    width, height = image["width"], image["height"]
    if not (0 <= x + w / 2 <= width and 0 <= y + h / 2 <= height):
        return f"has the box {box} outside its image of {width}x{height} (COCO's boxes are x, y, width, height)"
    return None


def _reaches_out(box: list[float], image: Annotation) -> bool:
    x, y, w, h = box
    over = max(-x, -y, x + w - image["width"], y + h - image["height"])
    return over > _ROUNDING


def polygon_problem(polygons: Any) -> str | None:
    """What is wrong with a list of polygons, or None. Too few points are not: detectron2 leaves such polygons out."""
    if not isinstance(polygons, list) or not all(isinstance(p, list) for p in polygons):
        return "has a segmentation that is no list of polygons ([[x, y, x, y, ...], ...])"
    try:
        finite = all(math.isfinite(sum(p)) for p in polygons)
    except (TypeError, ValueError, OverflowError):
        finite = False
    return None if finite else "has a polygon with coordinates that are no finite numbers"


def run_problem(mask: Annotation, image: Annotation) -> str | None:
    """What is wrong with run lengths, compressed or not, or None. pycocotools decodes wrong ones to noise."""
    size, counts = mask.get("size"), mask.get("counts", "")
    wanted = [image["height"], image["width"]]
    if size is None or list(size) != wanted:
        return f"has run lengths of size {size}, its image is {wanted} (height, width)"
    try:
        total = sum(counts) if isinstance(counts, list) else runs_total(counts)
    except (TypeError, ValueError, AttributeError, IndexError):
        return "has run lengths that cannot be read"
    pixels = wanted[0] * wanted[1]
    return None if total == pixels else f"has run lengths of {total} pixels, its image has {pixels}"


def runs_total(counts: str | bytes) -> int:
    """Pixels that compressed run lengths cover.

    Five bits a character from 48 on, 0x20 for "more follows", 0x10 of the last for the sign; from the fourth run on the
    difference to the last but one (rleFrString in cocoapi's common/maskApi.c).

    Raises:
        ValueError: characters of another alphabet, a number that is cut short, or a negative run.
    """
    data = np.frombuffer(counts.encode() if isinstance(counts, str) else counts, np.uint8).astype(np.int64) - 48
    if not len(data) or data.min() < 0 or data.max() > 63 or data[-1] & 0x20:
        raise ValueError("not run lengths")
    ends = np.flatnonzero(data & 0x20 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 12:  # of 60 bits: no image has so many pixels
        raise ValueError("a run that is too long")
    shift = 5 * (np.arange(len(data)) - np.repeat(starts, lengths))
    values = np.add.reduceat((data & 0x1F) << shift, starts)
    values -= np.where(data[ends] & 0x10, 1 << (5 * lengths), 0)
    runs = np.concatenate([values[:1], np.cumsum(values[1::2]), np.cumsum(values[2::2])])
    if (runs < 0).any():
        raise ValueError("a negative run")
    return int(runs.sum())


def _some(ids: list[Any]) -> str:
    return ", ".join(str(i) for i in ids[:_NAMED]) + (", …" if len(ids) > _NAMED else "")
