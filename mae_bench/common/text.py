"""Text from outside as it is shown to people: nothing that a terminal, a page or a spreadsheet obeys."""

from __future__ import annotations

import re


def visible(text: str) -> str:
    """One line, with what does not print as its escape: a newline as ``\\n``, the start of a terminal's code as ``\\x1b``."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def plain(text: str) -> str:
    """Text of a record in a table or on a page: one line, without control characters."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def spreadsheet_cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula: an apostrophe goes before ``= + - @``, figures stay as they are."""
    shown = visible(text)
    figure = re.fullmatch(r"-?[0-9.]+(e[+-]?[0-9]+)?", shown)
    return f"'{shown}" if shown[:1] in ("=", "+", "-", "@") and not figure else shown


def duration(seconds: float) -> str:
    """Such as ``45 s``, ``12 min``, ``3 h 05``."""
    minutes = round(seconds / 60)
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{minutes} min"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d}"
    )
