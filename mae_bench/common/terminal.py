"""Lines and columns that fit a terminal; what goes to a file or a pipe has a line a line, however long."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from typing import IO

from rich.console import Console

from mae_bench.common.text import visible

_INDENT = "  "
_READABLE = 24  # characters that a column of prose needs


def shown_on(stream: IO[str], text: str) -> str:
    """`visible` text without its newline, as it is written to a stream: a terminal gets it in lines that fit it."""
    width = width_of(stream)
    return visible(text) if width is None else "\n".join(folded(visible(text), width))


def width_of(stream: IO[str]) -> int | None:
    """Characters of a terminal's line (COLUMNS, where that is set); None where text goes to a file or a pipe."""
    return Console(file=stream).width if stream.isatty() else None


def folded(text: str, width: int) -> list[str]:
    """A line as lines of `width` characters, broken between words, what goes on set in.

    What is there to be copied stays whole, and a terminal breaks it if it must: a word that is longer, a command on a
    line of its own or in backticks.
    """
    if len(text) <= width or text.startswith(f"{_INDENT}mae-bench "):
        return [text]
    indent = text[: len(text) - len(text.lstrip())] + _INDENT
    whole = re.sub("`[^`]*`", lambda quoted: quoted[0].replace(" ", "\0"), text)
    return [line.replace("\0", " ") for line in _broken(whole, width, indent)]


def columns(rows: Sequence[dict[str, str]], width: int | None = None) -> list[list[str]]:
    """Cells by heading as aligned lines: those of the headings, then those of each row.

    Where `width` is too small the widest column but the first is made narrower; where that does not do, the columns that
    have no room stand below, set in, as ``heading: cell``.
    """
    cells = [{heading: visible(text) for heading, text in row.items()} for row in rows]
    widths = _fitting({h: [h, *(row[h] for row in cells)] for h in cells[0]}, width)
    return [_lines(row, widths, width) for row in [{h: h for h in widths}, *cells]]


def _fitting(texts: dict[str, list[str]], width: int | None) -> dict[str, int]:
    """Heading -> width of a column, of those that stand side by side."""
    widths = {heading: max(map(len, column)) for heading, column in texts.items()}
    over = sum(widths.values()) + len(_INDENT) * (len(widths) - 1) - width if width is not None else 0
    if over <= 0:
        return widths
    widest = max(list(widths)[1:] or widths, key=lambda heading: widths[heading])
    word = max((len(word) for text in texts[widest] for word in text.split()), default=0)
    if widths[widest] - over >= max(word, _READABLE):
        return {**widths, widest: widths[widest] - over}
    room, beside = width or 0, dict[str, int]()
    for heading, needed in widths.items():
        if beside and room < needed:
            break
        beside[heading] = needed
        room -= needed + len(_INDENT)
    return beside


def _lines(row: dict[str, str], widths: dict[str, int], width: int | None) -> list[str]:
    beside = [_broken(row[heading], room, "") for heading, room in widths.items()]
    lines = [
        _INDENT.join(text.ljust(room) for text, room in zip(texts, widths.values(), strict=True)).rstrip()
        for texts in zip_longest(*beside, fillvalue="")
    ]
    below = [f"{heading}: {text}" for heading, text in row.items() if text and heading not in widths]
    return lines + _packed(below, width or 0)


def _packed(items: Sequence[str], width: int) -> list[str]:
    """Items side by side as long as they fit, set in; one that is longer than a line is broken."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + len(_INDENT) + len(item) <= width:
            lines[-1] += _INDENT + item
        else:
            lines += folded(_INDENT + item, width)
    return lines


def _broken(text: str, width: int, indent: str) -> list[str]:
    if len(text) <= width:
        return [text]
    return textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
