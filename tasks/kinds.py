"""Whether a value is of its key's own kind, before OmegaConf makes one of it: it takes 5 for the text "5", 7 for true and
[[1]] for a list of numbers, and says what it does not take in words of its own classes."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any, Union, get_args, get_origin, get_type_hints

_KINDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}


def wrong_kind(schema: type, values: Mapping[Any, Any], prefix: str = "") -> str | None:
    """What is wrong with the first value that is of another kind than its key in the dataclass `schema`; None of none.

    Such as ``takes a text, not 5: write it in quotes (title)``. Keys that the schema does not have are the caller's.
    """
    hints = _hints(schema)
    for key, value in values.items():
        if key in hints and (said := _wrong(hints[key], value, f"{prefix}{key}")):
            return said
    return None


@lru_cache(maxsize=64)
def _hints(schema: type) -> dict[str, Any]:
    known = {entry.name for entry in fields(schema)}
    return {name: hint for name, hint in get_type_hints(schema).items() if name in known}


def _wrong(hint: Any, value: Any, key: str) -> str | None:
    if get_origin(hint) in (Union, types.UnionType):
        inner = [each for each in get_args(hint) if each is not type(None)]
        return None if value is None else _wrong(inner[0], value, key)
    if isinstance(hint, type) and is_dataclass(hint):
        group = isinstance(value, Mapping)
        return wrong_kind(hint, value, f"{key}.") if group else f"is a group of keys: set one of its keys ({key})"
    if get_origin(hint) is dict:
        return None if isinstance(value, Mapping) else f"is a group of keys: set one of its keys ({key})"
    if get_origin(hint) is list:
        kind = get_args(hint)[0]
        if not isinstance(value, (list, tuple)):
            return f"takes a list, such as {'[a, b]' if kind is str else '[1, 2]'}, not {_shown(value)} ({key})"
        wrong = [member for member in value if not _is(kind, member)]
        return f"takes a list of which each is {_kind(kind, wrong[0])} ({key})" if wrong else None
    return None if _is(hint, value) else f"takes {_kind(hint, value)} ({key})"


def _is(kind: Any, value: Any) -> bool:
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return kind not in _KINDS or isinstance(value, kind)


def _kind(kind: Any, value: Any) -> str:
    """Such as ``a text, not 5: write it in quotes``."""
    if isinstance(value, str):
        return f"{_KINDS[kind]}, not {_shown(value)}" + (": write it without quotes" if value[:1].isdigit() else "")
    return f"{_KINDS[kind]}, not {_shown(value)}{': write it in quotes' if kind is str and value is not None else ''}"


def _shown(value: Any) -> str:
    """As YAML has it, in one line."""
    known = {None: "null", True: "true", False: "false"}
    text = known[value] if value is None or isinstance(value, bool) else " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:60]}…"
