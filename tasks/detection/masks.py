"""Masks as a json has them, polygons or run lengths: what is wrong with one, and where many lie. No boxes, no files."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as run_length

from tasks.detection.ids import whole

# Objects that are looked at together; pycocotools' area bears no more run lengths.
_POLYGONS, _RUNS = 20_000, 255


def polygon_problem(polygons: Any) -> str | None:
    """What is wrong with a list of polygons, or None. Too few points are not: detectron2 leaves such polygons out."""
    if not isinstance(polygons, list) or not all(isinstance(p, list) for p in polygons):
        return "has a segmentation that is no list of polygons ([[x, y, x, y, ...], ...])"
    try:
        finite = all(math.isfinite(sum(p)) for p in polygons)
    except (TypeError, ValueError, OverflowError):
        finite = False
    return None if finite else "has a polygon with coordinates that are no finite numbers"


def drawable(polygons: list[list[float]]) -> list[list[float]]:
    """Those with three points or more and a y for every x, as detectron2 has it (load_coco_json)."""
    return [p for p in polygons if len(p) % 2 == 0 and len(p) >= 6]


def run_problem(mask: dict[str, Any], image: dict[str, Any]) -> str | None:
    """What is wrong with run lengths, compressed or not, or None. pycocotools decodes wrong ones to noise."""
    size, counts = mask.get("size"), mask.get("counts", "")
    wanted = [image["height"], image["width"]]
    if not isinstance(size, list) or [whole(side) for side in size] != wanted:
        return f"has run lengths of size {str(size)[:40]}, its image is {wanted} (height, width)"
    try:
        total = _listed_total(counts) if isinstance(counts, list) else runs_total(counts)
    except (TypeError, ValueError, AttributeError, IndexError):
        return "has run lengths that cannot be read"
    pixels = wanted[0] * wanted[1]
    return None if total == pixels else f"has run lengths of {total} pixels, its image has {pixels}"


def _listed_total(counts: list[Any]) -> int:
    if not all(type(run) is int and run >= 0 for run in counts):
        raise ValueError("a run that is no count")
    return sum(counts)


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


@dataclass(frozen=True)
class Outlines:
    """Where masks lie, an object a row; not-a-number for one without a mask."""

    extents: NDArray[np.float64]  # (N, 4): left, top, right, bottom in pixels
    areas: NDArray[np.float64]  # (N,) pixels; of polygons by their corners, overlaps of an object's parts counted twice


def outlines(masks: Sequence[Any]) -> Outlines:
    """Of lists of `drawable` polygons, compressed run lengths, or None; many at once, which is what makes it cheap."""
    found = Outlines(np.full((len(masks), 4), np.nan), np.full(len(masks), np.nan))
    for rows in _chunks(masks, dict, _RUNS):
        boxes = np.array(run_length.toBbox([masks[i] for i in rows]))
        found.extents[rows] = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
        found.areas[rows] = run_length.area([masks[i] for i in rows])
    for rows in _chunks(masks, list, _POLYGONS):
        found.extents[rows], found.areas[rows] = _of_polygons([masks[i] for i in rows])
    return found


def _chunks(masks: Sequence[Any], kind: type, most: int) -> Iterator[list[int]]:
    rows = [i for i, mask in enumerate(masks) if mask and isinstance(mask, kind)]
    for start in range(0, len(rows), most):
        yield rows[start : start + most]


def _of_polygons(objects: list[list[list[float]]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N, 4) extents and (N,) areas of objects that are lists of polygons."""
    polygons = list(itertools.chain.from_iterable(objects))
    points = np.fromiter(map(len, polygons), np.int64, len(polygons)) // 2
    flat = np.fromiter(itertools.chain.from_iterable(polygons), np.float64, 2 * int(points.sum()))
    x, y = flat[0::2], flat[1::2]
    ends = np.cumsum(points)
    following = np.arange(1, len(x) + 1)
    following[ends - 1] = ends - points  # the last point's neighbour is the polygon's first
    areas = np.abs(np.add.reduceat(x * y[following] - x[following] * y, ends - points)) / 2
    parts = np.fromiter(map(len, objects), np.int64, len(objects))
    first_parts = np.cumsum(parts) - parts
    first_points = (ends - points)[first_parts]
    low, high = np.minimum.reduceat, np.maximum.reduceat
    extents = [low(x, first_points), low(y, first_points), high(x, first_points), high(y, first_points)]
    return np.stack(extents, 1), np.add.reduceat(areas, first_parts)
