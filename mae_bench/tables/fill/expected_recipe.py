"""Whether a record's recipe is the one that its cell stands for, by what the recipe holds, whatever it is called.

A record of another recipe of the same protocol never stands beside a published figure: it gets a column of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any

from mae_bench.recipes.load import as_dict, load_recipe, recipe_names, short_name
from mae_bench.records.record import Record

# What a recipe learns by; data and encoder are the column's.
_SECTIONS = ("head", "optimizer", "schedule", "augmentation")
_KEYS = ("encoder.drop_path", "train.batch_size", "train.ema")
_MUCH = 6  # differences that are named


def differences(record: Record, expected: str | None, leaves_open: Collection[str] = ()) -> tuple[str, ...]:
    """``("augmentation.erasing 0.25 (0)", …)``: values of a record against those of the shipped recipe `expected`, but for the
    keys that it `leaves_open`.

    Nothing where no such recipe ships or where nothing was trained. Keys that only one of them has are not compared: a
    record of an earlier version lacks some.
    """
    if expected is None or (wanted := _shipped(expected)) is None:
        return ()
    ours = _flat(record.recipe)
    if ours.get("schedule.iterations") == 0:
        return ()
    return tuple(
        f"{key} {_text(ours[key])} ({_text(value)})"
        for key, value in wanted.items()
        if key in ours and ours[key] != value and key not in leaves_open
    )


def label(record: Record) -> str:
    """``vit_large_patch16_imagenet (0123abcd)``: what heads the columns of another recipe."""
    return f"{short_name(record.recipe_name)} ({record.recipe_hash[:8]})"


def note(heading: str, expected: str, found: Iterable[str]) -> str:
    """Why a column of another recipe stands apart."""
    found = list(found)
    more = f" and {len(found) - _MUCH} more" if len(found) > _MUCH else ""
    return f"{heading}: not the recipe of the paper's column, {expected}, whose values are in brackets: " + (
        ", ".join(found[:_MUCH]) + more
    )


@lru_cache(maxsize=64)
def _shipped(name: str) -> Mapping[str, Any] | None:
    return _flat(as_dict(load_recipe(name))) if name in recipe_names() else None


def _flat(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that are compared, dotted."""
    sections = {name: value for name, value in recipe.items() if isinstance(value, Mapping)}
    flat = {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}
    return {key: value for key, value in flat.items() if key.split(".")[0] in _SECTIONS or key in _KEYS}


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
