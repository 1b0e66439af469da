"""Built tables as text: markdown, CSV, JSON. Add a format with a function and a line in `FORMATS`."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from backbones.errors import unknown
from mae_bench.tables.model import Cell, Measured, Row, Table

MISSING = "–"
WIDTH = 100  # characters; a markdown table that is wider is broken into blocks of columns


def render(table: Table, format: str = "md") -> str:
    """The table as text that ends in a newline.

    Raises:
        UserError: no such format; names the nearest.
    """
    if format not in FORMATS:
        raise unknown("table format", format, FORMATS)
    return FORMATS[format](table)


def markdown(table: Table) -> str:
    """Rows "published", "ours", "difference" of each method, the paper's columns; notes and sources below."""
    lines = [f"### {escape(table.title)}", ""]
    body = [line for row in table.rows for line in _lines(row)]
    grid = [["method", "figure", *(column.heading for column in table.columns)], *body]
    grid = [[escape(text) for text in line] for line in grid]
    for block in _blocks(table, grid):
        lines += [*_pipe_table([[line[i] for i in block] for line in grid]), ""]
    lines += [f"- {escape(note)}" for note in table.notes]
    lines += [f"- published figures, {escape(key)}: {escape(text)}" for key, text in table.sources.items()]
    return "\n".join(lines) + "\n"


def tidy_csv(table: Table) -> str:
    """One line a cell that holds a figure; empty fields where there is none, ``nan`` for not-a-number."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = ("method", "column", "metric", "published", "source", "ours_mean", "ours_std", "n", "difference")
    writer.writerow(header)
    for row in table.rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            if cell.published is None and cell.ours is None:
                continue
            ours = (cell.ours.mean, cell.ours.std, cell.ours.n) if cell.ours else (None, None, 0)
            writer.writerow(
                (
                    row.method,
                    column.heading,
                    column.metric,
                    cell.published,
                    " ".join(cell.sources),
                    *ours,
                    cell.difference,
                )
            )
    return out.getvalue()


def as_json(table: Table) -> str:
    """Everything, with the records that filled each cell; null where there is no figure or not-a-number."""
    raw = {
        "name": table.name,
        "title": table.title,
        "columns": [vars(column) for column in table.columns],
        "rows": [
            {
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
    return json.dumps(raw, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


FORMATS: dict[str, Callable[[Table], str]] = {"md": markdown, "csv": tidy_csv, "json": as_json}


def escape(text: str) -> str:
    """Text of a record as markdown that reads as that text, on one line: no new cell, row, tag, emphasis."""
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    text = re.sub(r"([\\|<&*`\[\]~])", r"\\\1", text)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # inside a word an underscore is no emphasis


def _lines(row: Row) -> list[list[str]]:
    lines = []
    if any(cell.published is not None for cell in row.cells):
        lines.append([row.method, "published", *(_number(cell.published) for cell in row.cells)])
    if any(cell.ours for cell in row.cells):
        lines.append([row.method, "ours", *(_measured(cell.ours) for cell in row.cells)])
    if any(cell.difference is not None for cell in row.cells):
        lines.append([row.method, "difference", *(_number(cell.difference, signed=True) for cell in row.cells)])
    return lines


def _number(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return "nan"
    text = f"{value:+.1f}" if signed else f"{value:.1f}"
    return "0.0" if text in {"+0.0", "-0.0"} else text


def _measured(ours: Measured | None) -> str:
    if ours is None:
        return MISSING
    if ours.std is None:
        return _number(ours.mean)
    return f"{_number(ours.mean)} ± {_number(ours.std)} (n={ours.n})"


def _blocks(table: Table, grid: Sequence[Sequence[str]]) -> list[list[int]]:
    """Which columns of the grid stand side by side: all if WIDTH allows, else the paper's apart from ours."""
    widths = [max(len(line[i]) for line in grid) + 3 for i in range(len(grid[0]))]
    if sum(widths) + 1 <= WIDTH:
        return [list(range(len(widths)))]
    blocks: list[list[int]] = [[0, 1]]
    for i, column in enumerate(table.columns, start=2):
        last = blocks[-1]
        ours_begin = not column.in_paper and len(last) > 2 and table.columns[last[-1] - 2].in_paper
        too_wide = len(last) > 2 and sum(widths[j] for j in [*last, i]) + 1 > WIDTH
        if ours_begin or too_wide:
            blocks.append([0, 1])
        blocks[-1].append(i)
    return blocks


def _pipe_table(grid: Sequence[Sequence[str]]) -> list[str]:
    """Header, rule and rows; rows without any figure in these columns are left out."""
    header, *body = grid
    body = [line for line in body if any(text != MISSING for text in line[2:])]
    widths = [max(3, *(len(line[i]) for line in [header, *body])) for i in range(len(header))]
    rule = [("-" * width if i < 2 else "-" * (width - 1) + ":") for i, width in enumerate(widths)]

    def line(texts: Sequence[str]) -> str:
        cells = (t.ljust(w) if i < 2 else t.rjust(w) for i, (t, w) in enumerate(zip(texts, widths, strict=True)))
        return f"| {' | '.join(cells)} |"

    return [line(header), line(rule), *(line(texts) for texts in body)]


def _json_cell(cell: Cell) -> dict[str, Any]:
    def finite(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    ours = cell.ours
    return {
        "published": cell.published,
        "source": list(cell.sources),
        "ours_mean": finite(ours.mean) if ours else None,
        "ours_std": finite(ours.std) if ours else None,
        "n": ours.n if ours else 0,
        "difference": finite(cell.difference),
        "seeds": list(ours.seeds) if ours else [],
        "records": list(ours.records) if ours else [],
    }
