"""What a pre-training is to the tables of ablations: its settings, and which of them its recipe changes.

Exports and records carry it as ``pretraining``. How recipes are read is in `recipes`, which rows it fills in `tables`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mae_bench.recipes import as_dict, find, load_recipe
from tasks.recipe import Recipe

_SECTIONS = ("mae", "augmentation")
_KEYS = ("schedule.epochs", "data.name", "encoder.arch")
COUNTS = ("images", "flops_per_image")  # what a run adds: its training images, and a step's FLOPs (`mae_bench.flops`)


def settings(recipe: Recipe) -> dict[str, Any]:
    """What ablations are about, by dotted key: ``mae.*``, ``augmentation.*``, schedule length, data and architecture."""
    flat = _flatten(as_dict(recipe))
    return {k: v for k, v in flat.items() if k.split(".")[0] in _SECTIONS or k in _KEYS}


def describe_pretraining(
    name: str, recipe: Recipe, overrides: Sequence[str] = (), *, base: str | None = None
) -> dict[str, Any]:
    """``{"settings": …, "changed": [dotted keys]}`` of a pre-training `recipe`, for exports and records.

    ``changed`` is against `base`; without one against ``default.yaml`` beside the recipe's file, which is what the rows of an
    ablation are compared with; a recipe that has neither is a default itself. Overrides hold for both sides: they change the
    default, not the row.
    """
    own, theirs = settings(recipe), settings(load_recipe(base or reference(name), overrides))
    return {"settings": own, "changed": sorted(k for k in own.keys() | theirs.keys() if own.get(k) != theirs.get(k))}


def reference(name: str) -> str:
    """The recipe that a row of an ablation is compared with when it is run by itself."""
    beside = find("recipe", name).with_name("default.yaml")
    return str(beside) if beside.is_file() else name


def said_of(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
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
