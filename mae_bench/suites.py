"""What to run: suites (YAML under ``configs/suites``) and task lists become jobs; how a job runs is in `jobs`.

A suite names an optional pre-training recipe and pairs of recipe and start. ``checkpoint`` as a start means the one given on
the command line, or what the suite's own pre-training gave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from backbones.errors import UserError, unknown
from mae_bench.recipes import describe, find, load_recipe, read_yaml, recipe_names
from tasks import require
from tasks.recipe import Recipe

STARTS = ("scratch", "checkpoint")
TABLES = {"finetune": "table3", "detection": "table4", "segmentation": "table5", "linear": "table12"}


@dataclass(frozen=True)
class Entry:
    """A recipe and where it starts."""

    recipe_name: str
    recipe: Recipe
    start: str  # scratch | checkpoint


@dataclass
class Plan:
    """All entries of a run, its pre-training first when it has one, and the tables to print at the end."""

    entries: list[Entry]
    pretrain: Entry | None = None
    tables: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Options:
    """What the command line says for every recipe."""

    data: Mapping[str, str] = field(default_factory=dict)  # name -> folder; "" holds for all
    overrides: Sequence[str] = ()  # key=value, or protocol:key=value
    seeds: Sequence[int] | None = None  # None: the recipe's own


def from_suite(name: str, options: Options, *, pretrain: bool) -> Plan:
    """The plan of a suite; `pretrain` False leaves its pre-training out (a checkpoint was given)."""
    path = find("suite", name)
    content = read_yaml(path)
    for key in content:
        if key not in ("title", "pretrain", "jobs", "tables"):
            raise unknown("key", key, ["title", "pretrain", "jobs", "tables"], where=str(path))
    items = []
    for item in content.get("jobs") or []:
        for start in item["init"]:
            if start not in STARTS:
                raise unknown("init", start, STARTS, where=str(path))
            items.append((item["recipe"], start))
    first = content.get("pretrain") if pretrain else None
    recipes = _load([r for r, _ in items] + ([first] if first else []), options)
    return Plan(
        entries=[e for r, start in items for e in _seeded(r, recipes[r], start, options.seeds)],
        pretrain=Entry(first, recipes[first], "scratch") if first else None,
        tables=list(content.get("tables") or []),
    )


def from_tasks(tasks: Sequence[str], arch: str, start: str, options: Options) -> Plan:
    """The plan of ``--tasks``: protocols (the recipe is chosen by architecture and data) or recipe names."""
    names = [_choose(task, arch, options.data) for task in tasks]
    recipes = _load(names, options)
    entries = [e for n in names for e in _seeded(n, recipes[n], start, options.seeds)]
    tables = [TABLES[p] for p in dict.fromkeys(e.recipe.protocol() for e in entries) if p in TABLES]
    return Plan(entries, tables=tables)


def _seeded(name: str, recipe: Recipe, start: str, seeds: Sequence[int] | None) -> list[Entry]:
    return [Entry(name, _with_seed(recipe, s), start) for s in (seeds if seeds is not None else [recipe.seed])]


def _with_seed(recipe: Recipe, seed: int) -> Recipe:
    return replace(deepcopy(recipe), seed=seed)


def _choose(task: str, arch: str, data: Mapping[str, str]) -> str:
    """A shipped recipe of protocol `task` for `arch` and the data that were given."""
    if "/" in task or task.endswith((".yaml", ".yml")):
        find("recipe", task)
        return task
    folders = {n.split("/")[0] for n in recipe_names()} - {"pretrain"}
    if task not in folders:
        raise unknown("task", task, folders, where="--tasks")
    fitting = [d for n in recipe_names() if n.startswith(f"{task}/") and (d := describe(n))["arch"] == arch]
    named = [d["name"] for d in fitting if d["data"] in data]
    chosen = named or [d["name"] for d in fitting if "" in data or d["data"] == "embedded"]
    if len(chosen) == 1:
        return chosen[0]
    if not fitting:
        raise UserError(f"no shipped {task} recipe for {arch}: give one by name, `mae-bench list recipes` shows them")
    if chosen:
        raise UserError(f"several {task} recipes fit {arch}: give one of {', '.join(chosen)} in --tasks")
    wanted = " or ".join(f"--data {d['data']}=DIR" for d in fitting)
    raise UserError(f"task {task} for {arch} needs data: give {wanted}")


def _load(names: Sequence[str], options: Options) -> dict[str, Recipe]:
    """Recipes by name, with data folders and overrides in place; every flag must have found its recipe."""
    loaded = {}
    used: set[str] = set()
    for name in dict.fromkeys(names):
        protocol = load_recipe(name).protocol()
        overrides = []
        for text in options.overrides:
            scope, separator, rest = text.partition(":")
            scoped = bool(separator) and "=" not in scope
            if not scoped or scope == protocol:
                used.add(text)
                overrides.append(rest if scoped else text)
        recipe = load_recipe(name, overrides)
        require(recipe.task)
        folder = options.data.get(recipe.data.name, options.data.get(""))
        if folder is not None:
            recipe = deepcopy(recipe)
            recipe.data.root = folder
        loaded[name] = recipe
    _check_used(options, loaded.values(), used)
    return loaded


def _check_used(options: Options, recipes: Any, used: set[str]) -> None:
    recipes = list(recipes)
    known = {r.data.name for r in recipes}
    for name in options.data:
        if name and name not in known:
            raise unknown("data set", name, known, where="--data")
    for text in options.overrides:
        if text not in used:
            raise unknown("protocol", text.partition(":")[0], {r.protocol() for r in recipes}, where=f"--set {text}")


def parse_data(items: Sequence[str]) -> dict[str, str]:
    """``NAME=DIR`` (or a bare ``DIR``, for every recipe) as a mapping."""
    parsed = {}
    for item in items:
        name, separator, folder = item.partition("=")
        parsed[name if separator else ""] = str(Path(folder if separator else item).expanduser().resolve())
    return parsed
