"""Downstream tasks and MAE pre-training as data for the engine. This file is the registry: one line a task."""

from __future__ import annotations

import importlib
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from backbones.errors import UserError, unknown
from tasks.recipe import Recipe, check_ranges
from tasks.spec import Metric, TaskSpec, undeclared

if TYPE_CHECKING:  # torch takes seconds to import, and listing tasks needs none of it
    from backbones.checkpoints.checkpoint import Checkpoint
    from tasks.base import Task


SPECS = {
    "pretraining": "tasks.pretraining.spec:SPEC",
    "classification": "tasks.classification.spec:SPEC",
    "probing": "tasks.probing.spec:SPEC",
    "detection": "tasks.detection.spec:SPEC",
    "segmentation": "tasks.segmentation.spec:SPEC",
}
"""Name -> where the `TaskSpec` is."""

ENTRY_POINTS = "mae_bench.tasks"
"""Entry-point group of other packages' tasks: ``depth = "their_package.depth:SPEC"``, a `TaskSpec` as ours."""


@lru_cache(maxsize=1)
def registry() -> dict[str, TaskSpec]:
    """Every task by name: ours, then those of installed packages. Imports neither torch nor an extra.

    Raises:
        UserError: an installed package's task cannot be loaded, or takes a name or protocol that is taken.
    """
    found: dict[str, TaskSpec] = {name: load(path) for name, path in SPECS.items()}
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        where = f"entry point {point.name} of {ENTRY_POINTS} ({point.value})"
        spec = load_entry_point(point, where)
        if not isinstance(spec, TaskSpec):
            raise UserError(f"{where}: is a {type(spec).__name__}, not a tasks.spec.TaskSpec")
        taken = {protocol: name for name, other in found.items() for protocol in other.protocols}
        if point.name in found:
            raise UserError(f"{where}: there is a task {point.name} already: give it another name, or uninstall one")
        if clash := [protocol for protocol in spec.protocols if protocol in taken]:
            raise UserError(f"{where}: protocol {clash[0]} is task {taken[clash[0]]}'s: give it another name")
        found[point.name] = spec
    return found


def load_entry_point(point: EntryPoint, where: str) -> Any:
    """What an installed package declares, or a UserError that names it: its code is not ours, and may fail in any way."""
    try:
        return point.load()
    except Exception as e:
        package = f" of {point.dist.name}" if point.dist else ""
        reason = " ".join(f"{type(e).__name__}: {e}".split())
        raise UserError(f"{where}: cannot be loaded ({reason}): repair or uninstall that package{package}") from e


def load(path: str) -> Any:
    """The object of a "module:name"."""
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)


def spec(task: str) -> TaskSpec:
    """What `task` says of itself, or a UserError with the nearest name."""
    if task not in registry():
        raise unknown("task", task, registry())
    return registry()[task]


def task_of_protocol(protocol: str) -> str | None:
    """The task that declares a protocol; None of a protocol of the user's own."""
    return next((name for name, each in registry().items() if protocol in each.protocols), None)


def metric(task: str | None, key: str) -> Metric:
    """What is declared of a figure; also of a task that is not installed here, whose records are read all the same."""
    each = registry().get(task or "")
    return (each and each.declared(key)) or undeclared(key)


def recipe_schema(task: str) -> type[Recipe]:
    """The dataclass that says which keys a recipe of this task has."""
    schema: type[Recipe] = load(spec(task).recipe)
    return schema


def require(task: str) -> None:
    """One line that says what to install when the packages of this task are missing."""
    wanted = spec(task)
    if missing := [name for name in wanted.needs if find_spec(name) is None]:
        way = wanted.install or f"pip install 'mae-bench[{wanted.extra}]'"
        raise UserError(f"task {task} needs {', '.join(missing)}: {way}")


def check_recipe(recipe: Recipe) -> None:
    """A UserError for values that no job can take, whatever its data and its checkpoint are."""
    from tasks.datasets.account import check_allowed
    from tasks.datasets.manifest import CHECKS

    check_ranges(recipe)  # again: a seed of the command line's comes after loading
    check_allowed(recipe.data.allow, CHECKS)
    labels = (recipe.data.label_share, recipe.data.label_list)
    if not spec(recipe.task).labelled and labels != (None, None):
        able = " and ".join(name for name, each in registry().items() if each.labelled)
        raise UserError(f"data.label_share and data.label_list are for {able}, not for {recipe.task}")
    recipe.check_values()


def create_task(recipe: Recipe, checkpoint: Checkpoint | None = None) -> Task[Any]:
    """The task of a resolved recipe, its encoder from `checkpoint` (a `Checkpoint`), or from scratch."""
    require(recipe.task)
    check_recipe(recipe)
    if checkpoint is not None:
        from tasks.suitability import why_not

        if reason := why_not(recipe.task, checkpoint):
            raise UserError(f"{checkpoint.path} cannot start {recipe.task}: {reason}")
    task: Task[Any] = load(spec(recipe.task).build)(recipe, checkpoint)
    _check_primary(recipe.task, task.primary_metric)
    return task


def _check_primary(task: str, key: str) -> None:
    """Refuses a metric that nobody could choose an epoch or judge a run by, before anything is spent on it."""
    if not key:
        return
    declared = spec(task).declared(key)
    if declared is None or not declared.better:
        what = "does not declare it" if declared is None else "does not say which way is better"
        raise UserError(f"task {task}, primary metric {key}: its TaskSpec {what}: give it a Metric with better")
