"""What to run: suites (YAML under ``configs/suites``) and task lists become jobs; how a job runs is in `jobs`.

A suite (``configs/suites/NAME.yaml``) has these keys:
    title      what it is, for `mae-bench list suites`
    pretrain   a pre-training recipe, or a list of them (the rows of an ablation); may be left out
    base       recipe to put under those of `pretrain`, in place of the base that their files name
    set        overrides as ``--set`` takes them, which the command line's own come after
    jobs       pairs of recipe and starts; ``checkpoint`` as a start means the one given on the command line, or what each
               of the suite's own pre-trainings gave
    tables     what to print at the end
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from backbones.errors import UserError, unknown
from mae_bench.ablations import default_name, describe_pretraining
from mae_bench.recipes import describe, find, load_recipe, read_yaml, recipe_hash, recipe_names, short_name
from mae_bench.tables.counting import bare
from mae_bench.tables.data_sets import TRANSFER
from tasks import require
from tasks.recipe import Recipe

STARTS = ("scratch", "checkpoint")
KEYS = ("title", "pretrain", "base", "set", "jobs", "tables")
TABLES = {
    "finetune": "table3",
    "scratch": "table3",
    "linear": "table12",
    "partial": "fig9",
    "knn": "knn",
    "robustness": "table13",
    "detection": "table4",
    "segmentation": "table5",
}


@dataclass(frozen=True)
class Entry:
    """A recipe and where it starts; `pretraining` (see `ablations`) where the recipe is one."""

    recipe_name: str
    recipe: Recipe
    start: str  # scratch | checkpoint
    pretraining: dict[str, Any] | None = None


@dataclass
class Plan:
    """All entries of a run, the tables to print at the end, and the pre-trainings that entries start from, if any."""

    entries: list[Entry]
    pretrainings: list[Entry] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)

    def variant(self, pretraining: Entry | None) -> str:
        """What tells this pre-training's jobs from the others'; empty where there is but one."""
        return short_name(pretraining.recipe_name) if pretraining and len(self.pretrainings) > 1 else ""


@dataclass(frozen=True)
class Options:
    """What the command line says for every recipe."""

    data: Mapping[str, str] = field(default_factory=dict)  # name -> folder; "" holds for all
    overrides: Sequence[str] = ()  # key=value, or protocol:key=value
    seeds: Sequence[int] | None = None  # None: the recipe's own
    preset: Sequence[str] = ()  # a suite's own overrides, before those of the command line


Loaded = dict[str, tuple[Recipe, list[str]]]  # name -> the recipe, and the overrides that it took


def from_suite(name: str, options: Options, *, pretrain: bool) -> Plan:
    """The plan of a suite; `pretrain` False leaves its pre-trainings out (a checkpoint was given)."""
    path = find("suite", name)
    content = read_yaml(path)
    for key in content:
        if key not in KEYS:
            raise unknown("key", key, KEYS, where=str(path))
    items = []
    for item in content.get("jobs") or []:
        for start in item["init"]:
            if start not in STARTS:
                raise unknown("init", start, STARTS, where=str(path))
            items.append((item["recipe"], start))
    rows = _strings(content, "pretrain", path) if pretrain else []
    base = content.get("base")
    options = replace(options, preset=_strings(content, "set", path))
    recipes = _load([r for r, _ in items] + rows, options, dict.fromkeys(rows, base))
    return Plan(
        entries=[e for r, start in items for e in _seeded(r, recipes[r][0], start, options.seeds)],
        pretrainings=_pretrainings(rows, recipes, base),
        tables=list(content.get("tables") or []),
    )


def _strings(content: Mapping[str, Any], key: str, path: Path) -> list[str]:
    """A suite's key that holds a text or a list of them."""
    value = content.get(key) or []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{path}: {key}: give a text or a list of texts")
    return texts


def _pretrainings(rows: Sequence[str], recipes: Loaded, base: str | None) -> list[Entry]:
    """Entries of the rows, each once: under a base whose value it is, a row is the default and need not run again."""
    entries: dict[tuple[str, int], Entry] = {}
    defaults: dict[tuple[str, ...], Recipe] = {}
    for row in rows:
        recipe, overrides = recipes[row]
        default = default_name(row, base)
        key = (default, *overrides)
        defaults[key] = defaults.get(key) or load_recipe(default, overrides)
        entry = Entry(row, recipe, "scratch", describe_pretraining(recipe, defaults[key]))
        entries.setdefault((recipe_hash(recipe), recipe.seed), entry)
    return list(entries.values())


def from_tasks(tasks: Sequence[str], arch: str, start: str, options: Options) -> Plan:
    """The plan of ``--tasks``: protocols (the recipe is chosen by architecture and data) or recipe names."""
    names = [name for task in tasks for name in _choose(task, arch, options.data)]
    recipes = _load(names, options)
    entries = [e for n in names for e in _seeded(n, recipes[n][0], start, options.seeds)]
    tables = dict.fromkeys(table for e in entries if (table := table_of(e.recipe)))
    return Plan(entries, tables=list(tables))


def table_of(recipe: Recipe) -> str | None:
    """The table that shows a recipe's runs; None where there is none."""
    table = TABLES.get(recipe.protocol())
    if table != "table3":
        return table
    if recipe.data.label_share or recipe.data.label_list:
        return "lowshot"
    return "table6" if bare(recipe.data.name) in {data.name for data in TRANSFER} else table


def _seeded(name: str, recipe: Recipe, start: str, seeds: Sequence[int] | None) -> list[Entry]:
    return [Entry(name, _with_seed(recipe, s), start) for s in (seeds if seeds is not None else [recipe.seed])]


def _with_seed(recipe: Recipe, seed: int) -> Recipe:
    return replace(deepcopy(recipe), seed=seed)


def _choose(task: str, arch: str, data: Mapping[str, str]) -> list[str]:
    """The shipped recipes of protocol `task` for `arch`, one for each data set that was given."""
    if "/" in task or task.endswith((".yaml", ".yml")):
        find("recipe", task)
        return [task]
    folders = {n.split("/")[0] for n in recipe_names()} - {"pretrain"}
    if task not in folders:
        raise unknown("task", task, folders, where="--tasks")
    fitting = [d for n in recipe_names() if n.startswith(f"{task}/") and (d := describe(n))["arch"] == arch]
    if not fitting:
        raise UserError(f"no shipped {task} recipe for {arch}: give one by name, `mae-bench list recipes` shows them")
    named = [d for d in fitting if d["data"] in data]
    chosen = _defaults(task, arch, named or [d for d in fitting if "" in data or d["data"] == "embedded"])
    if not chosen:
        wanted = " or ".join(f"--data {name}=DIR" for name in dict.fromkeys(d["data"] for d in fitting))
        raise UserError(f"task {task} for {arch} needs data: give {wanted}")
    if len(chosen) > 1 and (not named or len({d["data"] for d in named}) < len(chosen)):
        raise UserError(
            f"several {task} recipes fit {arch}: name the data set (--data NAME=DIR), or give one in --tasks of "
            f"{', '.join(chosen)}"
        )
    return chosen


def _defaults(task: str, arch: str, recipes: Sequence[Mapping[str, str]]) -> list[str]:
    """Of several recipes for one data set the one that bears nothing but its name, such as ``finetune/ARCH_imagenet``."""
    names = {r["name"] for r in recipes}
    default = {r["data"]: f"{task}/{arch}_{r['data']}" for r in recipes}
    return [r["name"] for r in recipes if default[r["data"]] == r["name"] or default[r["data"]] not in names]


def _load(names: Sequence[str], options: Options, bases: Mapping[str, str | None] | None = None) -> Loaded:
    """Recipes by name, with bases, data folders and overrides in place; every flag must have found its recipe."""
    loaded: Loaded = {}
    for name in dict.fromkeys(names):
        base = (bases or {}).get(name)
        recipe = load_recipe(name, base=base)
        texts = [*options.preset, *options.overrides]
        overrides = [rest for scope, rest in map(_scoped, texts) if scope in ("", recipe.protocol())]
        if overrides:
            recipe = load_recipe(name, overrides, base=base)
        require(recipe.task)
        folder = options.data.get(recipe.data.name, options.data.get(""))
        if folder is not None:
            recipe = deepcopy(recipe)
            recipe.data.root = folder
        loaded[name] = recipe, overrides
    _check_used(options, [recipe for recipe, _ in loaded.values()])
    return loaded


def _scoped(text: str) -> tuple[str, str]:
    """``protocol:key=value`` as (protocol, key=value); the protocol is empty where none is given."""
    scope, separator, rest = text.partition(":")
    return (scope, rest) if separator and "=" not in scope else ("", text)


def _check_used(options: Options, recipes: Sequence[Recipe]) -> None:
    known = {r.data.name for r in recipes}
    for name in options.data:
        if name and name not in known:
            raise unknown("data set", name, known, where="--data")
    protocols = {r.protocol() for r in recipes}
    for text in options.overrides:
        if (scope := _scoped(text)[0]) and scope not in protocols:
            raise unknown("protocol", scope, protocols, where=f"--set {text}")


def parse_data(items: Sequence[str]) -> dict[str, str]:
    """``NAME=DIR`` (or a bare ``DIR``, for every recipe) as a mapping."""
    parsed = {}
    for item in items:
        name, separator, folder = item.partition("=")
        parsed[name if separator else ""] = str(Path(folder if separator else item).expanduser().resolve())
    return parsed
