"""Suites: YAML under ``configs/suites`` that says which recipes run from which starts. What jobs that makes is in `plan`.

A suite (``configs/suites/NAME.yaml``) has these keys, all but `title` optional:
    title      what it is, for `mae-bench list suites`
    include    other suites, whose jobs come first
    pretrain   pre-training recipes: one, or a list of names or of {recipe: NAME, base: NAME} (the rows of an ablation);
               without --checkpoint, every job that starts from a checkpoint is planned for each of its architecture
    checkpoints  encoders, as ``--checkpoint`` takes them, that the same jobs start from beside the pre-trainings; the command
               line's own take the place of both
    pretrain_seeds  seeds of each pre-training; --pretrain-seeds comes before it
    base       recipe to put under those of `pretrain`, in place of the base that their files name
    set        overrides as ``--set`` takes them, which the command line's own come after
    seeds      seeds of each job; --seeds comes before it
    jobs       pairs of recipe and starts; a recipe may be a pattern (``robustness/vit_base_*``), here and in `pretrain`.
               A start is ``scratch``, ``checkpoint``, or a recipe of the suite: the model that
               its job gave (a checkpoint of the command line that has a classification head takes its place).
               ``after: [RECIPE]`` in a pair: of the suite's pre-trainings only these. ``methods: [NAME]``: encoders
               of these methods have it in place of the protocol's recipes that name none
    speed      architectures to measure pre-training steps of (Table 2)
    tables     what to print at the end
    notes      what to say with the plan and after the results, a text each: what a table has and this suite does not, …
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from backbones.errors import UserError, unknown
from mae_bench.common.yaml_file import read_yaml
from mae_bench.jobs.job import PlannedJob
from mae_bench.recipes.load import find, load_recipe, recipe_hash, suite_names
from mae_bench.recipes.options import Loaded, Options, check_used, load_recipes
from mae_bench.recipes.pretraining import default_recipe_name, describe_pretraining
from mae_bench.recipes.protocol_files import config_root, matching
from tasks.recipe import Recipe

STARTS = ("scratch", "checkpoint")
KEYS = (
    *("title", "include", "pretrain", "checkpoints", "pretrain_seeds", "base"),
    *("set", "seeds", "jobs", "speed", "tables", "notes"),
)


@dataclass
class SuiteFile:
    """What one suite file says by itself: jobs with their starts, and the pre-trainings that some of them start from."""

    jobs: list[PlannedJob]
    pretrainings: list[PlannedJob] = field(default_factory=list)


@dataclass
class Suite:
    """A suite with those that it includes, the tables to print at the end, and what is to be said of it."""

    files: list[SuiteFile] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    speed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checkpoints: list[str] = field(default_factory=list)

    @property
    def jobs(self) -> list[PlannedJob]:
        return [job for file in self.files for job in file.jobs]

    @property
    def pretrainings(self) -> list[PlannedJob]:
        return [p for file in self.files for p in file.pretrainings]

    def __add__(self, other: Suite) -> Suite:
        def both(mine: list[str], theirs: list[str]) -> list[str]:
            return list(dict.fromkeys([*mine, *theirs]))

        return Suite(
            self.files + other.files,
            both(self.tables, other.tables),
            both(self.speed, other.speed),
            both(self.notes, other.notes),
            both(self.checkpoints, other.checkpoints),
        )


def from_suite(name: str, options: Options, *, pretrain: bool) -> Suite:
    """A suite read and resolved; `pretrain` False leaves its pre-trainings and checkpoints out (one was given).

    Raises:
        UserError: a mistake in the file, or a --data or --set that no recipe of the suite has a use for.
    """
    suite = _read(name, options, pretrain=pretrain, seen=())
    check_used(options, [job.recipe for job in (*suite.jobs, *suite.pretrainings)])
    return suite


def _read(name: str, options: Options, *, pretrain: bool, seen: tuple[Path, ...]) -> Suite:
    path = find("suite", name)
    if path in seen:
        raise UserError(f"{path}: include: leads back to itself")
    content = read_yaml(path)
    for key in content:
        if key not in KEYS:
            raise unknown("key", key, KEYS, where=str(path))
    suite = Suite()
    for other in _strings(content, "include", path):
        beside = path.parent / f"{other}.yaml"
        other = str(beside) if beside.is_file() and other not in suite_names() else other
        suite += _read(other, options, pretrain=pretrain, seen=(*seen, path))
    own = Suite(
        [_file(content, path, options, pretrain=pretrain)],
        **{key: _strings(content, key, path) for key in ("tables", "speed", "notes")},
        checkpoints=_strings(content, "checkpoints", path) if pretrain else [],
    )
    return suite + own


def _file(content: Mapping[str, Any], path: Path, options: Options, *, pretrain: bool) -> SuiteFile:
    items = list(_jobs(content, path))
    rows = _rows(content, path) if pretrain else []
    options = replace(options, preset=_strings(content, "set", path))
    recipes = load_recipes([item.recipe for item in items], options)
    seeds = options.seeds if options.seeds is not None else _seeds(content, "seeds", path)
    pretrain_seeds = (
        options.pretrain_seeds if options.pretrain_seeds is not None else _seeds(content, "pretrain_seeds", path)
    )
    return SuiteFile(
        jobs=[
            replace(job, only_after=item.after, methods=item.methods)
            for item in items
            for job in seeded(item.recipe, recipes[item.recipe][0], item.start, seeds)
        ],
        pretrainings=_pretrainings(rows, options, pretrain_seeds),
    )


class _Item(NamedTuple):
    """A recipe with one start, and which pre-trainings and methods it is for (none: all)."""

    recipe: str
    start: str
    after: tuple[str, ...]
    methods: tuple[str, ...]


def _jobs(content: Mapping[str, Any], path: Path) -> Sequence[_Item]:
    """Every recipe of `jobs` with every start."""
    jobs = content.get("jobs") or []
    well_formed = isinstance(jobs, list) and all(
        isinstance(j, dict) and j.keys() - {"after", "methods"} == {"recipe", "init"} and isinstance(j["recipe"], str)
        for j in jobs
    )
    if not well_formed:
        raise UserError(f"{path}: jobs: give a list of {{recipe: NAME, init: [scratch, checkpoint]}}")
    names: list[str] = []
    items: list[_Item] = []
    rows = [name for name, _ in _rows(content, path)]
    for job in jobs:
        named = _named(job["recipe"], path, names)
        names += named
        after = tuple(_strings(job, "after", path))
        if other := next((name for name in after if name not in rows), None):
            raise unknown("after", other, rows, where=str(path))
        methods = tuple(_strings(job, "methods", path))
        items += [_Item(name, start, after, methods) for name in named for start in _strings(job, "init", path)]
    for item in items:
        if item.start not in (*STARTS, *names):
            raise unknown("init", item.start, (*STARTS, *names), where=str(path))
    return items


def _named(text: str, path: Path, taken: Collection[str]) -> list[str]:
    """The recipe that a suite names, or for a pattern all rows that fit it in the order of their file, but those in `taken`.

    A shipped suite's pattern means shipped rows alone: an included folder does not change what a table is made of.
    """
    if not set("*?[") & set(text):
        return [text]
    found = [n for n in matching(text, included=not path.is_relative_to(config_root())) if n not in taken]
    if not found:
        raise UserError(f"{path}: {text} fits no recipe that the suite does not name already")
    return found


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
        row = {"recipe": item} if isinstance(item, str) else item
        if not isinstance(row, dict) or not row.keys() <= {"recipe", "base"} or not isinstance(row.get("recipe"), str):
            raise UserError(f"{path}: pretrain: give a text or a list of texts or of {{recipe: NAME, base: NAME}}")
        base = row.get("base", content.get("base"))
        rows += [(name, base) for name in _named(row["recipe"], path, [n for n, other in rows if other == base])]
    return rows


def _pretrainings(
    rows: Sequence[tuple[str, str | None]], options: Options, seeds: Sequence[int] | None
) -> list[PlannedJob]:
    """Jobs of the rows, each once: under a base whose value it is, a row is the default and need not run again."""
    jobs: dict[tuple[str, int], PlannedJob] = {}
    defaults: dict[tuple[str, ...], Recipe] = {}
    for row, base in rows:
        loaded: Loaded = load_recipes([row], options, {row: base})
        recipe, overrides = loaded[row]
        default = default_recipe_name(row, base)
        key = (default, *overrides)
        defaults[key] = defaults.get(key) or load_recipe(default, overrides)
        described = describe_pretraining(recipe, defaults[key])
        for job in seeded(row, recipe, "scratch", seeds):
            jobs.setdefault((recipe_hash(job.recipe), job.recipe.seed), replace(job, pretraining=described))
    return list(jobs.values())


def seeded(name: str, recipe: Recipe, start: str, seeds: Sequence[int] | None) -> list[PlannedJob]:
    """A job for each seed; None means the recipe's own."""
    return [
        PlannedJob(name, _with_seed(recipe, s), start=start) for s in (seeds if seeds is not None else [recipe.seed])
    ]


def _with_seed(recipe: Recipe, seed: int) -> Recipe:
    return replace(deepcopy(recipe), seed=seed)
