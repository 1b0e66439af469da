"""Published figures as recipes name them: a key of ``published.yaml`` becomes the figure with words around it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

from backbones.errors import UserError
from mae_bench.common.yaml_file import parse_yaml

_FILE = "tables/definitions/published.yaml"  # beside the definitions that print it


@lru_cache(maxsize=1)
def load() -> dict[str, Any]:
    """The whole file; keys `sources` and `tables`."""
    text = resources.files("mae_bench").joinpath(_FILE).read_text("utf-8")
    return dict(parse_yaml(text, _FILE))


def cite(text: str) -> str:
    """`text` with its figures put in.

    A text that is nothing but a key (``mae_t6/iNat 2018/ViT-B``) becomes the words that its table is cited with (`cited_as`),
    in any other one ``{mae_t6/iNat 2018/ViT-B}`` stands for the figure alone. Text that names no table of ours stays.

    Raises:
        UserError: a key that names no verified figure of its table.
    """
    if _is_key(text):
        return _in_words(text)
    return re.sub(r"\{([^{}]+)\}", lambda m: _figure(m[1]) if _is_key(m[1]) else m[0], text)


def _is_key(text: str) -> bool:
    table, separator, _ = text.partition("/")
    return bool(separator) and table in load()["tables"]


def _figure(key: str) -> str:
    _, row, column = _find(key)
    if column is None or row["values"].get(column) is None:
        raise UserError(f"published.yaml: {key} names no figure: give TABLE/ROW/COLUMN")
    return str(row["values"][column])


def _in_words(key: str) -> str:
    table, row, column = _find(key)
    words = row.get("cited_as", table.get("cited_as"))
    if words is None:
        raise UserError(f"published.yaml: {key.partition('/')[0]} has no cited_as: write {{{key}}} into a text")
    return re.sub(r"\{([^{}]*)\}", lambda m: str(row["values"][m[1] or column]), words)


def _find(key: str) -> tuple[Mapping[str, Any], Mapping[str, Any], str | None]:
    """(table, row, column or None) of ``TABLE/ROW/…``: what follows a row's name picks a column, or one of namesakes."""
    name, _, rest = key.partition("/")
    table = load()["tables"][name]
    rows = [r for r in table["rows"] if r.get("verified") is True and f"{rest}/".startswith(f"{r['row']}/")]
    longest = max((len(str(r["row"])) for r in rows), default=0)
    rows = [r for r in rows if len(str(r["row"])) == longest]
    column = None
    for part in filter(None, rest[longest:].split("/")):
        if part in table["columns"]:
            column = part
        else:
            rows = [r for r in rows if part in map(str, r["values"].values())]
    if len(rows) != 1:
        raise UserError(f"published.yaml: {key} names {'no' if not rows else 'more than one'} verified row")
    return table, rows[0], column
