"""Pictures of validation images: the photograph, its map and the prediction side by side, with a legend. No metrics."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from backbones.atomic import write_bytes
from tasks.segmentation.classes import ADE_CLASSES
from tasks.segmentation.folders import IGNORE
from tasks.segmentation.mm import ADE20KDataset

SIDE = 400  # pixels of the longer side of a panel
OPACITY = 0.6  # of the classes' colours over the photograph
MOST = 36  # classes in the legend
_GAP, _LINE, _COLUMN = 10, 18, 200  # pixels

Pixels = NDArray[np.uint8]


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
    content = io.BytesIO()
    draw(picture, photograph, classes).save(content, "PNG")
    write_bytes(file, content.getvalue())


def draw(picture: Picture, photograph: Pixels, classes: Sequence[str]) -> Image.Image:
    """Photograph (H, W, 3), map and prediction from left to right; below, the classes that occur, the largest first."""
    height, width = picture.label.shape
    small = Image.fromarray(photograph).resize((width, height), Image.Resampling.BILINEAR)
    colours = palette(classes)
    panels = {
        "image": small,
        "ground truth": _overlay(small, picture.label, colours),
        "prediction": _overlay(small, picture.prediction, colours),
    }
    shown, names = _present(picture), list(classes)
    across = 3 * width + 4 * _GAP
    columns = max(1, (across - _GAP) // _COLUMN)
    top = _GAP + _LINE
    rows = -(-(len(shown[:MOST]) + (len(shown) > MOST)) // columns)
    sheet = Image.new("RGB", (across, top + height + _GAP + rows * _LINE + _GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for i, (title, panel) in enumerate(panels.items()):
        left = _GAP + i * (width + _GAP)
        pen.text((left, _GAP // 2), title, "black", font)
        sheet.paste(panel, (left, top))
    for i, label in enumerate(shown[:MOST]):
        x, y = _GAP + i % columns * _COLUMN, top + height + _GAP + i // columns * _LINE
        pen.rectangle((x, y + 2, x + 12, y + 14), fill=colours[label], outline="black")
        pen.text((x + 18, y), _short(names[label]), "black", font)
    if len(shown) > MOST:
        x, y = _GAP + MOST % columns * _COLUMN, top + height + _GAP + MOST // columns * _LINE
        pen.text((x, y), f"and {len(shown) - MOST} more classes", "black", font)
    return sheet


def _overlay(photograph: Image.Image, labels: Pixels, colours: Sequence[tuple[int, int, int]]) -> Image.Image:
    """Colours over the photograph in grey, unlabelled pixels as they are."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    grey = photograph.convert("L").convert("RGB")
    blended = np.asarray(Image.blend(grey, Image.fromarray(table[labels]), OPACITY))
    return Image.fromarray(np.where(labels[..., None] == IGNORE, np.asarray(photograph), blended))


def _present(picture: Picture) -> list[int]:
    """Classes of map and prediction, by area."""
    both = np.concatenate([picture.label.ravel(), picture.prediction.ravel()])
    labels, areas = np.unique(both[both != IGNORE], return_counts=True)
    return [int(label) for label in labels[np.argsort(-areas, kind="stable")]]


def _short(name: str) -> str:
    return name if len(name) <= 27 else f"{name[:26]}…"
