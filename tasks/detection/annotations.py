"""A COCO json checked and completed, before anything relies on it. Opens no image and knows no folders.

What breaks training or a figure is refused in one line that names file and id; ``data.skip_broken`` leaves broken objects out
instead and counts them. What detectron2 and pycocotools bear is kept as it is, or left out as they do, with a note. COCO 2017
itself passes without a note but for its few objects of no area.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from backbones.plain_files import parse_json, read_plain
from tasks.datasets.account import Account, printable
from tasks.datasets.manifest import alike
from tasks.datasets.pictures import MOST_PIXELS
from tasks.detection.ids import Id, listed, plain_id, renumber, shown, whole
from tasks.detection.objects import Annotation, Objects

_KEYS = {"images": ("id", "file_name", "height", "width"), "categories": ("id", "name")}
_MOST_BYTES = 8 << 30  # of a json: LVIS's has one GiB


@dataclass
class Content:
    """What a json holds that a detector can use: every annotation is of an image and a category that are listed.

    Ids are whole numbers; annotations have ``area`` and ``iscrowd`` in any case, run lengths are compressed, polygons have
    three points or more.
    """

    images: list[Annotation]  # in order of id
    annotations: list[Annotation]  # in the json's order
    categories: list[Annotation]  # in order of id
    account: Account  # of the annotations
    notes: list[str] = field(default_factory=list)  # what differs from the file
    # Ids of objects whose polygons detectron2 leaves out: their boxes are evaluated, they are in no mask and train nothing.
    maskless: frozenset[int] = frozenset()
    file_ids: dict[str, dict[int, Id]] = field(
        default_factory=dict
    )  # images, categories: id -> the file's, where it differs


def read_content(path: Path, *, with_masks: bool = True, skip_broken: bool = False) -> Content:
    """The json at `path`.

    Args:
        with_masks: keep and check segmentations; otherwise they go, and nothing is said of them.
        skip_broken: leave broken objects out instead of refusing the file.

    Raises:
        UserError: not in COCO's format, no images or annotations, ids that stand for two things, or a broken object.
    """
    with _no_garbage_collection():
        raw = _load(path)
        images, categories = (_listed(path, raw, kind) for kind in ("images", "categories"))
        _check_images(path, images)
        reader = Objects(path, {i["id"]: i for i in images}, {c["id"] for c in categories}, with_masks, skip_broken)
        annotations = reader.take(raw["annotations"])
        if not annotations:
            if doubts := reader.account.doubts():  # all of them are broken: that is what to say
                raise UserError(f"{path}: {doubts[0]}")
            raise UserError(f"{path} holds no annotations of its images: detection needs a json with boxes")
        _check_once(path, "annotations", (a["id"] for a in annotations))
        notes = [*reader.notes, *alike(path.name, [str(category["name"]) for category in categories])]
        return _renumbered(path, Content(images, annotations, categories, reader.account, notes), reader.maskless)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A json is a tree that only grows: Python's search for cycles takes most of the time of reading a large one."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # with the next line: what was read counts as old, and is not searched at once
        gc.unfreeze()
        if was:
            gc.enable()


def _load(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise UserError(
            f"{path} has more than {_MOST_BYTES >> 30} GiB: give COCO's instances json, in parts if need be"
        )
    try:
        raw = parse_json(read_plain(path, size), finite=False)  # `objects` names what has such a number
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not a json file ({e.reason}): give COCO's instances json") from e
    except ValueError as e:
        raise UserError(f"{path} is not a json file in COCO's format ({e}): give COCO's instances json") from e
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from e
    except MemoryError as e:
        raise UserError(f"{path} does not fit into memory: give COCO's instances json, or a machine with more") from e
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
                raise UserError(
                    f"{path} is not in COCO's format: {kind}[{place}] (id {shown(item.get('id'))}) has no {key}"
                )
        number = plain_id(item["id"])
        if number is None:
            raise UserError(f"{path}: {kind}[{place}] has id={shown(item['id'])}: a whole number or a text is wanted")
        item["id"] = number
    if len({type(item["id"]) for item in items}) > 1:
        raise UserError(f"{path}: ids of {kind} must be whole numbers (or all of them texts)")
    _check_once(path, kind, (item["id"] for item in items))
    return sorted(items, key=lambda item: item["id"])


def _check_once(path: Path, kind: str, ids: Iterable[Any]) -> None:
    twice = [i for i, count in Counter(ids).items() if count > 1]
    if twice:
        raise UserError(f"{path}: ids of {kind} are not unique: {listed(twice)} more than once: give each its own")


def _check_images(path: Path, images: list[Annotation]) -> None:
    for image in images:
        if not isinstance(image["file_name"], str):
            raise UserError(f"{path}: image {image['id']} has file_name={shown(image['file_name'])}: a text is wanted")
        name = f"{path}: image {shown(image['id'])} ({printable(image['file_name'])})"
        for side in ("width", "height"):
            if isinstance(image[side], str):
                raise UserError(f"{name} has {side}={shown(image[side])}: write numbers without quotes")
        width, height = (whole(image[side]) for side in ("width", "height"))
        if not width or not height or width < 0 or height < 0:
            size = "x".join(shown(image[side]) for side in ("width", "height"))
            raise UserError(f"{name} is {size} pixels: mend its size")
        if width * height > MOST_PIXELS:
            raise UserError(
                f"{name} is {width}x{height} pixels, more than are read: mend its size, or cut the image up"
            )
        image["width"], image["height"] = width, height


def _renumbered(path: Path, content: Content, maskless: list[Annotation]) -> Content:
    """`content` with ids that the metrics bear; what refers to an image or a category follows it."""
    for kind, key in (("images", "image_id"), ("categories", "category_id")):
        old = renumber(getattr(content, kind), "id")
        if old:
            new = {of: number for number, of in old.items()}
            for a in content.annotations:
                a[key] = new[a[key]]
            content.file_ids[kind] = old
    if "categories" in content.file_ids:
        for image in content.images:  # LVIS
            _follow(image, {of: number for number, of in content.file_ids["categories"].items()})
    renumber(content.annotations, "id", least=1)  # pycocotools takes an object 0 for "nothing was matched"
    content.maskless = frozenset(a["id"] for a in maskless)
    return content


def _follow(image: Annotation, categories: dict[Id, int]) -> None:
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        if isinstance(image.get(key), list):
            image[key] = [of if (number := plain_id(of)) is None else categories.get(number, of) for of in image[key]]
