"""What a pre-training is to the tables of ablations: its settings, and which of them its recipe changes.

Exports and records carry it as ``pretraining``. How recipes are read is in `recipes`, which rows it fills in `tables`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mae_bench.recipes.load import as_dict, find
from mae_bench.recipes.protocol_files import find_row
from tasks.recipe import Recipe

_SECTIONS = ("mae", "augmentation")
_KEYS = ("schedule.epochs", "data.name", "encoder.arch")
COUNTS = (
    "images",
    "flops_per_image",
)  # what a run adds: its training images, and a step's FLOPs (`mae_bench.engine.flops`)


def settings(recipe: Recipe) -> dict[str, Any]:
    """What ablations are about, by dotted key: ``mae.*``, ``augmentation.*``, schedule length, data and architecture."""
    flat = _flatten(as_dict(recipe))
    return {k: v for k, v in flat.items() if k.split(".")[0] in _SECTIONS or k in _KEYS}


def describe_pretraining(recipe: Recipe, default: Recipe) -> dict[str, Any]:
    """``{"settings": …, "changed": [dotted keys]}`` of a pre-training, for exports and records.

    Args:
        default: what the recipe is compared with (`default_recipe_name`), under the same overrides:
            they change the default, not the row.
    """
    own, theirs = settings(recipe), settings(default)
    return {"settings": own, "changed": sorted(k for k in own.keys() | theirs.keys() if own.get(k) != theirs.get(k))}


def default_recipe_name(recipe_name: str, base: str | None = None) -> str:
    """The recipe that one is compared with: `base`, or a ``default`` beside it (row or file), or itself."""
    if base is not None:
        return base
    if recipe_name.endswith((".yaml", ".yml")):
        beside = find("recipe", recipe_name).with_name("default.yaml")
        return str(beside) if beside.is_file() else recipe_name
    default = f"{recipe_name.rpartition('/')[0]}/default"
    return recipe_name if find_row(default) is None else default


def pretraining_from_metadata(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a checkpoint's metadata says of its pre-training, None when it says nothing that can be used."""
    said = metadata.get("pretraining")
    if not isinstance(said, Mapping):
        return None
    flat, changed = said.get("settings"), said.get("changed")
    if not isinstance(flat, Mapping) or not isinstance(changed, list) or not all(isinstance(k, str) for k in changed):
        return None
    counts = {key: said[key] for key in COUNTS if isinstance(said.get(key), int)}
    return {"settings": dict(flat), "changed": list(changed), **counts}


def _flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
