"""One image and one map from disk, whatever their format, and the checks that mmseg leaves out. No folders, no augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps

from backbones.errors import UserError
from backbones.plain_files import read_plain
from tasks.datasets.decoding import WHITE, to_rgb
from tasks.datasets.pictures import UNREADABLE, open_picture, orientation
from tasks.segmentation.classes import CLASS_LIST
from tasks.segmentation.folders import IGNORE
from tasks.segmentation.mm import LoadAnnotations

_SKIP = "replace it, or leave such images out with --set data.skip_broken=true"
_LABELS = ("L", "P", "1")  # modes of 8-bit labels; palette files hold indices
_WIDE_LABELS = ("I;16", "I;16B", "I;16L", "I")
_LOSSY = ("JPEG", "MPO", "JPEG2000", "AVIF")  # labels that were stored so are others afterwards, as a rule
_GREY_LEVELS = {"L;2": 85, "L;4": 17}  # Pillow stretches the 2- and 4-bit levels of grey files to 0..255


def read_image(path: str | Path, way_out: str = "replace it", white: int = WHITE) -> NDArray[np.uint8]:
    """A photograph as (H, W, 3) uint8 RGB, upright as its EXIF tag says.

    Args:
        white: level of 16-bit grey images that becomes white (`tasks.datasets.decoding.grey_8bit`).

    Raises:
        UserError: unreadable or cut short, naming the file.
    """
    try:
        with open_picture(path) as image:
            pixels: NDArray[np.uint8] = np.asarray(to_rgb(ImageOps.exif_transpose(image), white))
            return pixels
    except UNREADABLE as e:
        raise UserError(f"{path}: unreadable image ({_one_line(e)}): {way_out}") from e


def read_labels(path: str | Path) -> NDArray[np.int64]:
    """The values of a map, (H, W): grey levels of 8 or 16 bits, or indices into a palette, never its colours.

    Raises:
        UserError: unreadable, of several channels, or in a format that loses values, naming the file.
    """
    try:
        with open_picture(path) as image:
            if (pages := int(getattr(image, "n_frames", 1))) > 1 and image.format != "MPO":
                raise OSError(f"it has {pages} frames or pages, and a map is one")
            lossy = image.format in _LOSSY or image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp")
            tile = getattr(image, "tile", None)
            mode, raw = image.mode, str(tile[0][3]) if tile else ""
            values = np.asarray(image) if mode in (*_LABELS, *_WIDE_LABELS) else None
            if image.format == "WEBP":
                lossy, values = not _is_lossless_webp(read_plain(Path(path))), _grey(np.asarray(image))
    except UNREADABLE as e:
        raise UserError(f"{path}: unreadable map ({_one_line(e)}): replace it") from e
    if lossy:
        raise UserError(
            f"{path}: a map in a lossy format: compression makes other labels of labels; write the maps anew as PNG, from "
            "where they were made"
        )
    if values is None:
        raise UserError(
            f"{path}: a map must be one channel of 8-bit labels, this file is {mode}: convert it (colours are no labels; "
            "palette and 16-bit grey files are read too)"
        )
    return values.astype(np.int64) // _GREY_LEVELS.get(raw, 1)


def _is_lossless_webp(content: bytes) -> bool:
    """Whether a WebP's picture is of the lossless kind: its chunk is VP8L, not VP8 (RFC 9649, section 2.5)."""
    kinds, at = set(), len(b"RIFFsizeWEBP")
    while at + 8 <= len(content):
        kinds.add(content[at : at + 4])
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    return b"VP8L" in kinds and b"VP8 " not in kinds


def _grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """One channel of a WebP, which knows no grey files, where the three are the same and nothing is transparent."""
    same = (pixels[..., :3] == pixels[..., :1]).all() and (pixels[..., 3:] == 255).all()
    return pixels[..., 0] if same else None


class LoadImage:
    """First of mmseg's steps: ``img``, (H, W, 3) uint8 BGR. OpenCV would fill a file that is cut short with grey."""

    def __init__(self, *, skippable: bool, white: int = WHITE) -> None:
        self._way_out, self._white = _SKIP if skippable else "replace it", white

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Adds the image and its size. Raises UserError naming a file that cannot be read."""
        pixels = read_image(results["img_path"], self._way_out, self._white)
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
            raise other_size(path, values.shape, results["ori_shape"], results["img_path"])
        if self.reduce_zero_label is None:
            self.reduce_zero_label = results["reduce_zero_label"]
        results["gt_seg_map"] = to_classes(path, values, self._classes, bool(self.reduce_zero_label))
        results["seg_fields"].append("gt_seg_map")


def to_classes(path: str | Path, values: NDArray[np.int64], classes: int, reduce_zero_label: bool) -> NDArray[np.uint8]:
    """Classes from 0, 255 where there is none: where the file has 255 (65535 in 16 bits) or, reduced, 0.

    Raises:
        UserError: a label beyond the classes, naming the file at `path`.
    """
    if (least := int(values.min(initial=0))) < -1:
        raise UserError(f"{path} holds label {least}: labels begin at 0, -1 is unlabelled: mend the map")
    unlabelled = (values == -1) | (values == IGNORE) | (values == 65535) | (reduce_zero_label & (values == 0))
    largest = int(np.max(values, where=~unlabelled, initial=0))
    most = classes if reduce_zero_label else classes - 1
    if largest > most:
        raise UserError(
            f"{path} holds label {largest}, but {classes} classes allow labels up to {most} "
            f"(segmentation.reduce_zero_label={str(reduce_zero_label).lower()}): set "
            f"segmentation.num_classes, mend {CLASS_LIST}, or mend the map"
        )
    return np.where(unlabelled, IGNORE, values - int(reduce_zero_label)).astype(np.uint8)


def other_size(path: str | Path, shape: tuple[int, ...], image_shape: tuple[int, ...], image: str | Path) -> UserError:
    """The error for a map of another (height, width) than its image."""
    rows, columns = image_shape
    line = f"{path} is {shape[1]}x{shape[0]} pixels and its image {columns}x{rows}: "
    if shape == (columns, rows) and orientation(image) >= 5:
        return UserError(f"{line}the image's EXIF tag turns it: turn the map too, or remove the tag from {image}")
    return UserError(f"{line}the map belongs to another image")


def turned_images(where: str, images: Sequence[str | Path]) -> list[str]:
    """A note on images that their EXIF tag turns while a map of the stored picture would have the same size."""
    found = [image for image in images if orientation(image) != 1 and _same_size_turned(image)]
    if not found:
        return []
    return [
        f"{where}: {len(found)} of {len(images)} images that were looked at are turned by their EXIF tag, as mmseg does, such "
        f"as {found[0]}: whether their maps are, the size does not tell (half turns, mirrors and squares)"
    ]


def _same_size_turned(image: str | Path) -> bool:
    with open_picture(image) as opened:
        return opened.width == opened.height or orientation(image) < 5


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
