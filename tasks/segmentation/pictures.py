"""Pictures of validation images: the photograph, its map and the prediction side by side, with a legend. No metrics."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from backbones.atomic import write_bytes
from tasks.contact_sheet import Pixels, Sheet
from tasks.datasets.account import printable
from tasks.segmentation.classes import ADE_CLASSES
from tasks.segmentation.folders import IGNORE
from tasks.segmentation.mm import ADE20KDataset

SIDE = 1024  # pixels of the longer side of a panel; smaller images have their own size, or are enlarged as a whole
OPACITY = 0.6  # of the classes' colours over the photograph
MOST = 36  # classes in the legend
_SMALL = 384  # pixels that panels of small images are enlarged to
# Classes that are no thing: no colour lies over them.
UNTOUCHED = ("background", "unlabeled", "unlabelled", "void", "ignore")


@dataclass(frozen=True)
class Picture:
    """What is drawn of one image: its (H, W) map and prediction, reduced to `SIDE`; 255 where there is no label."""

    image: str  # path
    label: Pixels
    prediction: Pixels


def palette(classes: Sequence[str]) -> list[tuple[int, int, int]]:
    """A colour a class: ADE20K's own for its classes, else hues a golden ratio apart in three brightnesses."""
    if tuple(classes) == ADE_CLASSES:
        return [(r, g, b) for r, g, b in ADE20KDataset.METAINFO["palette"]]
    return [_colour(i) for i in range(len(classes))]


def _colour(i: int) -> tuple[int, int, int]:
    r, g, b = colorsys.hsv_to_rgb((i * 0.618034) % 1, 0.85 - 0.2 * (i % 2), (1.0, 0.8, 0.6)[i % 3])
    return round(255 * r), round(255 * g), round(255 * b)


def reduced(values: NDArray[np.integer]) -> Pixels:
    """A map or prediction (H, W) as uint8, its longer side at most `SIDE`; no class is mixed with another."""
    picture = Image.fromarray(values.astype(np.uint8))
    return np.asarray(picture.resize(_size(*picture.size), Image.Resampling.NEAREST))


def _size(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def write_picture(picture: Picture, photograph: Pixels, classes: Sequence[str], file: Path) -> None:
    """Writes the three panels with their legend as PNG."""
    write_bytes(file, draw(picture, photograph, classes).png())


def draw(picture: Picture, photograph: Pixels, classes: Sequence[str]) -> Sheet:
    """Photograph (H, W, 3), map and prediction from left to right; below, the classes that occur, the largest first."""
    height, width = picture.label.shape
    small = Image.fromarray(photograph).resize((width, height), Image.Resampling.BILINEAR)
    colours, names = palette(classes), list(classes)
    bare = [label for label, name in enumerate(names) if name.lower() in UNTOUCHED]
    sheet = Sheet(("image", "ground truth", "prediction"), panel=_SMALL)
    sheet.add(
        "", [np.asarray(small), *(_overlay(small, v, colours, bare) for v in (picture.label, picture.prediction))]
    )
    shown = _present(picture)
    sheet.legend = [(printable(names[label]), None if label in bare else colours[label]) for label in shown[:MOST]]
    sheet.legend = [(f"{name} (as it is)" if colour is None else name, colour) for name, colour in sheet.legend]
    if len(shown) > MOST:
        sheet.legend.append((f"and {len(shown) - MOST} more classes", None))
    return sheet


def _overlay(
    photograph: Image.Image, labels: Pixels, colours: Sequence[tuple[int, int, int]], bare: Sequence[int]
) -> Pixels:
    """Colours over the photograph in grey; unlabelled pixels and those of classes in `bare` as they are."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    grey = photograph.convert("L").convert("RGB")
    blended = np.asarray(Image.blend(grey, Image.fromarray(table[labels]), OPACITY))
    untouched = np.isin(labels, [IGNORE, *bare])
    return np.where(untouched[..., None], np.asarray(photograph), blended)


def _present(picture: Picture) -> list[int]:
    """Classes of map and prediction, by area."""
    both = np.concatenate([picture.label.ravel(), picture.prediction.ravel()])
    labels, areas = np.unique(both[both != IGNORE], return_counts=True)
    return [int(label) for label in labels[np.argsort(-areas, kind="stable")]]
