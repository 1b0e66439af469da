"""What `mae-bench list` shows."""

from __future__ import annotations

from collections.abc import Callable

from mae_bench.recipes import describe, find, read_yaml, recipe_names, suite_names
from mae_bench.tables import build, names
from tasks import REGISTRY

Rows = list[dict[str, str]]


def tasks() -> Rows:
    """What ``--tasks`` takes, with the task of the registry behind it."""
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
    return [{"suite": s, "title": str(read_yaml(find("suite", s)).get("title", ""))} for s in suite_names()]


def tables() -> Rows:
    """Tables that can be printed."""
    return [{"table": n, "title": build(n, []).title} for n in names()]


def recipes() -> Rows:
    """Shipped recipes."""
    return [describe(n) for n in recipe_names()]


KINDS: dict[str, Callable[[], Rows]] = {"tasks": tasks, "suites": suites, "tables": tables, "recipes": recipes}
