"""Numbers and ids as a json writes them: 1.0 is 1, "1" is a text; and other ids in place of those that a metric cannot bear.

JSON has one kind of number, so a whole number with a point is that number. A text in place of a number is not: of tools that
mix both, some mean one thing and some two, so it is named and never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tasks.datasets.account import printable

Id = int | str

_NAMED = 5
LARGEST = 2**53  # pycocotools and numpy take ids through float64, which tells no larger ones apart


def whole(value: Any) -> int | None:
    """A whole number that may be written with a point; None for anything else, a truth value included."""
    if type(value) is int:
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else None


def plain_id(value: Any) -> Id | None:
    """An id as a whole number or a text; None for what is neither."""
    return value if isinstance(value, str) else whole(value)


def shown(value: Any) -> str:
    """A value for a message: as JSON has it, cut where it is long."""
    text = f'"{printable(value[:60])}", a text' if isinstance(value, str) else printable(str(value)[:60])
    return text if len(text) < 60 else f"{text[:57]}..."


def listed(ids: Sequence[Any]) -> str:
    """The first few of many ids."""
    return ", ".join(shown(i) for i in ids[:_NAMED]) + (", …" if len(ids) > _NAMED else "")


def usable(ids: Iterable[Any], least: int = 0) -> bool:
    """Whether pycocotools and lvis-api count right with these ids: whole numbers from `least` on, not too large."""
    return all(type(i) is int and least <= i < LARGEST for i in ids)


def renumber(items: Sequence[dict[str, Any]], key: str, least: int = 0) -> dict[int, Id]:
    """Gives `items` the ids 1, 2, … in their order, unless theirs are `usable`.

    Returns:
        new id -> the file's; empty when nothing was changed.
    """
    if usable((item[key] for item in items), least):
        return {}
    old = {}
    for number, item in enumerate(items, 1):
        old[number], item[key] = item[key], number
    return old
