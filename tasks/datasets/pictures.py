"""The one door for pictures: which formats are read, how large, from plain files only. What is done with pixels is elsewhere.

Pillow opens more than pictures (for EPS it starts Ghostscript), reserves what a header claims, and raises nearly anything on
damaged files. Whoever reads a picture that somebody else may have made reads it here.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from PIL import ExifTags, Image

from backbones.errors import UserError
from backbones.plain_files import open_plain, read_plain

# Pictures that Pillow decodes by itself; MPO is what cameras and phones call a JPEG with a second picture in it.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
# As Pillow's own limit, three times the largest of ImageNet; decoded to RGB it is half a gigabyte.
MOST_PIXELS = 178_956_970
# Decoders that take 15 to 20 bytes a pixel on their way, not 8: they are given half as many.
_DEMANDING = ("JPEG2000", "WEBP", "AVIF")
# Each scan of a progressive JPEG goes over the whole picture; usual ones have ten.
_MOST_SCANS = 100
_SCAN = b"\xff\xda"
# What `open_picture` raises on a file that is no picture, or half of one.
UNREADABLE = (OSError, SyntaxError, ValueError)


@cache
def _formats() -> tuple[str, ...]:
    """Those that this machine's Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def open_picture(source: str | Path | bytes) -> Iterator[Image.Image]:
    """A picture's header, and its pixels on demand, as `PIL.Image.open` gives them.

    Args:
        source: a file, or its content.

    Raises:
        UNREADABLE: no picture of `FORMATS`, larger than `MOST_PIXELS`, damaged, or no plain file; also out of the block.
    """
    with ExitStack() as stack:
        try:
            file = io.BytesIO(source) if isinstance(source, bytes) else stack.enter_context(open_plain(Path(source)))
            image = stack.enter_context(Image.open(file, formats=_formats()))
            check_size(image.width, image.height, MOST_PIXELS // (2 if image.format in _DEMANDING else 1))
            if image.info.get("progressive"):
                check_scans(source if isinstance(source, bytes) else read_plain(Path(source)))
            yield image
        except (*UNREADABLE, MemoryError):
            raise
        except UserError as e:
            raise OSError(str(e)) from e
        except Exception as e:  # Pillow's decoders raise nearly anything on damaged files
            raise ValueError(f"{type(e).__name__}: {e}") from e


def orientation(source: str | Path | bytes) -> int:
    """How a picture is to be turned by its EXIF tag: 1 not at all, 2 to 4 by half or mirrored, 5 to 8 by a quarter.

    1 also of what cannot be read, which others tell of.
    """
    try:
        with open_picture(source) as image:
            return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (*UNREADABLE, TypeError):
        return 1


def check_size(width: int, height: int, most: int = MOST_PIXELS) -> None:
    """Refuses a picture by its header.

    Raises:
        ValueError: it has more than `most` pixels.
    """
    if width * height > most:
        raise ValueError(f"{width} x {height} pixels, more than the {most / 1e6:.0f} million that are decoded")


def check_scans(content: bytes) -> None:
    """Refuses a progressive JPEG that was made to keep its decoder busy.

    Raises:
        ValueError: it has more than `_MOST_SCANS` scans.
    """
    if (scans := content.count(_SCAN)) > _MOST_SCANS:
        raise ValueError(f"{scans:,} scans of a progressive JPEG, which usually has ten")
