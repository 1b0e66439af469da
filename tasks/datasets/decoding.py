"""Decoding: whole images by PIL, and training's random crops straight from a JPEG's bytes. No data sets, no draws of boxes.

What a random crop does not show is not decoded where a JPEG allows: rows below the crop are left out, and a crop of at least
twice (4, 8 times) the size asked for is decoded at 1/2 (1/4, 1/8) scale, which costs libjpeg less than decoding whole. The
pixels decoded are PIL's, bit for bit; the resize is torch's, whose rounding differs from PIL's by one level of 255 here and
there. At reduced scale the crop's edges move by up to half a reduced pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from backbones.errors import UserError
from backbones.plain_files import read_plain
from tasks.datasets.pictures import UNREADABLE, check_scans, check_size, open_picture

try:
    import simplejpeg
except ImportError:  # a platform without its wheels: PIL gives the same pixels, in about twice the time
    simplejpeg = None

Box = tuple[int, int, int, int]  # top, left, height, width in pixels, torchvision's order
Pixels = NDArray[np.uint8]  # (H, W, 3), RGB

SKIP_BROKEN = "--set data.skip_broken=true"


def unreadable(name: object, reason: Exception, way_out: str = SKIP_BROKEN) -> UserError:
    """The error for an image that cannot be read or decoded; `way_out` is how to leave such images out, where one can."""
    said, which = " ".join(str(reason).split()), "training images" if way_out == SKIP_BROKEN else "images"
    other = f", or leave such {which} out with {way_out}" if way_out else ""
    return UserError(f"{name}: unreadable image ({said}): replace it{other}")


WHITE = 65535  # of grey images of 16 bits: the level that becomes white
_ROWS = 256


def grey_8bit(levels: NDArray[Any], white: int = WHITE) -> Pixels:
    """Grey levels of 16 bits in eight: the upper byte, or as shares of another `white` (``data.white_level``)."""
    shown = np.empty(levels.shape, np.uint8)
    for row in range(0, len(levels), _ROWS):  # in strips: whole numbers of 64 bits take eight times the picture's room
        strip = levels[row : row + _ROWS].astype(np.int64)
        shown[row : row + _ROWS] = (strip >> 8 if white == WHITE else strip * 255 // white).clip(0, 255)
    return shown


def to_rgb(image: Image.Image, white: int = WHITE) -> Image.Image:
    """An open picture as RGB; 16-bit grey levels become eight by `grey_8bit`, where Pillow's own conversion clips them."""
    if image.mode.startswith("I"):
        image = Image.fromarray(grey_8bit(np.asarray(image), white))
    return image.convert("RGB")


def decode_rgb(content: bytes, scale: int = 1, white: int = WHITE) -> Image.Image:
    """The whole image as RGB, by PIL; of a JPEG, at 1/`scale` of its size.

    Args:
        white: level of grey images of 16 bits that becomes white.

    Raises:
        UNREADABLE: no image, or cut short.
    """
    with open_picture(content) as image:
        if scale > 1:
            image.draft("RGB", (image.width // scale, image.height // scale))
        return to_rgb(image, white)


def read_rgb(path: Path, white: int = WHITE) -> Image.Image:
    """The whole image in a file, as RGB (`decode_rgb`).

    Raises:
        UserError: unreadable or cut short, naming the file.
    """
    try:
        return decode_rgb(read_plain(path), white=white)
    except UNREADABLE as e:
        raise unreadable(path, e) from e


_DEPTHS = (255, 1023, 4095)  # the white of 8, 10 and 12 bits, which files of 16 bits may hold


@dataclass(frozen=True)
class _Levels:
    """Of an image with more than 8 bits a colour: its highest level if it is of grey integers; the range as it is decoded."""

    highest: int | None
    low: int
    high: int


def odd_images(
    where: str, paths: Sequence[str | Path], white: int, content: Callable[[int], bytes] | None = None
) -> list[str]:
    """Notes on images that come out otherwise than people see them: of several frames, of which the first is read; of 16-bit
    grey with levels of fewer bits, black; of 16-bit colours and floats, which Pillow cuts to eight bits (floats above 255 to
    white).

    Args:
        content: position among `paths` -> the file's bytes, where paths are names in an archive.
    """
    sources = list(paths if content is None else map(content, range(len(paths))))
    moving = [path for path, source in zip(paths, sources, strict=True) if _frames(source) > 1]
    seen = [(path, _levels(source, white)) for path, source in zip(paths, sources, strict=True)]
    grey = [(path, each.highest) for path, each in seen if each and each.highest]
    blank = [
        (path, each) for path, each in seen if each and each.highest is None and (each.high <= 1 or each.low >= 254)
    ]
    notes = []
    if moving:
        notes.append(
            f"{where}: {len(moving)} of {len(paths)} images that were looked at have several frames or pages, of which the "
            f"first is read, such as {moving[0]}"
        )
    highest = max((level for _, level in grey), default=0)
    dark = [(path, level) for path, level in grey if level <= (_DEPTHS[-1] if highest <= _DEPTHS[-1] else _DEPTHS[0])]
    if white == WHITE and dark:
        top = next(depth for depth in _DEPTHS if max(level for _, level in dark) <= depth)
        notes.append(
            f"{where}: {len(dark)} of {len(paths)} images that were looked at are of 16 bits and hold levels up to {top} "
            f"alone, which come out {'black' if top == _DEPTHS[0] else 'nearly black'}, such as {dark[0][0]}: --set "
            f"data.white_level={top}"
        )
    if blank:
        path, levels = blank[0]
        notes.append(
            f"{where}: {len(blank)} of {len(paths)} images that were looked at have more than 8 bits a colour and come out "
            f"{'black' if levels.high <= 1 else 'white'}, such as {path}: write them anew with 8 bits a colour"
        )
    return notes


def _frames(source: str | Path | bytes) -> int:
    """1 of a camera's JPEG with a second picture in it (MPO), and of what cannot be read, which others tell of."""
    try:
        with open_picture(source) as image:
            return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    except UNREADABLE:
        return 1


def _levels(source: str | Path | bytes, white: int) -> _Levels | None:
    """None for images of 8 bits, and for those that cannot be read, which others tell of."""
    try:
        with open_picture(source) as image:
            tile = getattr(image, "tile", None)
            if not (image.mode[0] in "IF" or (tile and ";16" in str(tile[0][3]))):
                return None
            highest = int(np.asarray(image).max(initial=0)) if image.mode[0] == "I" else None
            decoded = np.asarray(to_rgb(image, white))
    except UNREADABLE:
        return None
    return _Levels(highest, int(decoded.min(initial=255)), int(decoded.max(initial=0)))


@dataclass(frozen=True)
class RandomCrop:
    """A training transform whose box is drawn before any pixel is decoded: `then` of one of the two methods.

    Attributes:
        draw: (width, height) of the image -> box, from the global generators.
        size: side of the square that the box is resized to, bicubic with antialiasing.
        then: what follows, from uint8 (3, size, size) to uint8 (3, size, size).
    """

    draw: Callable[[int, int], Box]
    size: int
    then: Callable[[Tensor], Tensor]

    def of_encoded(self, content: bytes, white: int = WHITE) -> Tensor:
        """The crop of an image file, uint8 (3, size, size).

        Raises:
            UNREADABLE: no image, or cut short.
        """
        frame = jpeg_frame(content)
        if frame is None:
            return self.of_pixels(np.array(decode_rgb(content, white=white)))
        check_size(frame.width, frame.height)
        if not frame.sequential:
            check_scans(content)
        box = self.draw(frame.width, frame.height)
        scale = reduction(box, self.size)
        pixels = decode_top(content, frame, box[0] + box[2], scale)
        return resize_crop(pixels, reduced(box, scale), self.size)

    def of_pixels(self, pixels: Pixels) -> Tensor:
        """The crop of a decoded image, uint8 (3, size, size)."""
        height, width = pixels.shape[:2]
        return resize_crop(pixels, self.draw(width, height), self.size)


def reduction(box: Box, size: int) -> int:
    """The largest of 8, 4, 2, 1 that leaves the box at least `size` pixels high and wide: nothing is enlarged for it."""
    return next((s for s in (8, 4, 2) if min(box[2:]) >= s * size), 1)


def reduced(box: Box, scale: int) -> Box:
    """The box on an image reduced by `scale`, each edge on the nearest pixel."""
    top, left, height, width = box
    bottom, right = ((2 * edge + scale) // (2 * scale) for edge in (top + height, left + width))
    top, left = ((2 * edge + scale) // (2 * scale) for edge in (top, left))
    return top, left, bottom - top, right - left


def resize_crop(pixels: Pixels, box: Box, size: int) -> Tensor:
    """The box of an image resized to uint8 (3, size, size), bicubic with antialiasing as PIL does it."""
    top, left, height, width = box
    crop = torch.from_numpy(pixels[top : top + height, left : left + width]).permute(2, 0, 1)
    return F.interpolate(crop.unsqueeze(0), (size, size), mode="bicubic", antialias=True)[0]


class RandomFlip:
    """Left to right with probability `p`; torchvision's RandomHorizontalFlip, with its draw, at a third of its cost."""

    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, pixels: Tensor) -> Tensor:
        return pixels.flip(-1) if torch.rand(1).item() < self.p else pixels


def to_pil(pixels: Tensor) -> Image.Image:
    """uint8 (3, H, W) as an RGB image; band by band, since numpy's transposition costs six times as much."""
    return Image.merge("RGB", [Image.fromarray(band) for band in pixels.numpy()])


@dataclass(frozen=True)
class JpegFrame:
    """What a JPEG's frame header says, of a file that the fast decoder takes."""

    width: int
    height: int
    height_at: int  # offset of the two bytes of the height
    sequential: bool  # the rows are coded from the top, once


def jpeg_frame(content: bytes) -> JpegFrame | None:
    """The frame of a complete JPEG of 8 bits, grey or three colours, Huffman-coded; None for all else, which is PIL's.

    Markers as in ITU-T T.81, section B: SOF0 and SOF1 are sequential, SOF2 is progressive.
    """
    if not (content.startswith(b"\xff\xd8") and content.endswith(b"\xff\xd9")):
        return None
    at = 2
    while at + 10 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker in (0xC0, 0xC1, 0xC2):
            bits, components = content[at + 4], content[at + 9]
            height, width = (int.from_bytes(content[k : k + 2], "big") for k in (at + 5, at + 7))
            usual = bits == 8 and components in (1, 3) and height and width
            return JpegFrame(width, height, at + 5, marker != 0xC2) if usual else None
        # Tables, comments and application data come before the frame. Not here: a scan, another kind of frame.
        if not (marker in (0xC4, 0xDB, 0xDD, 0xFE) or 0xE0 <= marker <= 0xEF):
            return None
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return None


def decode_top(content: bytes, frame: JpegFrame, rows: int, scale: int) -> Pixels:
    """At least the first `rows` rows of a JPEG, at 1/`scale` of its size.

    libjpeg stops at the height that the header names, so a sequential file's header is made to name less. The interpolation of
    the colour planes looks one row of theirs ahead, two of the image's.

    Raises:
        UNREADABLE: the file is damaged in a way that PIL does not bear either.
    """
    if simplejpeg is None:
        return np.array(decode_rgb(content, scale))
    height, shown = frame.height, content
    if frame.sequential and rows + 2 * scale < height:
        height, at = rows + 2 * scale, frame.height_at
        shown = b"".join((content[:at], height.to_bytes(2, "big"), content[at + 2 :]))
    wanted = -(-height // scale), -(-frame.width // scale)
    # Not strict: warnings of libjpeg, such as of the rows left out, are no errors to PIL either.
    with suppress(ValueError):
        pixels: Pixels = simplejpeg.decode_jpeg(
            shown, min_height=wanted[0], min_width=wanted[1], min_factor=scale, strict=False
        )
        if pixels.shape[:2] == wanted:
            return pixels
    return np.array(decode_rgb(content, scale))
