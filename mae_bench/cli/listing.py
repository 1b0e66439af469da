"""The verb `list`: tasks, suites, tables, recipes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backbones.errors import UserError, unknown
from mae_bench.cli.common import Include, Json, Overrides, include, print_json, print_rows

if TYPE_CHECKING:
    from tasks.spec import TaskSpec

Rows = list[dict[str, str]]
# What is listed is imported when it is asked for: `mae-bench --help` should not wait for it.


def tasks() -> Rows:
    """What ``--tasks`` takes, with the task of the registry behind it."""
    from mae_bench.recipes.load import describe, recipe_names
    from tasks import spec

    folders: dict[str, list[str]] = {}
    for name in recipe_names():
        folders.setdefault(name.split("/")[0], []).append(name)
    rows = []
    for folder, recipes in sorted(folders.items()):
        task = describe(recipes[0])["task"]
        rows.append({"task": folder, "kind": task, "metrics": headlines(spec(task)), "extra": spec(task).extra or ""})
    return rows


def headlines(spec: TaskSpec) -> str:
    """``box_ap (%), mask_ap (%)``; what is evaluated nowhere has its loss alone."""
    shown = [f"{m.key} ({m.unit})" if m.unit else m.key for m in spec.metrics if m.headline]
    return ", ".join(shown) or "loss"


def suites() -> Rows:
    """Shipped suites."""
    from mae_bench.common.yaml_file import read_yaml
    from mae_bench.recipes.load import find, suite_names

    return [{"suite": s, "title": str(read_yaml(find("suite", s)).get("title", ""))} for s in suite_names()]


def tables() -> Rows:
    """Tables that can be printed."""
    from mae_bench.tables import build, names

    return [{"table": n, "title": build(n, []).title} for n in names()]


def recipes() -> Rows:
    """Shipped recipes."""
    from mae_bench.recipes.load import describe, recipe_names

    return [describe(n) for n in recipe_names()]


def encoders() -> Rows:
    """Encoders that come with the package: what ``--checkpoint`` takes by name."""
    from backbones.checkpoints import shipped

    return [_encoder(name, shipped.record(name), shipped.FOLDER / f"{name}.safetensors") for name in shipped.names()]


def _encoder(name: str, record: dict[str, Any], path: Path) -> dict[str, str]:
    return {
        "encoder": name,
        "arch": record["arch"],
        "pixels": str(record["img_size"]),
        "MB": f"{path.stat().st_size / 1e6:.1f}",
        "pre-trained on": record["data"]["name"],
        "recipe": record["recipe_name"],
        "licence": "Apache-2.0",
    }


KINDS: dict[str, Callable[[], Rows]] = {
    "tasks": tasks,
    "suites": suites,
    "tables": tables,
    "recipes": recipes,
    "encoders": encoders,
}


def _one(name: str, overrides: list[str]) -> list[dict[str, Any]]:
    """A recipe's values, each with the place that it comes from; or the recipes that a pattern fits."""
    from mae_bench.recipes.load import describe, explain
    from mae_bench.recipes.protocol_files import matching

    if set("*?[") & set(name):
        return [describe(each) for each in matching(name)]
    return explain(name, overrides)


def list_(
    what: Annotated[str, typer.Argument(metavar="tasks|suites|tables|recipes|encoders", help="What to list.")],
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="A recipe, for its values and where each comes from; or finetune/*."),
    ] = None,
    overrides: Overrides = None,
    folders: Include = None,
    as_json: Json = False,
) -> None:
    """List tasks, suites, tables, recipes or the encoders that come with the package; or what one recipe says."""
    include(folders)
    if what not in KINDS:
        raise unknown("listing", what, KINDS)
    if name is None and overrides:
        raise UserError("--set goes with a recipe: list recipes NAME --set KEY=VALUE")
    if name is not None and what != "recipes":
        raise UserError(f"list {what} takes no name: list recipes NAME shows what a recipe says")
    rows = KINDS[what]() if name is None else _one(name, overrides or [])
    if as_json:
        print_json(rows)
    else:
        print_rows([{key: str(value) for key, value in row.items()} for row in rows])
