"""The one drawer of picture sheets: tiles of equally large panels with labels, headings and a legend. Nothing about models."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]  # (H, W, 3)
Colour = tuple[int, int, int]

_GAP = 8  # pixels between panels and around the sheet; between tiles it is three times as wide
_SMALL_PANEL = 192  # small images are enlarged to about this many pixels, by whole factors so that patches stay sharp
_TEXT = 13  # pixels, at least
_SHOWN = 72  # letters of text are this part of the sheet's width: readable where it is scaled down to a page's width
_ENTRY = 15  # width of an entry of the legend, in letters


@dataclass
class Sheet:
    """Tiles of panels, and what is written around them.

    Attributes:
        columns: a heading for each panel of a tile.
        across: so many tiles stand side by side.
        labels: what stands above each tile; may have several lines.
        tiles: panels of (H, W, 3) uint8, as many as there are headings, all of one size.
        legend: names of colours, below; None of what has no colour.
        panel: small panels are enlarged to about so many pixels.
    """

    columns: Sequence[str]
    title: str = ""
    across: int = 1
    panel: int = _SMALL_PANEL
    labels: list[str] = field(default_factory=list)
    tiles: list[list[Pixels]] = field(default_factory=list)
    legend: list[tuple[str, Colour | None]] = field(default_factory=list)

    def add(self, label: str, panels: list[Pixels]) -> None:
        """A tile."""
        self.labels.append(label)
        self.tiles.append(panels)

    @property
    def factor(self) -> int:
        """By how much panels are enlarged."""
        return max(1, self.panel // max(self.tiles[0][0].shape[:2]))

    def box(self, tile: int, column: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of a panel on the sheet, in pixels."""
        height, width = (self.factor * side for side in self.tiles[0][0].shape[:2])
        down, beside = divmod(tile, min(self.across, len(self.tiles)))
        wide = len(self.columns) * (width + _GAP) + 2 * _GAP
        left = _GAP + beside * wide + column * (width + _GAP)
        tall = height + self._lines(self.labels) * self._line + _GAP
        top = _GAP + self._head + down * (tall + _GAP) + self._lines(self.labels) * self._line
        return left, top, left + width, top + height

    def draw(self) -> Image.Image:
        """The sheet, dark text on white."""
        across = min(self.across, len(self.tiles))
        bottom, entries = self.box(len(self.tiles) - 1, 0)[3] + _GAP, self._entries_across
        below = -(-len(self.legend) // entries) * self._line
        picture = Image.new("RGB", (self._width + 2 * _GAP, bottom + below + (_GAP if below else 0)), "white")
        pen = ImageDraw.Draw(picture)
        pen.multiline_text((_GAP, _GAP), self.title, "black", self._font, spacing=2)
        for tile, (label, panels) in enumerate(zip(self.labels, self.tiles, strict=True)):
            left, top = self.box(tile, 0)[:2]
            pen.multiline_text((left, top - self._lines([label]) * self._line), label, "black", self._font, spacing=2)
            for column, panel in enumerate(panels):
                left, top = self.box(tile, column)[:2]
                if tile < across:  # headings stand once, above the labels
                    at = (left, _GAP + self._head - self._lines(self.columns) * self._line)
                    pen.multiline_text(at, self.columns[column], "black", self._font, spacing=2)
                picture.paste(self._enlarged(panel), (left, top))
        self._draw_legend(pen, bottom, entries)
        return picture

    def png(self) -> bytes:
        """The sheet as the content of a file."""
        content = io.BytesIO()
        self.draw().save(content, "PNG")
        return content.getvalue()

    def _draw_legend(self, pen: ImageDraw.ImageDraw, top: int, across: int) -> None:
        size = self._text
        for i, (name, colour) in enumerate(self.legend):
            x, y = _GAP + i % across * _ENTRY * size, top + i // across * self._line
            if colour is not None:
                pen.rectangle((x, y + 1, x + size, y + 1 + size), fill=colour, outline="black")
            short = name
            while short and self._font.getlength(short) > (_ENTRY - 2) * size and across > 1:
                short = short.removesuffix("…")[:-1] + "…"
            pen.text((x + size * 3 // 2, y), short, "black", self._font)

    def _enlarged(self, panel: Pixels) -> Image.Image:
        return Image.fromarray(panel.repeat(self.factor, axis=0).repeat(self.factor, axis=1))

    @property
    def _panels_width(self) -> int:
        across = min(self.across, len(self.tiles))
        wide = len(self.columns) * (self.factor * self.tiles[0][0].shape[1] + _GAP)
        return across * wide + (across - 1) * 2 * _GAP

    @property
    def _width(self) -> int:
        texts = [self.title, self.labels[0] if len(self.labels) == 1 else ""]
        return max(self._panels_width, *(int(self._font.getlength(line)) for t in texts for line in t.splitlines()), 0)

    @property
    def _entries_across(self) -> int:
        return max(1, self._width // (_ENTRY * self._text))

    @property
    def _text(self) -> int:
        return max(_TEXT, self._panels_width // _SHOWN)

    @property
    def _line(self) -> int:
        return self._text * 7 // 5

    @property
    def _head(self) -> int:
        return self._line * (self._lines([self.title]) + self._lines(self.columns))

    @property
    def _font(self) -> ImageFont.FreeTypeFont:
        return font(self._text)

    @staticmethod
    def _lines(texts: Sequence[str]) -> int:
        return max(text.count("\n") + 1 if text else 0 for text in texts)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Letters that matplotlib brings along: the same on every machine."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
