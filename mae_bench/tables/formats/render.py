"""Built tables as text: `render`, and the formats that programs read (CSV, JSON). Add a format with a line in `FORMATS`.

Formats that people read are in `markdown`, `latex` and `html`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

from backbones.atomic import json_text
from backbones.errors import unknown
from mae_bench.common.text import spreadsheet_cell
from mae_bench.tables.formats.html import html
from mae_bench.tables.formats.latex import latex
from mae_bench.tables.formats.markdown import markdown
from mae_bench.tables.table import Cell, Table

CSV_COLUMNS = (
    "table",
    "subject",
    "method",
    "column",
    "metric",
    "published",
    "source",
    "ours_mean",
    "ours_std",
    "n",
    "difference",
    "tolerance",
    "within",
)


def render(table: Table, format: str = "md") -> str:
    """The table as text that ends in a newline; ``html`` and ``latex`` are fragments of a document.

    Raises:
        UserError: no such format; names the nearest.
    """
    if format not in FORMATS:
        raise unknown("table format", format, FORMATS)
    return FORMATS[format](table)


def tidy_csv(table: Table) -> str:
    """One line a cell that holds a figure; empty fields where there is none, ``nan`` for not-a-number.

    `within` is yes or no, and empty where no tolerance is published.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for part in table.parts or (table,):
        for row in part.rows:
            for column, cell in zip(part.columns, row.cells, strict=True):
                if cell.published is None and cell.ours is None:
                    continue
                about = (part.name, row.subject, row.method, column.heading, column.metric)
                ours = (cell.ours.mean, cell.ours.std, cell.ours.n) if cell.ours else (None, None, 0)
                verdict = {True: "yes", False: "no", None: None}[cell.within]
                published = (cell.published, " ".join(cell.sources))
                values = (*about, *published, *ours, cell.difference, cell.tolerance, verdict)
                writer.writerow([spreadsheet_cell(v) if isinstance(v, str) else v for v in values])
    return out.getvalue()


def as_json(table: Table) -> str:
    """Everything, with the records that filled each cell; null where there is no figure or not-a-number."""
    return json_text(_as_dict(table), indent=2) + "\n"


def _as_dict(table: Table) -> dict[str, Any]:
    if table.parts:
        return {"name": table.name, "title": table.title, "parts": [_as_dict(part) for part in table.parts]}
    return {
        "name": table.name,
        "title": table.title,
        "columns": [vars(column) for column in table.columns],
        "rows": [
            {
                "subject": row.subject,
                "method": row.method,
                "cells": {
                    column.heading: _json_cell(cell) for column, cell in zip(table.columns, row.cells, strict=True)
                },
            }
            for row in table.rows
        ],
        "notes": list(table.notes),
        "sources": table.sources,
    }


def _json_cell(cell: Cell) -> dict[str, Any]:
    ours = cell.ours
    return {
        "published": cell.published,
        "source": list(cell.sources),
        "ours_mean": ours.mean if ours else None,
        "ours_std": ours.std if ours else None,
        "n": ours.n if ours else 0,
        "difference": cell.difference,
        "tolerance": cell.tolerance,
        "within": cell.within,
        "seeds": list(ours.seeds) if ours else [],
        "records": list(ours.records) if ours else [],
    }


FORMATS: dict[str, Callable[[Table], str]] = {
    "md": markdown,
    "csv": tidy_csv,
    "json": as_json,
    "latex": latex,
    "html": html,
}
