"""``--tasks``: which recipe is meant for an encoder and the data at hand, and which table shows it. Suites: `from_suite`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace

from backbones.checkpoints.checkpoint import Checkpoint
from backbones.errors import UserError, unknown
from mae_bench.jobs.for_encoder import EncoderAtHand
from mae_bench.jobs.from_suite import seeded
from mae_bench.jobs.job import JobPlan
from mae_bench.recipes.any_encoder import name_for
from mae_bench.recipes.load import describe, find, recipe_for, recipe_names
from mae_bench.recipes.options import Loaded, Options, check_used, load_recipes, overrides_of
from mae_bench.recipes.protocol_files import data_sets, other_data, protocols
from mae_bench.tables.of_recipe import table_of
from tasks.recipe import Recipe

_NOT_TASKS = ("pretrain",)


def from_tasks(tasks: Sequence[str], arch: str, source: Checkpoint | None, options: Options) -> JobPlan:
    """The jobs of ``--tasks``, from `source` or from scratch: recipes by name, or protocols, for which the recipe is made.

    A protocol runs on each data set of ``--data`` that it has values for, and else on those of the user's own; where no data
    are given, on the embedded set. That recipe is taken which is written for this architecture and set, if there is one, or
    what the protocol gives any encoder.
    """
    encoder = EncoderAtHand(arch, source)
    loaded: Loaded = {}
    fitted: Loaded = {}  # of `loaded`, what no row is written for
    for task in tasks:
        if _is_recipe(task):
            find("recipe", task)
            loaded |= load_recipes([task], options)
        else:
            for data in _data_sets(task, encoder, options.data):
                found = _load(task, data, encoder, options)
                loaded |= found
                fitted |= {name: each for name, each in found.items() if name not in recipe_names()}
    check_used(options, [recipe for recipe, _ in loaded.values()])
    start = "checkpoint" if source else "scratch"
    jobs = [replace(job, checkpoint=source) for n in loaded for job in seeded(n, loaded[n][0], start, options.seeds)]
    tables = dict.fromkeys(table for job in jobs if (table := table_of(job.recipe)))
    made = [recipe for recipe, _ in fitted.values()]
    return JobPlan(jobs, list(tables), notes=[*encoder.notes(made), *_on_embedded(made, options)])


def _on_embedded(made: Sequence[Recipe], options: Options) -> list[str]:
    """That no data were given, for encoders that the embedded set was not made for."""
    on = [recipe.protocol for recipe in made if recipe.data.name == "embedded" and "embedded" not in options.data]
    if not on:
        return []
    return [
        f"no --data: {', '.join(on)} on the embedded set (digits on photographs, small images), which says nothing about "
        "other data: give --data NAME=DIR"
    ]


def _is_recipe(task: str) -> bool:
    return "/" in task or task.endswith((".yaml", ".yml"))


def _load(protocol: str, data: str, encoder: EncoderAtHand, options: Options) -> Loaded:
    """The recipe of a protocol on a data set for this encoder, under the command line's options."""
    known = data in data_sets(protocol)
    row = _row(protocol, data if known else other_data(protocol) or "", encoder.arch)
    name = name_for(protocol, data, encoder.arch)
    if row is not None and known:
        return load_recipes([row], options)
    if row is not None and row != name_for(
        protocol, other_data(protocol) or "", encoder.arch
    ):  # for one size of its own
        return load_recipes([row], replace(options, overrides=[f"data.name={json.dumps(data)}", *options.overrides]))
    overrides = overrides_of(options, protocol)
    recipe = encoder.recipe(protocol, data, overrides)
    folder = options.data.get(recipe.data.name, options.data.get(""))
    if folder is not None:
        recipe = deepcopy(recipe)
        recipe.data.root = folder
    return {name: (recipe, overrides)}


def _row(protocol: str, data: str, arch: str) -> str | None:
    """The recipe that is written for this architecture and data set: that which bears nothing but their names, or the only one.

    Raises:
        UserError: several, none of which is the plain one.
    """
    rows = [row["name"] for row in _rows(protocol, arch) if row["data"] == data]
    if (plain := name_for(protocol, data, arch)) in rows:
        return plain
    if len(rows) > 1:
        raise _several(protocol, arch, rows)
    return rows[0] if rows else None


def _rows(protocol: str, arch: str) -> list[dict[str, str]]:
    names = [name for name in recipe_names() if name.startswith(f"{protocol}/")]
    return [row for name in names if (row := describe(name))["arch"] == arch]


def _several(protocol: str, arch: str, rows: Sequence[str]) -> UserError:
    return UserError(
        f"several {protocol} recipes fit {arch}: name the data set (--data NAME=DIR), or give one in --tasks of "
        f"{', '.join(rows)}"
    )


def _data_sets(task: str, encoder: EncoderAtHand, data: Mapping[str, str]) -> list[str]:
    """Which of the command line's data sets a protocol runs on; the embedded one where none is given.

    Raises:
        UserError: no such protocol, or none of the data is for it.
    """
    known = {name: data_sets(name) for name in protocols() if name not in _NOT_TASKS}
    if task not in known:
        raise unknown("task", task, known, where="--tasks")
    named = [name for name in data if name]
    if mine := [name for name in named if name in known[task] and _is_of(task, name, encoder)]:
        return sorted(mine)
    own = [name for name in named if not any(name in sets for sets in known.values())]
    if own and other_data(task):
        return own
    if "" in data:
        fitting = _rows(task, encoder.arch)
        if len(sets := {row["data"] for row in fitting}) != 1:
            raise _several(task, encoder.arch, [row["name"] for row in fitting])
        return list(sets)
    fitting_sets = [name for name in known[task] if _is_of(task, name, encoder)]
    if not named and "embedded" in fitting_sets:
        return ["embedded"]
    wanted = " or ".join(f"--data {name}=DIR" for name in fitting_sets if name != "embedded")
    raise UserError(f"task {task} needs data: give {wanted}")


def _is_of(protocol: str, data: str, encoder: EncoderAtHand) -> bool:
    """Whether a protocol's values on a data set are that protocol: what LVIS takes over from detection is detection."""
    try:
        recipe_for(protocol, data, encoder.facts)
    except UserError:
        return False
    return True
