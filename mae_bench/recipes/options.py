"""What the command line says for all recipes of a run (data folders, overrides, seeds), and recipes loaded under it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

from backbones.checkpoints.hub import PLAIN, SCHEMES
from backbones.errors import UserError, unknown
from backbones.vit.arch import parse_arch
from mae_bench.recipes.load import load_recipe
from tasks.recipe import Recipe


@dataclass(frozen=True)
class Options:
    """What the command line says for every recipe."""

    data: Mapping[str, str] = field(default_factory=dict)  # name -> folder; "" holds for all
    overrides: Sequence[str] = ()  # key=value, or protocol:key=value
    seeds: Sequence[int] | None = None  # None: the suite's, else the recipe's own
    pretrain_seeds: Sequence[int] | None = None
    preset: Sequence[str] = ()  # a suite's own overrides, before those of the command line


Loaded = dict[str, tuple[Recipe, list[str]]]  # name -> the recipe, and the overrides that it took


def load_recipes(names: Sequence[str], options: Options, bases: Mapping[str, str | None] | None = None) -> Loaded:
    """Recipes by name, with bases, data folders and overrides in place; whether every flag is of use is `check_used`'s."""
    loaded: Loaded = {}
    for name in dict.fromkeys(names):
        base = (bases or {}).get(name)
        recipe = load_recipe(name, base=base)
        overrides = overrides_of(options, recipe.protocol)
        if overrides:
            recipe = load_recipe(name, overrides, base=base)
        folder = options.data.get(recipe.data.name, options.data.get(""))
        if folder is not None:
            recipe = deepcopy(recipe)
            recipe.data.root = folder
        loaded[name] = recipe, overrides
    return loaded


def overrides_of(options: Options, protocol: str) -> list[str]:
    """Those that hold for recipes of a protocol, without their scope."""
    texts = [*options.preset, *options.overrides]
    return [rest for scope, rest in map(_scoped, texts) if scope in ("", protocol)]


def _scoped(text: str) -> tuple[str, str]:
    """``protocol:key=value`` as (protocol, key=value); the protocol is empty where none is given."""
    scope, separator, rest = text.partition(":")
    return (scope, rest) if separator and "=" not in scope else ("", text)


def check_used(options: Options, recipes: Sequence[Recipe]) -> None:
    """Every --data and --set of the command line must have found a recipe."""
    known = {r.data.name for r in recipes}
    for name in options.data:
        if name and name not in known:
            raise unknown("data set", name, known, where="--data")
    protocols = {r.protocol for r in recipes}
    for text in options.overrides:
        if (scope := _scoped(text)[0]) and scope not in protocols:
            raise unknown("protocol", scope, protocols, where=f"--set {text}")


def parse_data(items: Sequence[str]) -> dict[str, str]:
    """``NAME=DIR`` (or a bare ``DIR``, for every recipe) as a mapping.

    Raises:
        UserError: a name without folder or the other way round, or a name that is given twice.
    """
    parsed: dict[str, str] = {}
    for item in items:
        name, folder = named_path("--data", item)
        if name in parsed:
            raise UserError(f"--data {item}: {f'{name} is' if name else 'a folder for every recipe is'} given twice")
        parsed[name] = str(Path(folder).expanduser().resolve())
    return parsed


def named_path(flag: str, item: str) -> tuple[str, str]:
    """Name and path of ``NAME=PATH``; no name where the whole is a path or a scheme's (``timm:…``).

    Raises:
        UserError: nothing before or after ``=``.
    """
    name, separator, path = item.partition("=")
    if not separator or "/" in name or item.startswith(SCHEMES) or os.path.exists(os.path.expanduser(item)):
        return "", item
    if not name or not path:
        raise UserError(
            f"{flag} {item}: no such path, and no NAME=PATH either: the {'path' if name else 'name'} is missing"
        )
    return name, path


def with_arch(item: str, arch: str | None) -> str:
    """A checkpoint, ``[NAME=]FILE``, as the weights of ``--arch timm:NAME`` or of a plain ViT's name; as it is without.

    Raises:
        UserError: `arch` is no such name, or the checkpoint names one already.
    """
    if arch is None:
        return item
    label, source = named_path("--checkpoint", item)
    if not arch.startswith("timm:"):
        _check_plain(arch)
        arch = f"{PLAIN}{arch}"
    if "=" in arch:
        raise UserError(f"--arch {arch}: give a name alone, such as timm:vit_so400m_patch14_siglip_224")
    if source.startswith(SCHEMES):
        raise UserError(f"--arch {arch}: {source} says its model already: leave --arch out")
    return f"{label}={arch}={source}" if label else f"{arch}={source}"


def _check_plain(arch: str) -> None:
    try:
        parse_arch(arch)
    except UserError as e:
        raise UserError(f"--arch: {e}; or timm:NAME, such as timm:vit_so400m_patch14_siglip_224") from e
