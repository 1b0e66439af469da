"""One image and one map from disk, whatever their format, and the checks that mmseg leaves out. No folders, no augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from backbones.errors import UserError
from tasks.datasets.pictures import UNREADABLE, open_picture
from tasks.segmentation.folders import CLASS_LIST, IGNORE
from tasks.segmentation.mm import LoadAnnotations

_ORIENTATION = 0x0112  # EXIF
_SKIP = "replace it, or leave such images out with --set data.skip_broken=true"
_LABELS = ("L", "P", "1")  # modes of 8-bit labels; palette files hold indices
_WIDE_LABELS = ("I;16", "I;16B", "I;16L", "I")
_GREY_LEVELS = {"L;2": 85, "L;4": 17}  # Pillow stretches the 2- and 4-bit levels of grey files to 0..255


def read_image(path: str | Path, way_out: str = "replace it") -> NDArray[np.uint8]:
    """A photograph as (H, W, 3) uint8 RGB, upright as its EXIF tag says; 16-bit grey keeps its upper byte.

    Raises:
        UserError: unreadable or cut short, naming the file.
    """
    try:
        with open_picture(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # Pillow's own conversion would clip at 255
                upright = Image.fromarray((np.asarray(upright).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
            pixels: NDArray[np.uint8] = np.asarray(upright.convert("RGB"))
            return pixels
    except UNREADABLE as e:
        raise UserError(f"{path}: unreadable image ({_one_line(e)}): {way_out}") from e


def read_labels(path: str | Path) -> NDArray[np.int64]:
    """The values of a map, (H, W): grey levels of 8 or 16 bits, or indices into a palette, never its colours.

    Raises:
        UserError: unreadable, or of several channels, naming the file.
    """
    try:
        with open_picture(path) as image:
            tile = getattr(image, "tile", None)
            mode, raw = image.mode, str(tile[0][3]) if tile else ""
            values = np.asarray(image) if mode in (*_LABELS, *_WIDE_LABELS) else None
    except UNREADABLE as e:
        raise UserError(f"{path}: unreadable map ({_one_line(e)}): replace it") from e
    if values is None:
        raise UserError(
            f"{path}: a map must be one channel of 8-bit labels, this file is {mode}: convert it (colours are no labels; "
            "palette and 16-bit grey files are read too)"
        )
    return values.astype(np.int64) // _GREY_LEVELS.get(raw, 1)


class LoadImage:
    """First of mmseg's steps: ``img``, (H, W, 3) uint8 BGR. OpenCV would fill a file that is cut short with grey."""

    def __init__(self, *, skippable: bool) -> None:
        self._way_out = _SKIP if skippable else "replace it"

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Adds the image and its size. Raises UserError naming a file that cannot be read."""
        pixels = read_image(results["img_path"], self._way_out)
        results["img"] = np.ascontiguousarray(pixels[..., ::-1])
        results["img_shape"] = results["ori_shape"] = pixels.shape[:2]
        return results


class LoadMap(LoadAnnotations):
    """mmseg's loader with our reading and checks: it would take labels modulo 256 and train on wrong ones."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.reduce_zero_label: bool | None
        self._classes = classes

    def _load_seg_map(self, results: dict[str, Any]) -> None:
        path = results["seg_map_path"]
        values = read_labels(path)
        if values.shape != tuple(results["ori_shape"]):
            raise _other_size(path, values.shape, results)
        if self.reduce_zero_label is None:
            self.reduce_zero_label = results["reduce_zero_label"]
        results["gt_seg_map"] = self._labels(path, values)
        results["seg_fields"].append("gt_seg_map")

    def _labels(self, path: str, values: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Classes from 0, 255 where there is none: where the file has 255 (65535 in 16 bits) or, reduced, 0."""
        unlabelled = (values == IGNORE) | (values == 65535) | (bool(self.reduce_zero_label) & (values == 0))
        largest = int(np.max(values, where=~unlabelled, initial=0))
        most = self._classes if self.reduce_zero_label else self._classes - 1
        if largest > most:
            raise UserError(
                f"{path} holds label {largest}, but {self._classes} classes allow labels up to {most} "
                f"(segmentation.reduce_zero_label={str(self.reduce_zero_label).lower()}): set "
                f"segmentation.num_classes, mend {CLASS_LIST}, or mend the map"
            )
        classes = np.where(unlabelled, IGNORE, values - int(bool(self.reduce_zero_label)))
        return classes.astype(np.uint8)


def _other_size(path: str, shape: tuple[int, ...], results: dict[str, Any]) -> UserError:
    (rows, columns), image = results["ori_shape"], results["img_path"]
    line = f"{path} is {shape[1]}x{shape[0]} pixels and its image {columns}x{rows}: "
    if shape == (columns, rows) and _turned(image):
        return UserError(f"{line}the image's EXIF tag turns it: turn the map too, or remove the tag from {image}")
    return UserError(f"{line}the map belongs to another image")


def _turned(image: str) -> bool:
    with open_picture(image) as opened:
        return opened.getexif().get(_ORIENTATION, 1) >= 5  # 5 to 8 turn by a quarter


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
