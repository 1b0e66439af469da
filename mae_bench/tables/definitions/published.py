"""Published figures (`mae_bench/tables/definitions/published.yaml`) as cells; what is not verified does not get past here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mae_bench.recipes.published import load
from mae_bench.tables.table import Cell, Measured, Row


@dataclass(frozen=True)
class PublishedValue:
    """A figure as its source prints it, with its standard deviation over seeds if one is published; keys of the sources."""

    value: float
    sources: tuple[str, ...]
    std: float | None = None

    def cell(self, ours: Measured | None, decimals: int | None = 1) -> Cell:
        """The cell that sets our figure against this one."""
        return Cell(self.value, self.sources, ours, self.std, decimals)


def verified_rows(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of a published table whose figures somebody has read in the source that they name."""
    return [row for row in table["rows"] if row.get("verified") is True and row.get("source")]


def wide(table: Mapping[str, Any]) -> dict[tuple[str, str], PublishedValue]:
    """(row, column) -> figure, of a table with one row a method."""
    return {
        (str(row["row"]), column): _figure(row, column, value)
        for row in verified_rows(table)
        for column, value in row["values"].items()
        if value is not None
    }


def long(table: Mapping[str, Any], column_key: str, value_key: str) -> dict[tuple[str, str], PublishedValue]:
    """The same of a table with one row a cell, which names its column under `column_key` ("model")."""
    return {
        (str(row["row"]), str(row["values"][column_key])): _figure(row, value_key, row["values"][value_key])
        for row in verified_rows(table)
        if row["values"].get(value_key) is not None
    }


def row(table: Mapping[str, Any], name: Any, where: Mapping[str, Any]) -> dict[str, PublishedValue]:
    """Column -> figure of the row `name` (text or number) that has the values `where`, which tells namesakes apart.

    ``3.3x`` is the figure 3.3; its unit is the column's.
    """
    return {
        column: _figure(found, column, value)
        for found in verified_rows(table)
        if found["row"] == name and all(found["values"].get(key) == value for key, value in where.items())
        for column, value in found["values"].items()
        if value is not None and column not in where
    }


def _figure(row: Mapping[str, Any], column: str, value: Any) -> PublishedValue:
    std = row.get("std", {}).get(column)
    named = [*row["source"], *(row["std_source"] if std is not None else [])]
    return PublishedValue(float(str(value).removesuffix("x")), tuple(dict.fromkeys(named)), std)


def sources(rows: Iterable[Row]) -> dict[str, str]:
    """The sources that these rows' figures name, described."""
    used = {key for row in rows for cell in row.cells for key in cell.sources}
    return {key: text for key, text in load()["sources"].items() if key in used}


def notes(table: Mapping[str, Any]) -> dict[str, str]:
    """Row -> remark on its figures."""
    return {str(row["row"]): str(row["note"]) for row in verified_rows(table) if row.get("note")}
