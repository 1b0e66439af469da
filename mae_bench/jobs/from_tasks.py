"""``--tasks``: which of the shipped recipes is meant, and which table shows its runs. Suites are in `from_suite`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from backbones.checkpoints.checkpoint import Checkpoint
from backbones.errors import UserError, unknown
from mae_bench.jobs.from_suite import seeded
from mae_bench.jobs.job import JobPlan
from mae_bench.recipes.load import describe, find, recipe_names
from mae_bench.recipes.options import Options, check_used, load_recipes
from mae_bench.tables.of_recipe import table_of

# Protocols that take a user's own data set, and whose recipe that is: --data NAME=DIR with a name that no recipe has.
OWN_DATA = {"detection": "coco", "detection_fpn": "coco"}


def from_tasks(tasks: Sequence[str], arch: str, source: Checkpoint | None, options: Options) -> JobPlan:
    """The jobs of ``--tasks``, from `source` or from scratch: protocols (architecture and data choose the recipe) or names."""
    own = _own(options.data)
    names = [name for task in tasks for name in _choose(task, arch, options.data, own)]
    if own:
        protocols = {name.split("/")[0] for name in names} & OWN_DATA.keys()
        renamed = [f"{protocol}:data.name={own}" for protocol in sorted(protocols)]
        options = replace(options, overrides=[*renamed, *options.overrides])
    recipes = load_recipes(names, options)
    check_used(options, [recipe for recipe, _ in recipes.values()])
    start = "checkpoint" if source else "scratch"
    jobs = [replace(job, checkpoint=source) for n in names for job in seeded(n, recipes[n][0], start, options.seeds)]
    tables = dict.fromkeys(table for job in jobs if (table := table_of(job.recipe)))
    return JobPlan(jobs, list(tables))


def _own(data: Mapping[str, str]) -> str | None:
    """The one name in `data` that no shipped recipe has: a user's own data set."""
    shipped = [f"{name}_" for name in recipe_names()]  # their names tell: reading them all takes seconds
    strangers = [name for name in data if name and not any(f"_{name}_" in each for each in shipped)]
    return strangers[0] if len(strangers) == 1 else None


def _choose(task: str, arch: str, data: Mapping[str, str], own: str | None) -> list[str]:
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
    named = [d for d in fitting if d["data"] in data or (own and d["data"] == OWN_DATA.get(task))]
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
