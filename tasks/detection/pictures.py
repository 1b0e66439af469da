"""Pictures of a detector's validation images: the objects of the json beside what was found. No metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.utils.visualizer import ColorMode, Visualizer
from matplotlib import colormaps
from PIL import Image, ImageDraw
from pycocotools import mask as run_length

from backbones.atomic import write_bytes
from tasks.contact_sheet import Pixels, Sheet, font
from tasks.datasets.account import printable
from tasks.datasets.decoding import WHITE
from tasks.detection.data import CocoSplit, Record, read_pixels

SIDE = 640  # pixels of the longer side of a picture
SURE = 0.5  # score from which a detection is drawn
FALLBACK = 5  # detections drawn where none is so sure
MOST = 30  # objects drawn on a picture
_LETTERS = 18  # pixels


def write_pictures(
    split: CocoSplit,
    records: Sequence[Record],
    results: Sequence[dict[str, Any]],
    folder: Path,
    count: int,
    white: int = WHITE,
) -> None:
    """Draws `count` images, spread over `records`, as ``NAME.png`` in `folder`: the same ones after every evaluation.

    Args:
        white: ``data.white_level``.
    """
    found = {result["image_id"]: result["instances"] for result in results}
    chosen = [records[k * len(records) // count] for k in range(count)] if len(records) > count else records[:count]
    for number, record in enumerate(chosen):
        name = f"{number:02d}_{Path(record['file_name']).stem}.png"
        write_bytes(folder / name, draw(split, record, found.get(record["image_id"], []), white))


def draw(split: CocoSplit, record: Record, found: list[dict[str, Any]], white: int = WHITE) -> bytes:
    """One image as PNG, twice: with its objects, and with the surest of `found` (results in COCO's format)."""
    pixels = read_pixels(record, white)
    objects = [a for a in record["annotations"] if not a["iscrowd"]]
    shown, rule = choose(found)
    numbers = {category: i for i, category in enumerate(split.category_ids)}
    left = _panel(pixels, split.classes, [(a["category_id"], None, a) for a in objects[:MOST]])
    right = _panel(pixels, split.classes, [(numbers[a["category_id"]], a["score"], a) for a in shown])
    of = f"{MOST} of {len(objects)}" if len(objects) > MOST else f"{len(objects)}"
    sheet = Sheet(
        (
            f"json: {of} object{'' if len(objects) == 1 else 's'}",
            f"{len(shown)} of {len(found)} detections,\n{rule}" if found else "no detections",
        )
    )
    sheet.add("", [left, right])
    return sheet.png()


def choose(found: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """The detections to draw, and the rule by which they were chosen."""
    ordered = sorted(found, key=lambda each: -each["score"])
    sure = [each for each in ordered if each["score"] >= SURE]
    if sure:
        return sure[:MOST], f"score {SURE} or more"
    return ordered[:FALLBACK], f"the surest (none has {SURE})"


def _panel(pixels: Pixels, classes: Sequence[str], objects: Sequence[tuple[int, float | None, Any]]) -> Pixels:
    """(H, W, 3) uint8, the longer side `SIDE` pixels: each object in a colour of its own, with class, score, box and mask."""
    scale = SIDE / max(pixels.shape[:2])
    drawing = Visualizer(pixels, Metadata(), scale=scale, instance_mode=ColorMode.IMAGE)
    colours = [_colour(number) for number in range(len(objects))]
    masks = _masks([each for *_, each in objects])
    if masks:
        drawing.overlay_instances(masks=masks, assigned_colors=colours, alpha=0.45)
    image = Image.fromarray(drawing.get_output().get_image())
    pen, letters = ImageDraw.Draw(image), font(_LETTERS)
    # The surest come first and are drawn last: nothing covers their labels.
    for (number, score, each), colour in reversed(list(zip(objects, colours, strict=True))):
        x, y, w, h = (scale * side for side in each["bbox"])
        pen.rectangle((x, y, x + w, y + h), outline=_levels(colour), width=3)
        text = printable(classes[number]) + ("" if score is None else f" {score:.2f}")
        width, height = int(letters.getlength(text)) + 10, _LETTERS + 8
        left = min(max(0, x), image.width - width)
        top = y - height if y >= height else min(y, image.height - height)
        pen.rectangle((left, top, left + width, top + height), fill=_levels(colour))
        pen.text((left + 5, top + 2), text, "white", letters)
    return np.asarray(image)


def _masks(objects: Sequence[Any]) -> list[Any] | None:
    """Polygons as they are, run lengths as bitmaps; None when an object has no mask."""
    masks = [each.get("segmentation") for each in objects]
    if any(mask is None for mask in masks):
        return None
    return [mask if isinstance(mask, list) else run_length.decode(mask) for mask in masks]


def _colour(number: int) -> tuple[float, ...]:
    """Dark enough for white letters; neighbours in the list are told apart."""
    return tuple(0.8 * level for level in colormaps["tab10"](number % 10)[:3])


def _levels(colour: Sequence[float]) -> tuple[int, int, int]:
    r, g, b = (round(255 * level) for level in colour)
    return r, g, b
