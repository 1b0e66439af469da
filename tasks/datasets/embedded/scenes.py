"""Rendering: each picture has a generator of its own, so that none depends on how many there are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from tasks.datasets.embedded.config import EmbeddedConfig
from tasks.datasets.embedded.sources import CLASSES, Pool

STREAMS = {"pretrain": 0, "train": 1, "val": 2, "scene_train": 3, "scene_val": 4}
"""A number for each set of pictures, which seeds its generators. Never renumber: the bytes would change."""

MAX_ZOOM_OUT = 3
"""A background is cut from a square of 1 to this many times the picture's side."""
PLACING_ATTEMPTS = 30
Box = tuple[int, int, int, int]
"""(top, left, bottom, right) in pixels, the latter two not included."""


@dataclass(frozen=True)
class Instance:
    """A digit in a scene: its class and its visible pixels, (H, W) bool."""

    label: int
    mask: np.ndarray


@dataclass(frozen=True)
class Scene:
    """A picture and the digits in it."""

    image: np.ndarray
    """(H, W, 3) uint8."""
    instances: list[Instance]


def generator(seed: int, stream: str, index: int) -> np.random.Generator:
    """The generator of one picture: it depends on nothing but these three."""
    return np.random.Generator(np.random.PCG64([seed, STREAMS[stream], index]))


def class_picture(config: EmbeddedConfig, pool: Pool, stream: str, index: int) -> tuple[np.ndarray, int]:
    """(H, W, 3) uint8 picture of a class folder, and its class; what pre-training sees may have none (0)."""
    if stream == "pretrain" and config.pretrain_pictures == "pieces":
        return pieces(config, pool, stream, index), 0
    return single_digit(config, pool, stream, index)


def single_digit(config: EmbeddedConfig, pool: Pool, stream: str, index: int) -> tuple[np.ndarray, int]:
    """(H, W, 3) uint8 picture with one whole digit, and its class; classes take turns, hence balance."""
    rng = generator(config.seed, stream, index)
    label = index % len(CLASSES)
    canvas = _background(rng, pool, config.image_size, config.background_brightness)
    ink = _digit(rng, pool.digits[label], config.digit_size, bold=0)
    free = config.image_size - ink.shape[0] + 1
    top, left = int(rng.integers(free)), int(rng.integers(free))
    _paint(canvas, ink, top, left, _colour(rng, config.ink_brightness))
    return np.rint(canvas).astype(np.uint8), label


def pieces(config: EmbeddedConfig, pool: Pool, stream: str, index: int) -> np.ndarray:
    """(H, W, 3) uint8 picture of digits and pieces of digits that has no privileged place: the places of a digit reach
    as far beyond the picture as the digit does, so that every pixel is covered equally often.

    Sizes are spread evenly over their logarithms; strokes are as in the class folders or as in the scenes, by turns of luck.
    """
    rng = generator(config.seed, stream, index)
    size = config.pretrain_size
    canvas = _background(rng, pool, size, config.background_brightness)
    boxes: list[Box] = []
    low, high = config.pretrain_digits
    smallest, largest = config.pretrain_digit_size
    for _ in range(int(rng.integers(low, high + 1))):
        side = round(float(np.exp(rng.uniform(np.log(smallest), np.log(largest)))))
        bold = config.scene_bold * int(rng.integers(2))
        ink = _crop_to_ink(_digit(rng, pool.digits[int(rng.integers(len(CLASSES)))], [side, side], bold))
        box = _free_place(rng, ink.shape, boxes, size, config.scene_overlap, beyond=True)
        if box is None:
            continue
        boxes.append(box)
        top, left, _, _ = box
        inside = ink[max(0, -top) : size - top, max(0, -left) : size - left]
        _paint(canvas, inside, max(0, top), max(0, left), _colour(rng, config.ink_brightness))
    return np.rint(canvas).astype(np.uint8)


def many_digits(config: EmbeddedConfig, pool: Pool, stream: str, index: int) -> Scene:
    """A scene with several digits, later ones over earlier ones; all boxes lie inside the picture."""
    rng = generator(config.seed, stream, index)
    canvas = _background(rng, pool, config.scene_size, config.background_brightness)
    placed: list[Instance] = []
    boxes: list[Box] = []
    low, high = config.scene_digits
    for _ in range(int(rng.integers(low, high + 1))):
        label = int(rng.integers(len(CLASSES)))
        ink = _crop_to_ink(_digit(rng, pool.digits[label], config.scene_digit_size, config.scene_bold))
        box = _free_place(rng, ink.shape, boxes, config.scene_size, config.scene_overlap)
        if box is None:
            continue
        boxes.append(box)
        mask = _paint(canvas, ink, box[0], box[1], _colour(rng, config.ink_brightness))
        placed = [Instance(other.label, other.mask & ~mask) for other in placed] + [Instance(label, mask)]
    return Scene(np.rint(canvas).astype(np.uint8), [instance for instance in placed if instance.mask.any()])


def _background(rng: np.random.Generator, pool: Pool, size: int, brightness: float) -> np.ndarray:
    """A random square of a random photograph, maybe mirrored, scaled to (size, size, 3) float32 in 0..255."""
    photograph = pool.photographs[rng.integers(len(pool.photographs))]
    largest = min(photograph.width, photograph.height)
    side = int(rng.integers(min(size, largest), min(MAX_ZOOM_OUT * size, largest) + 1))
    left = int(rng.integers(photograph.width - side + 1))
    top = int(rng.integers(photograph.height - side + 1))
    box = (left, top, left + side, top + side)
    pixels = np.asarray(photograph.resize((size, size), Image.Resampling.BILINEAR, box=box), dtype=np.float32)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    return pixels * np.float32(brightness)


def _digit(rng: np.random.Generator, tiles: np.ndarray, size_range: list[int], bold: int) -> np.ndarray:
    """A random one of `tiles` at a random size: (S, S) float32 coverage in 0..1."""
    tile = Image.fromarray(tiles[rng.integers(len(tiles))])
    size = int(rng.integers(size_range[0], size_range[1] + 1))
    tile = tile.resize((size, size), Image.Resampling.BICUBIC)
    if bold:
        tile = tile.filter(ImageFilter.MaxFilter(2 * bold + 1))
    return np.asarray(tile, dtype=np.float32) / np.float32(255)


def _crop_to_ink(ink: np.ndarray) -> np.ndarray:
    rows, columns = (np.flatnonzero((ink >= 0.5).any(axis=axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _colour(rng: np.random.Generator, smallest: float) -> np.ndarray:
    return (255 * rng.uniform(smallest, 1, size=3)).astype(np.float32)


def _paint(canvas: np.ndarray, ink: np.ndarray, top: int, left: int, colour: np.ndarray) -> np.ndarray:
    """Blends the ink into `canvas` in place; returns the (H, W) bool mask of what it covers by half or
    more.
    """
    window = np.s_[top : top + ink.shape[0], left : left + ink.shape[1]]
    canvas[window] += ink[..., None] * (colour - canvas[window])
    mask = np.zeros(canvas.shape[:2], dtype=bool)
    mask[window] = ink >= 0.5
    return mask


def _free_place(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    taken: list[Box],
    size: int,
    max_overlap: float,
    *,
    beyond: bool = False,
) -> Box | None:
    """A place that keeps clear of `taken`, inside the picture or, with `beyond`, with at least a pixel inside; None if none
    was found.
    """
    height, width = shape
    for _ in range(PLACING_ATTEMPTS):
        if beyond:
            top, left = int(rng.integers(1 - height, size)), int(rng.integers(1 - width, size))
        else:
            top, left = int(rng.integers(size - height + 1)), int(rng.integers(size - width + 1))
        box = (top, left, top + height, left + width)
        if all(_overlap(box, other) <= max_overlap for other in taken):
            return box
    return None


def _overlap(a: Box, b: Box) -> float:
    """Area that two boxes share, as a share of the smaller one."""
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
