"""Which of the papers' tables a report shows: those that these runs fill in earnest, each record in one place if possible."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from backbones.errors import UserError
from mae_bench.recipes.load import load_recipe
from mae_bench.records.groups import place
from mae_bench.records.record import Record
from mae_bench.tables import Table, build, names
from mae_bench.tables.fill.encoders import ENCODERS
from mae_bench.tables.of_recipe import table_of
from mae_bench.tables.table import Cell


def own_tables(records: Sequence[Record], runs: Path) -> list[Table]:
    """Tables with figures of these records, each of which shows a record that those before it do not.

    What is varied (ablations, schedules, blocks tuned) is a comparison from two own rows on: a lone default that happens to fit
    a row of ten such tables stands in the table of its recipe alone.
    """
    several = len({record.arch for record in records}) > 1
    built = [build(name, records, runs_dir=runs) for name in names() if name != ENCODERS or several]
    inside = {part.name for table in built for part in table.parts}
    tables = [shown for table in built if table.name not in inside and (shown := _compared(table)) is not None]
    homes = {_home(record.recipe_name) for record in records}
    changed = {place(r, runs) for r in records if (r.init.pretraining or {}).get("changed")}
    seen: set[str] = set()
    chosen = []
    for table in sorted(tables, key=lambda table: _rank(table, homes, changed)):
        if not shown_records(table) <= seen:
            chosen.append(table)
            seen |= shown_records(table)
    return chosen


def is_earnest(table: Table) -> bool:
    """Whether figures of ours stand beside something: beside one another, or beside the published figure."""
    return own_rows(table) > 1 or any(cell.difference is not None for cell in cells(table))


def cells(table: Table) -> Iterable[Cell]:
    """Of all parts."""
    return (cell for part in table.parts or (table,) for row in part.rows for cell in row.cells)


def own_rows(table: Table) -> int:
    """Rows with a figure of ours; of a table in parts, those of the part that has most."""
    parts = table.parts or (table,)
    return max(sum(any(cell.ours for cell in row.cells) for row in part.rows) for part in parts)


def shown_records(table: Table) -> set[str]:
    """Paths of the records that fill its cells."""
    return {record for cell in cells(table) if cell.ours for record in cell.ours.records}


def _compared(table: Table) -> Table | None:
    """The table with those parts that compare; None without any."""
    if table.parts:
        parts = tuple(part for part in table.parts if own_rows(part) > 1)
        return replace(table, parts=parts) if parts else None
    least = 2 if table.factor else 1
    return table if own_rows(table) >= least else None


def _rank(table: Table, homes: set[str | None], changed: set[str]) -> int:
    """Sweeps before the tables of recipes, what is left last; the paper's order within."""
    varied = bool(table.factor or table.parts)
    if varied and (own_rows(table) > 2 or shown_records(table) & changed):
        return 0
    return 1 if table.name in homes else 2


@lru_cache(maxsize=256)
def _home(recipe_name: str) -> str | None:
    """The table of a recipe; None of one that is not at hand."""
    try:
        return table_of(load_recipe(recipe_name))
    except UserError:
        return None
