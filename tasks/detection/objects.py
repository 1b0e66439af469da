"""The objects of a COCO json, checked one by one and together, and completed as `annotations.Content` promises them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as run_length

from backbones.errors import UserError
from tasks.datasets.account import Account, printable
from tasks.detection.agreement import Boxes, Rows, all_corners, apart, corners_for_sizes, wrong_areas
from tasks.detection.ids import Id, listed, shown, whole
from tasks.detection.masks import Outlines, drawable, outlines, polygon_problem, run_problem

Annotation = dict[str, Any]  # an object (or an image, or a category) as the json has it

_IDS = ("id", "image_id", "category_id")
_WAY_OUT = "mend the json, or leave such objects out with --set data.skip_broken=true"
_WANTED_BOX = "COCO's boxes are x, y, width, height"
_MANY_CROWDS = 0.1  # of the objects; COCO has one in a hundred
_ROUNDING = 1.0  # pixels that a box may reach over the border: annotation tools round


@dataclass(frozen=True)
class _Table:
    """Objects as columns, so that a million of them are looked at in seconds."""

    objects: list[Annotation]
    boxes: Boxes
    sizes: NDArray[np.float64]  # (N, 2) width and height of their images
    masks: Outlines


class Objects:
    """Takes the annotations of one json, and remembers what there is to say of them."""

    def __init__(
        self, path: Path, images: dict[Id, Annotation], categories: set[Id], with_masks: bool, skip_broken: bool
    ) -> None:
        self.path, self.images, self.categories = path, images, categories
        self.kinds = {"image_id": type(next(iter(images))), "category_id": type(next(iter(categories)))}
        self.with_masks, self.skip_broken = with_masks, skip_broken
        self.account = Account()
        self.maskless: list[Annotation] = []
        self.notes: list[str] = []

    def take(self, annotations: list[Annotation]) -> list[Annotation]:
        """The objects that can be used, completed in place. A `UserError` when one is broken and must not be left out."""
        self.account.found("annotations", len(annotations))
        self.account.use("annotations", len(annotations))
        taken = [a for a in annotations if self._takes(a)]
        if not taken:
            return taken
        table = self._table(taken)
        fine = self._agreeing(table)
        if not fine.any():
            return []
        table = table if fine.all() else self._table([a for a, good in zip(taken, fine, strict=True) if good])
        self._complete_areas(table)
        self._note(table)
        return table.objects

    def _takes(self, a: Annotation) -> bool:
        for key in _IDS:
            if type(a.get(key)) is float and (number := whole(a[key])) is not None:
                a[key] = number
        of = a.get("image_id")
        image = self.images.get(of) if type(of) is self.kinds["image_id"] else {}
        if image is None:
            self.account.give_up("annotations", "unlisted", f"{self.path.name}: annotation {shown(a.get('id'))}")
            return False
        if problem := self._problem(a, image):
            return self._broken(a, problem)
        self._complete(a, image)
        return True

    def _broken(self, a: Annotation, problem: str) -> bool:
        """Leaves an object out, or refuses it; `problem` follows its name in a sentence."""
        of = a.get("image_id")
        image = f" ({printable(self.images[of]['file_name'])})" if type(of) in (int, str) and of in self.images else ""
        name = f"annotation {shown(a.get('id'))}{image}"
        if not self.skip_broken:
            raise UserError(f"{self.path}: {name} {problem}: {_WAY_OUT}")
        self.account.give_up("annotations", "broken", f"{self.path.name}: {name} {problem}")
        return False

    def _problem(self, a: Annotation, image: Annotation) -> str | None:
        """What is wrong with an object by itself."""
        for key in ("id", "image_id", "category_id", "bbox"):
            if a.get(key) is None:
                return f"has no {key}"
        if type(a["id"]) not in (int, str):
            return f"has id={shown(a['id'])}: a whole number or a text is wanted"
        for key, wanted in self.kinds.items():  # of "1" beside 1 nobody knows whether they are one
            if type(a[key]) is not wanted:
                listed_are = "whole numbers" if wanted is int else "texts"
                return f"has {key}={shown(a[key])}, while the ids that are listed are {listed_are}"
        if a["category_id"] not in self.categories:
            return f"has category_id={shown(a['category_id'])}, which the json does not list"
        if a.get("ignore"):
            return "has ignore=1, which COCO's format does not know (iscrowd=1 marks what does not count)"
        if a.get("iscrowd") not in (None, 0, 1):
            return f"has iscrowd={shown(a['iscrowd'])}: 0 or 1 is wanted"
        if not (a.get("area") is None or is_finite(a["area"])):
            return f"has area={shown(a['area'])}: a number is wanted, or none"
        return box_problem(a["bbox"], image) or (self._mask_problem(a, image) if self.with_masks else None)

    def _mask_problem(self, a: Annotation, image: Annotation) -> str | None:
        mask = a.get("segmentation")
        if not mask:
            return None  # said by `require_masks`, with another way out
        return run_problem(mask, image) if isinstance(mask, dict) else polygon_problem(mask)

    def _complete(self, a: Annotation, image: Annotation) -> None:
        """A flag for crowds, and masks as pycocotools reads them."""
        a["iscrowd"] = int(a.get("iscrowd") or 0)
        mask = a.get("segmentation")
        if not self.with_masks or not mask:
            a.pop("segmentation", None)
        elif isinstance(mask, list):
            # As detectron2 does (load_coco_json): pycocotools cannot read such polygons.
            a["segmentation"] = drawable(mask)
            if not a["segmentation"]:
                del a["segmentation"]
                self.maskless.append(a)
        elif isinstance(mask["counts"], list):
            a["segmentation"] = run_length.frPyObjects(mask, image["height"], image["width"])

    def _table(self, objects: list[Annotation]) -> _Table:
        boxes = np.fromiter(itertools.chain.from_iterable(a["bbox"] for a in objects), np.float64, 4 * len(objects))
        images = [self.images[a["image_id"]] for a in objects]
        sizes = np.array([(image["width"], image["height"]) for image in images], np.float64)
        return _Table(objects, boxes.reshape(-1, 4), sizes, outlines([a.get("segmentation") for a in objects]))

    def _agreeing(self, table: _Table) -> Rows:
        """(N,) objects whose box and mask are of one thing; mistakes of all objects together are refused."""
        boxes, extents, masked = table.boxes, table.masks.extents, ~np.isnan(table.masks.areas)
        if boxes.max() <= 1:
            raise UserError(f"{self.path}: its boxes are shares of the image: COCO's are pixels, x, y, width, height")
        if not masked.any() and all_corners(boxes, table.sizes):
            raise UserError(
                f"{self.path}: its boxes fit their images as left, top, right, bottom and reach out of many as COCO's x, y, "
                "width, height: write the latter"
            )
        cornered, odd = corners_for_sizes(boxes, extents), apart(boxes, extents)
        if odd.sum() > max(3, 0.5 * masked.sum()) and not cornered.any():
            a = table.objects[int(np.flatnonzero(odd)[0])]
            raise UserError(
                f"{self.path}: {odd.sum()} of {masked.sum()} boxes lie elsewhere than their masks, such as {a['bbox']} of "
                f"annotation {a['id']}: COCO's are pixels, x, y, width, height"
            )
        fine = np.ones(len(boxes), bool)
        for i in np.flatnonzero(_beyond(extents, table.sizes)):
            fine[i] = self._broken(table.objects[i], "has a polygon that reaches out by more than its image's size")
        may_be_shares = (boxes.max(axis=1) <= 1) & (boxes[:, 2:].min(axis=1) > 0) & (table.sizes.max(axis=1) > 1)
        for i in np.flatnonzero(fine & may_be_shares):
            fine[i] = self._broken(
                table.objects[i], f"has the box {table.objects[i]['bbox']}, shares of its image: {_WANTED_BOX}"
            )
        for i in np.flatnonzero(fine & cornered):
            box = table.objects[i]["bbox"]
            problem = f"has the box {box}, its mask's left, top, right, bottom: {_WANTED_BOX}"
            fine[i] = self._broken(table.objects[i], problem)
        return fine

    def _complete_areas(self, table: _Table) -> None:
        """Areas where there is none, or one of something else; of crowds COCO's own differ from the mask, and count nothing."""
        objects, boxes, masks = table.objects, table.boxes, table.masks.areas
        given = np.array([np.nan if a.get("area") is None else a["area"] for a in objects], np.float64)
        wrong = wrong_areas(given, boxes, masks) & np.array([not a["iscrowd"] for a in objects])
        said = []
        for i in np.flatnonzero(wrong | np.isnan(given)):
            area = self._area(objects[i])
            exact = np.array([area]) if "segmentation" in objects[i] else masks[i : i + 1]
            if np.isnan(given[i]):
                objects[i]["area"] = area
            elif wrong_areas(given[i : i + 1], boxes[i : i + 1], exact)[0]:
                said.append(f"{given[i]:g} for {area:g} of annotation {objects[i]['id']}")
                objects[i]["area"] = area
        if said:
            self.notes.append(
                f"{self.path.name}: area of {len(said)} of {len(objects)} objects is neither their mask's nor their box's, "
                f"such as {said[0]}: computed anew"
            )

    def _area(self, a: Annotation) -> float:
        """Of the mask, as COCO's own, or of the box where there is none."""
        mask, image = a.get("segmentation"), self.images[a["image_id"]]
        if isinstance(mask, list):
            mask = run_length.merge(run_length.frPyObjects(mask, image["height"], image["width"]))
        return float(run_length.area(mask) if mask else a["bbox"][2] * a["bbox"][3])

    def _note(self, table: _Table) -> None:
        """What there is to say of objects that are used."""
        objects, boxes = table.objects, table.boxes
        areas = np.array([a["area"] for a in objects])
        over = np.hstack([-boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - table.sizes]).max(axis=1)
        said = {
            "objects without area, which do not train": (boxes[:, 2:].min(axis=1) <= 0) | (areas <= 0),
            "boxes that reach out of their image, clipped in training and evaluated as they are": over > _ROUNDING,
            "objects that are there twice (image, class and box), of which one is found at most": _again(objects),
            "boxes that lie elsewhere than their masks: masks train, boxes are evaluated": apart(
                boxes, table.masks.extents
            ),
        }
        crowds = sum(a["iscrowd"] for a in objects)
        if crowds > _MANY_CROWDS * len(objects):
            self.notes.append(
                f"{self.path.name}: {crowds} of {len(objects)} objects are crowds (iscrowd=1), which do not train and which "
                "the metric ignores; CVAT marks every mask so"
            )
        if self.maskless:
            ids = listed([a["id"] for a in self.maskless])
            self.notes.append(
                f"{self.path.name}: {len(self.maskless)} of {len(objects)} objects have no polygon of 3 points or more (ids "
                f"{ids}): as in detectron2 they do not train and have no mask; their boxes are evaluated"
            )
        self.notes += [
            f"{self.path.name}: {rows.sum()} {what} (ids {listed([objects[i]['id'] for i in np.flatnonzero(rows)])})"
            for what, rows in said.items()
            if rows.any()
        ]


def _again(objects: list[Annotation]) -> Rows:
    """Objects of the image, class and box of an earlier one: of files that were merged, or annotated once more. No crowds."""
    seen: set[int] = set()
    again = np.zeros(len(objects), bool)
    for i, a in enumerate(objects):
        key = hash((a["image_id"], a["category_id"], *a["bbox"]))
        again[i] = key in seen and not a["iscrowd"]
        seen.add(key)
    return again


def _beyond(extents: NDArray[np.float64], sizes: NDArray[np.float64]) -> Rows:
    """Masks that reach out by more than the image's size: drawing one would take time and memory without end."""
    over: Rows = np.any((extents[:, :2] < -sizes) | (extents[:, 2:] > 2 * sizes), axis=1)
    return over


def is_finite(value: Any) -> bool:
    """Whether it is a number, neither infinite nor too large for one."""
    try:
        return not isinstance(value, bool) and math.isfinite(value)
    except (TypeError, OverflowError):
        return False


def box_problem(box: Any, image: Annotation) -> str | None:
    """What is wrong with a box x, y, width, height, or None. One that only reaches over the border is not wrong."""
    try:
        x, y, w, h = box
        finite = math.isfinite(x + y + w + h)
    except (TypeError, ValueError):
        return f"has the box {shown(box)}: four numbers are wanted"
    except OverflowError:
        finite = False
    if not finite:
        return f"has the box {shown(box)}: it is not finite"
    if w < 0 or h < 0:
        return f"has the box {box}: width and height must not be negative"
    width, height = image["width"], image["height"]
    if not (0 <= x + w / 2 <= width and 0 <= y + h / 2 <= height):
        return f"has the box {box} outside its image of {width}x{height} ({_WANTED_BOX})"
    return None
