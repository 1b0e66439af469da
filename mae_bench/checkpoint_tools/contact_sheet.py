"""A sheet of labelled panels as one picture: rows of equally large images under column headings. Nothing about models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]  # (H, W, 3)

_GAP = 8  # pixels between panels and around the sheet
_TEXT = 13
_LINE = 18  # height of a line of text
_SMALL_PANEL = 192  # small images are enlarged to about this many pixels, by whole factors so that patches stay sharp


@dataclass
class Sheet:
    """Panels of (H, W, 3) uint8, one list a row, and their labels.

    Attributes:
        columns: a heading for each column; may have several lines.
        labels: what stands to the left of each row; may have several lines.
    """

    title: str
    columns: Sequence[str]
    labels: list[str] = field(default_factory=list)
    rows: list[list[Pixels]] = field(default_factory=list)

    def add(self, label: str, panels: list[Pixels]) -> None:
        """A row, as many panels as there are columns, all of one size."""
        self.labels.append(label)
        self.rows.append(panels)

    @property
    def factor(self) -> int:
        """By how much panels are enlarged."""
        return max(1, _SMALL_PANEL // max(self.rows[0][0].shape[:2]))

    def box(self, row: int, column: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of a panel on the sheet, in pixels."""
        height, width = (self.factor * side for side in self.rows[0][0].shape[:2])
        left = _GAP + self._label_width() + column * (width + _GAP)
        top = _GAP + self._heading_height() + row * (height + _GAP)
        return left, top, left + width, top + height

    def draw(self) -> Image.Image:
        """The sheet, dark text on white."""
        right, bottom = self.box(len(self.rows) - 1, len(self.columns) - 1)[2:]
        picture = Image.new("RGB", (max(right, _width(self.title) + _GAP) + _GAP, bottom + _GAP), "white")
        pen = ImageDraw.Draw(picture)
        pen.text((_GAP, _GAP), self.title, "black", _font())
        for column, heading in enumerate(self.columns):
            left, top = self.box(0, column)[:2]
            pen.multiline_text((left, top - _LINE * _lines(heading)), heading, "black", _font(), spacing=2)
        for row, (label, panels) in enumerate(zip(self.labels, self.rows, strict=True)):
            pen.multiline_text((_GAP, self.box(row, 0)[1]), label, "black", _font(), spacing=4)
            for column, panel in enumerate(panels):
                enlarged = panel.repeat(self.factor, axis=0).repeat(self.factor, axis=1)
                picture.paste(Image.fromarray(enlarged), self.box(row, column)[:2])
        return picture

    def _label_width(self) -> int:
        return max(_width(line) for label in self.labels for line in label.splitlines()) + 2 * _GAP

    def _heading_height(self) -> int:
        return _LINE * (1 + _lines(self.title) + max(map(_lines, self.columns)))


def _lines(text: str) -> int:
    return text.count("\n") + 1


def _width(text: str) -> int:
    return max(int(_font().getlength(line)) + 1 for line in text.splitlines())


@cache
def _font() -> ImageFont.FreeTypeFont:
    # matplotlib brings it along: the same letters on every machine.
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), _TEXT)
