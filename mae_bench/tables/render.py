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
DEFAULT = "†"
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
    """The grid of `_method_grid` or `_ablation_grid` (of each part), with notes and sources below."""
    lines = [f"### {escape(table.title)}", ""]
    parts = table.parts or (table,)
    for part in parts:
        if part is not table:
            lines += [f"**{escape(part.title)}**", ""]
        grid = [[escape(text) for text in line] for line in (_ablation_grid if part.factor else _method_grid)(part)]
        for block in _blocks(part, grid):
            lines += [*_pipe_table([[line[i] for i in block] for line in grid], _stubs(part)), ""]
    if any(row.default for part in parts for row in part.rows):
        lines.append(f"- {DEFAULT} the paper's default")
    lines += [f"- {escape(note)}" for note in dict.fromkeys(note for part in parts for note in part.notes)]
    sources = {key: text for part in parts for key, text in part.sources.items()}
    lines += [f"- published figures, {escape(key)}: {escape(text)}" for key, text in sources.items()]
    return "\n".join(lines) + "\n"


def tidy_csv(table: Table) -> str:
    """One line a cell that holds a figure; empty fields where there is none, ``nan`` for not-a-number."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = (
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
    )
    writer.writerow(header)
    for part in table.parts or (table,):
        for row in part.rows:
            for column, cell in zip(part.columns, row.cells, strict=True):
                if cell.published is None and cell.ours is None:
                    continue
                ours = (cell.ours.mean, cell.ours.std, cell.ours.n) if cell.ours else (None, None, 0)
                about = (
                    part.name,
                    row.subject,
                    row.method,
                    column.heading,
                    column.metric,
                    cell.published,
                    " ".join(cell.sources),
                )
                writer.writerow((*about, *ours, cell.difference))
    return out.getvalue()


def as_json(table: Table) -> str:
    """Everything, with the records that filled each cell; null where there is no figure or not-a-number."""
    return json.dumps(_as_dict(table), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


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


FORMATS: dict[str, Callable[[Table], str]] = {"md": markdown, "csv": tidy_csv, "json": as_json}


def plain(text: str) -> str:
    """Text of a record on one line, without control characters."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def escape(text: str) -> str:
    """Text of a record as markdown that reads as that text, on one line: no new cell, row, tag, emphasis."""
    text = plain(text)
    text = re.sub(r"([\\|<&*`\[\]~])", r"\\\1", text)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # inside a word an underscore is no emphasis


def _method_grid(table: Table) -> list[list[str]]:
    """Rows "published", "ours", "difference" of each method, below each subject where there are several."""
    body = [([row.subject] if table.subject else []) + line for row in table.rows for line in _lines(row)]
    subject = [table.subject] if table.subject else []
    return [[*subject, "method", "figure", *(column.heading for column in table.columns)], *body]


def _ablation_grid(table: Table) -> list[list[str]]:
    """One line a row, as the paper prints its ablations; ours follows the published figure where they can be compared."""
    body = [
        [
            f"{row.method} {DEFAULT}" if row.default else row.method,
            *(_compact(cell, column.unit) for cell, column in zip(row.cells, table.columns, strict=True)),
        ]
        for row in table.rows
    ]
    return [[table.factor, *(column.heading for column in table.columns)], *body]


def _compact(cell: Cell, unit: str) -> str:
    """``84.9``, or ``84.9 / ours 84.7 (-0.2)``."""
    if cell.published is None:
        return _with_unit(_measured(cell.ours), unit)
    published = _with_unit(_number(cell.published), unit)
    if cell.ours is None:
        return published
    return f"{published} / ours {_with_unit(_measured(cell.ours), unit)} ({_number(cell.difference, signed=True)})"


def _with_unit(text: str, unit: str) -> str:
    return text if text == MISSING else f"{text}{unit}"


def _stubs(table: Table) -> int:
    """How many columns at the left name the row."""
    if table.factor:
        return 1
    return 3 if table.subject else 2


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
    stubs = _stubs(table)
    blocks: list[list[int]] = [list(range(stubs))]
    for i, column in enumerate(table.columns, start=stubs):
        last = blocks[-1]
        ours_begin = not column.in_paper and len(last) > stubs and table.columns[last[-1] - stubs].in_paper
        too_wide = len(last) > stubs and sum(widths[j] for j in [*last, i]) + 1 > WIDTH
        if ours_begin or too_wide:
            blocks.append(list(range(stubs)))
        blocks[-1].append(i)
    return blocks


def _pipe_table(grid: Sequence[Sequence[str]], stubs: int) -> list[str]:
    """Header, rule and rows; rows without any figure in these columns are left out."""
    header, *body = grid
    body = [line for line in body if any(text != MISSING for text in line[stubs:])]
    widths = [max(3, *(len(line[i]) for line in [header, *body])) for i in range(len(header))]
    rule = [("-" * width if i < stubs else "-" * (width - 1) + ":") for i, width in enumerate(widths)]

    def line(texts: Sequence[str]) -> str:
        cells = (t.ljust(w) if i < stubs else t.rjust(w) for i, (t, w) in enumerate(zip(texts, widths, strict=True)))
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
