"""Text from outside as it is shown to people: one line, nothing that a terminal obeys."""

from __future__ import annotations


def plain(text: str) -> str:
    """Text of a record on one line, without control characters."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
