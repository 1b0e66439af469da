"""Pictures of a detector's validation images: the objects of the json beside what was found. No metrics."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.utils.visualizer import ColorMode, Visualizer
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pycocotools import mask as run_length

from backbones.atomic import write_bytes
from tasks.detection.data import CocoSplit, Record, read_pixels

SIDE = 640  # pixels of the longer side of a picture
SURE = 0.5  # score from which a detection is drawn
FALLBACK = 5  # detections drawn where none is so sure
MOST = 30  # objects drawn on a picture


def write_pictures(
    split: CocoSplit, records: Sequence[Record], results: Sequence[dict[str, Any]], folder: Path, count: int
) -> None:
    """Draws `count` images, spread over `records`, as ``NAME.png`` in `folder`: the same ones after every evaluation."""
    found = {result["image_id"]: result["instances"] for result in results}
    chosen = [records[k * len(records) // count] for k in range(count)] if len(records) > count else records[:count]
    for number, record in enumerate(chosen):
        name = f"{number:02d}_{Path(record['file_name']).stem}.png"
        write_bytes(folder / name, draw(split, record, found.get(record["image_id"], [])))


def draw(split: CocoSplit, record: Record, found: list[dict[str, Any]]) -> bytes:
    """One image as PNG, twice: with its objects, and with the surest of `found` (results in COCO's format)."""
    pixels = read_pixels(record)
    objects = [a for a in record["annotations"] if not a["iscrowd"]]
    shown, rule = choose(found)
    numbers = {category: i for i, category in enumerate(split.category_ids)}
    left = _panel(pixels, split.classes, [(a["category_id"], None, a) for a in objects[:MOST]])
    right = _panel(pixels, split.classes, [(numbers[a["category_id"]], a["score"], a) for a in shown])
    of = f"{MOST} of {len(objects)}" if len(objects) > MOST else f"{len(objects)}"
    return _side_by_side((left, f"json: {of} objects"), (right, f"{len(shown)} of {len(found)} detections, {rule}"))


def choose(found: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """The detections to draw, and the rule by which they were chosen."""
    ordered = sorted(found, key=lambda each: -each["score"])
    sure = [each for each in ordered if each["score"] >= SURE]
    if sure:
        return sure[:MOST], f"score {SURE} or more"
    return ordered[:FALLBACK], f"the surest (none has {SURE})"


def _panel(pixels: np.ndarray, classes: Sequence[str], objects: Sequence[tuple[int, float | None, Any]]) -> np.ndarray:
    """(H, W, 3) uint8, the longer side `SIDE` pixels, with class, score, box and mask of each object."""
    scale = SIDE / max(pixels.shape[:2])
    drawing = Visualizer(pixels, Metadata(), scale=scale, instance_mode=ColorMode.IMAGE)
    if objects:
        drawing.overlay_instances(
            boxes=[[x, y, x + w, y + h] for x, y, w, h in (each["bbox"] for *_, each in objects)],
            labels=[classes[number] + ("" if score is None else f" {score:.2f}") for number, score, _ in objects],
            masks=_masks([each for *_, each in objects]),
            assigned_colors=[_colour(number) for number, *_ in objects],
            alpha=0.4,
        )
    image: np.ndarray = drawing.get_output().get_image()
    return image


def _masks(objects: Sequence[Any]) -> list[Any] | None:
    """Polygons as they are, run lengths as bitmaps; None when an object has no mask."""
    masks = [each.get("segmentation") for each in objects]
    if any(mask is None for mask in masks):
        return None
    return [mask if isinstance(mask, list) else run_length.decode(mask) for mask in masks]


def _colour(number: int) -> tuple[float, ...]:
    return tuple(colormaps["tab20"](number % 20)[:3])


def _side_by_side(*panels: tuple[np.ndarray, str]) -> bytes:
    """Panels of one size with their headings, as PNG."""
    height, width = panels[0][0].shape[:2]
    dpi, gap, top = 100, 12, 36
    total = len(panels) * (width + gap) + gap, height + top + gap
    figure = Figure(figsize=(total[0] / dpi, total[1] / dpi), dpi=dpi, facecolor="white")
    FigureCanvasAgg(figure)
    for i, (panel, heading) in enumerate(panels):
        left = gap + i * (width + gap)
        axes = figure.add_axes((left / total[0], gap / total[1], width / total[0], height / total[1]))
        axes.imshow(panel, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        figure.text(left / total[0], 1 - (top - 10) / total[1], heading, fontsize=11, va="bottom")
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
