"""Versions of the record's schema: what each added, and how a record of an older one is read as one of the newest.

A field that is added, renamed or given another meaning makes a new version, with a function here that carries a record of the
version before over. Records on disk are never rewritten.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SCHEMA_VERSION = 4

Raw = dict[str, Any]


def upgrade(raw: Raw) -> Raw:
    """A record's dictionary, of any version up to `SCHEMA_VERSION`, as one of `SCHEMA_VERSION`; the argument stays as it is.

    What an older version did not say is filled with "not known" (None, or empty), never with a guess. A dictionary that is no
    valid record of its version is no valid one afterwards either: the schema is checked by the caller.
    """
    while (version := raw["schema_version"]) in _NEXT:
        raw = {**_NEXT[version](raw), "schema_version": version + 1}
    return raw


def _second(raw: Raw) -> Raw:
    """Version 2 says how fast predictions come, what was recovered from, and by which command on which host a run was made."""
    added: Raw = {"inference_s_per_image": None, "recovered": {}, "command": None, "host": None, "variant": ""}
    return {**raw, **{name: value for name, value in added.items() if name not in raw}}


def _third(raw: Raw) -> Raw:
    """Version 3 says of the data what was found, used and left out for which reason, and the classes in their order."""
    data = raw.get("data")
    if not isinstance(data, dict):
        return raw
    return {**raw, "data": {"account": {}, "class_names": [], **data}}


def _fourth(raw: Raw) -> Raw:
    """Version 4 says what images went through before the encoder, where that is known from, and checksums of the weights.

    Of the data it says what a look before the first step saw, of the encoder where its architecture is known from.
    """
    data = raw.get("data")
    looked = {"data": {"looked": [], **data}} if isinstance(data, dict) else {}
    return {"preprocessing": None, "exports": {}, **raw, **looked}


_NEXT: dict[int, Callable[[Raw], Raw]] = {1: _second, 2: _third, 3: _fourth}
