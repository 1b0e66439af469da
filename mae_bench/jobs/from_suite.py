"""Suites: YAML under ``configs/suites`` that says which recipes run from which starts. What jobs that makes is in `planning`.

A suite (``configs/suites/NAME.yaml``) has these keys, all but `title` optional:
    title      what it is, for `mae-bench list suites`
    include    other suites, whose jobs come first
    pretrain   pre-training recipes: one, or a list of names or of {recipe: NAME, base: NAME} (the rows of an ablation);
               without --checkpoint, every job that starts from a checkpoint is planned for each of its architecture
    pretrain_seeds  seeds of each pre-training; --pretrain-seeds comes before it
    base       recipe to put under those of `pretrain`, in place of the base that their files name
    set        overrides as ``--set`` takes them, which the command line's own come after
    seeds      seeds of each job; --seeds comes before it
    jobs       pairs of recipe and starts. A start is ``scratch``, ``checkpoint``, or a recipe of the suite: the model that
               its job gave (a checkpoint of the command line that has a classification head takes its place)
    speed      architectures to measure pre-training steps of (Table 2)
    tables     what to print at the end
    missing    what a table has and this suite does not, a text each; said with the plan
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from backbones.errors import UserError, unknown
from mae_bench.recipes.load import find, load_recipe, read_yaml, recipe_hash, suite_names
from mae_bench.recipes.options import Loaded, Options, check_used, load_recipes
from mae_bench.recipes.pretraining import default_name, describe_pretraining
from tasks.recipe import Recipe

STARTS = ("scratch", "checkpoint")
KEYS = (
    *("title", "include", "pretrain", "pretrain_seeds", "base", "set", "seeds", "jobs", "speed", "tables", "missing"),
)


@dataclass(frozen=True)
class Entry:
    """A recipe and where it starts; `pretraining` (see `ablations`) where the recipe is one."""

    recipe_name: str
    recipe: Recipe
    start: str  # scratch | checkpoint | a recipe of the same group
    pretraining: dict[str, Any] | None = None


@dataclass
class Group:
    """What one suite file says by itself."""

    entries: list[Entry]
    pretrainings: list[Entry] = field(default_factory=list)


@dataclass
class Plan:
    """All entries of a run by group, the tables to print at the end, and what is to be said of it."""

    groups: list[Group] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    speed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def entries(self) -> list[Entry]:
        return [e for group in self.groups for e in group.entries]

    @property
    def pretrainings(self) -> list[Entry]:
        return [p for group in self.groups for p in group.pretrainings]

    def __add__(self, other: Plan) -> Plan:
        def both(mine: list[str], theirs: list[str]) -> list[str]:
            return list(dict.fromkeys([*mine, *theirs]))

        return Plan(
            self.groups + other.groups,
            both(self.tables, other.tables),
            both(self.speed, other.speed),
            both(self.missing, other.missing),
        )


def from_suite(name: str, options: Options, *, pretrain: bool) -> Plan:
    """The plan of a suite; `pretrain` False leaves its pre-trainings out (a checkpoint was given).

    Raises:
        UserError: a mistake in the file, or a --data or --set that no recipe of the suite has a use for.
    """
    plan = _read(name, options, pretrain=pretrain, seen=())
    check_used(options, [e.recipe for e in (*plan.entries, *plan.pretrainings)])
    return plan


def _read(name: str, options: Options, *, pretrain: bool, seen: tuple[Path, ...]) -> Plan:
    path = find("suite", name)
    if path in seen:
        raise UserError(f"{path}: include: leads back to itself")
    content = read_yaml(path)
    for key in content:
        if key not in KEYS:
            raise unknown("key", key, KEYS, where=str(path))
    plan = Plan()
    for other in _strings(content, "include", path):
        beside = path.parent / f"{other}.yaml"
        other = str(beside) if beside.is_file() and other not in suite_names() else other
        plan += _read(other, options, pretrain=pretrain, seen=(*seen, path))
    own = Plan(
        [_group(content, path, options, pretrain=pretrain)],
        *(_strings(content, key, path) for key in ("tables", "speed", "missing")),
    )
    return plan + own


def _group(content: Mapping[str, Any], path: Path, options: Options, *, pretrain: bool) -> Group:
    items = list(_jobs(content, path))
    rows = _rows(content, path) if pretrain else []
    options = replace(options, preset=_strings(content, "set", path))
    recipes = load_recipes([r for r, _ in items], options)
    seeds = options.seeds if options.seeds is not None else _seeds(content, "seeds", path)
    pretrain_seeds = (
        options.pretrain_seeds if options.pretrain_seeds is not None else _seeds(content, "pretrain_seeds", path)
    )
    return Group(
        entries=[e for r, start in items for e in seeded(r, recipes[r][0], start, seeds)],
        pretrainings=_pretrainings(rows, options, pretrain_seeds),
    )


def _jobs(content: Mapping[str, Any], path: Path) -> Sequence[tuple[str, str]]:
    """(recipe, start) of every job."""
    jobs = content.get("jobs") or []
    if not isinstance(jobs, list) or not all(isinstance(j, dict) and j.keys() == {"recipe", "init"} for j in jobs):
        raise UserError(f"{path}: jobs: give a list of {{recipe: NAME, init: [scratch, checkpoint]}}")
    names = [job["recipe"] for job in jobs]
    items = [(job["recipe"], start) for job in jobs for start in _strings(job, "init", path)]
    for _, start in items:
        if start not in (*STARTS, *names):
            raise unknown("init", start, (*STARTS, *names), where=str(path))
    return items


def _strings(content: Mapping[str, Any], key: str, path: Path) -> list[str]:
    """A suite's key that holds a text or a list of them."""
    value = content.get(key) or []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{path}: {key}: give a text or a list of texts")
    return texts


def _seeds(content: Mapping[str, Any], key: str, path: Path) -> list[int] | None:
    value = content.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(type(seed) is int for seed in value):
        raise UserError(f"{path}: {key}: give a list of whole numbers, such as [0, 1, 2]")
    return value


def _rows(content: Mapping[str, Any], path: Path) -> list[tuple[str, str | None]]:
    """(recipe, base) of every pre-training."""
    value = content.get("pretrain") or []
    rows: list[tuple[str, str | None]] = []
    items = [value] if isinstance(value, str) else value
    for item in items if isinstance(items, list) else [None]:
        if isinstance(item, str):
            rows.append((item, content.get("base")))
        elif isinstance(item, dict) and item.keys() <= {"recipe", "base"} and "recipe" in item:
            rows.append((str(item["recipe"]), item.get("base", content.get("base"))))
        else:
            raise UserError(f"{path}: pretrain: give a text or a list of texts or of {{recipe: NAME, base: NAME}}")
    return rows


def _pretrainings(rows: Sequence[tuple[str, str | None]], options: Options, seeds: Sequence[int] | None) -> list[Entry]:
    """Entries of the rows, each once: under a base whose value it is, a row is the default and need not run again."""
    entries: dict[tuple[str, int], Entry] = {}
    defaults: dict[tuple[str, ...], Recipe] = {}
    for row, base in rows:
        loaded: Loaded = load_recipes([row], options, {row: base})
        recipe, overrides = loaded[row]
        default = default_name(row, base)
        key = (default, *overrides)
        defaults[key] = defaults.get(key) or load_recipe(default, overrides)
        described = describe_pretraining(recipe, defaults[key])
        for entry in seeded(row, recipe, "scratch", seeds):
            key_of_entry = (recipe_hash(entry.recipe), entry.recipe.seed)
            entries.setdefault(key_of_entry, replace(entry, pretraining=described))
    return list(entries.values())


def seeded(name: str, recipe: Recipe, start: str, seeds: Sequence[int] | None) -> list[Entry]:
    """An entry for each seed; None means the recipe's own."""
    return [Entry(name, _with_seed(recipe, s), start) for s in (seeds if seeds is not None else [recipe.seed])]


def _with_seed(recipe: Recipe, seed: int) -> Recipe:
    return replace(deepcopy(recipe), seed=seed)
