"""A look at images before they are used: which cannot be decoded to their end, the smallest and the largest of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tasks.base import DataInfo
from tasks.datasets.account import summary
from tasks.datasets.pictures import UNREADABLE, open_picture

_BLOCK = 512  # images handed to the threads at a time

Size = tuple[int, int]  # width, height in pixels


@dataclass
class Looked:
    """What was seen of some images.

    Attributes:
        images: looked at.
        broken: those that cannot be decoded to their end, and why.
        smallest, largest: by area; None where none could be decoded.
    """

    images: int = 0
    broken: list[tuple[int, str]] = field(default_factory=list)
    smallest: Size | None = None
    largest: Size | None = None

    def see(self, row: int, seen: Size | str) -> None:
        """Counts one image: its size, or why it has none."""
        self.images += 1
        if isinstance(seen, str):
            self.broken.append((row, seen))
            return
        if self.smallest is None or _area(seen) < _area(self.smallest):
            self.smallest = seen
        if self.largest is None or _area(seen) > _area(self.largest):
            self.largest = seen

    def __add__(self, other: Looked) -> Looked:
        """Of two lots of images; which rows are broken is said of one lot alone."""
        both = [size for each in (self, other) for size in (each.smallest, each.largest) if size is not None]
        smallest, largest = min(both, key=_area, default=None), max(both, key=_area, default=None)
        return Looked(self.images + other.images, [*self.broken, *other.broken], smallest, largest)

    def sizes(self) -> str:
        """Such as ``32x32 to 640x480 pixels``; empty where nothing could be decoded."""
        if self.smallest is None or self.largest is None:
            return ""
        low, high = ("x".join(map(str, size)) for size in (self.smallest, self.largest))
        return f"{between(low, high)} pixels"


def look(content: Callable[[int], bytes], rows: Sequence[int], done: Callable[[int], None] = lambda _: None) -> Looked:
    """Decodes the images of some rows, in order of reading.

    Args:
        content: row -> the file's bytes.
        done: told how many were looked at, some at a time.
    """
    looked = Looked()
    for row, seen in _seen(content, rows):
        looked.see(row, seen)
        if looked.images % _BLOCK == 0 or looked.images == len(rows):
            done(looked.images)
    return looked


def between(low: object, high: object) -> str:
    """``83 to 118``; one of them where they are the same."""
    return str(low) if low == high else f"{low} to {high}"


def three_lines(info: DataInfo, seen: Sequence[str]) -> list[str]:
    """What people read before the first step: what was seen, the account, all notes; `seen` joins ``info.looked``."""
    notes = "; ".join([*info.looked, *info.notes]) or "no problems found"
    info.looked += seen
    return [f"data {info.name}: {line}" for line in ("; ".join(seen), summary(info.account), notes)]


def spread(count: int, sample: int | None) -> Sequence[int]:
    """`sample` rows of `count`, at equal distances; all where there are no more, or None is given."""
    if sample is None or sample >= count:
        return range(count)
    return [k * count // sample for k in range(sample)]


def _seen(content: Callable[[int], bytes], rows: Sequence[int]) -> Iterator[tuple[int, Size | str]]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding leaves Python's lock alone; reading goes in order
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            yield from zip(block, pool.map(_decoded, [_read(content, row) for row in block]), strict=True)


def _read(content: Callable[[int], bytes], row: int) -> bytes | str:
    try:
        return content(row)
    except (OSError, ValueError) as e:
        return _said(e)


def _decoded(content: bytes | str) -> Size | str:
    if isinstance(content, str):
        return content
    try:
        with open_picture(content) as image:
            image.load()
            return image.size
    except (*UNREADABLE, MemoryError) as e:
        return _said(e)


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _area(size: Size) -> int:
    return size[0] * size[1]
