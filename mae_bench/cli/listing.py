"""The verb `list`: tasks, suites, tables, recipes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from backbones.errors import unknown
from mae_bench.cli.common import Json, print_json, print_rows

Rows = list[dict[str, str]]
# What is listed is imported when it is asked for: `mae-bench --help` should not wait for it.


def tasks() -> Rows:
    """What ``--tasks`` takes, with the task of the registry behind it."""
    from mae_bench.recipes.load import describe, recipe_names
    from tasks import REGISTRY

    folders: dict[str, list[str]] = {}
    for name in recipe_names():
        folders.setdefault(name.split("/")[0], []).append(name)
    rows = []
    for folder, recipes in sorted(folders.items()):
        task = describe(recipes[0])["task"]
        extra = REGISTRY[task].extra
        rows.append({"task": folder, "kind": task, "metrics": REGISTRY[task].metrics, "extra": extra or ""})
    return rows


def suites() -> Rows:
    """Shipped suites."""
    from mae_bench.recipes.load import find, read_yaml, suite_names

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


def list_(
    what: Annotated[str, typer.Argument(metavar="tasks|suites|tables|recipes|encoders", help="What to list.")],
    as_json: Json = False,
) -> None:
    """List tasks, suites, tables, recipes or the encoders that come with the package."""
    if what not in KINDS:
        raise unknown("listing", what, KINDS)
    rows = KINDS[what]()
    if as_json:
        print_json(rows)
    else:
        print_rows(rows)
