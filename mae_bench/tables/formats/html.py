"""Built tables as HTML: a fragment for a page (`html`), or a page of its own (`page`). No script; sorting is the page's.

Cells have classes ``published``, ``ours``, ``difference``, with ``within`` or ``outside`` where a tolerance is published, and
``missing``; ``data-sort`` is ours, else the published figure, as a number.
"""

from __future__ import annotations

import math
from html import escape as escape_html

from mae_bench.common.text import plain
from mae_bench.tables.formats import text_grid as grid
from mae_bench.tables.table import Cell, Column, Row, Table
from tasks.spec import in_decimals

LEGEND = "in a cell: the published figure, ours (bold), the difference; ✓ within the tolerance, ✗ outside"
STYLE = """\
:root { color-scheme: light dark }
body { font: 16px/1.45 system-ui, sans-serif; margin: 1.5rem; max-width: 80rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }
caption { text-align: left; font-weight: 600; padding: .4rem 0 }
caption span { position: sticky; left: 0; display: inline-block; max-width: calc(100vw - 3rem) }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #8884; vertical-align: top }
th[scope=row], thead th.stub { text-align: left }
thead th { border-bottom: 2px solid currentColor; vertical-align: bottom; white-space: normal; min-width: 4.5em }
td span { display: block }
.published, .missing { opacity: .75 }
.ours { font-weight: 600 }
.within::after { content: " \\2713" }
.outside::after { content: " \\2717" }
.notes { font-size: .85rem; padding-left: 1.2rem }
"""


def html(table: Table) -> str:
    """A ``<section>`` with a ``<table>`` (one a part), notes and sources; all text is escaped."""
    lines = [f'<section class="paper-table" id="{_text(table.name)}">']
    if table.parts:
        lines.append(f"<h2>{_text(table.title)}</h2>")
    for part in table.parts or (table,):
        lines += ['<div class="scroll">', *_table(part), "</div>"]
    cells = [cell for part in table.parts or (table,) for row in part.rows for cell in row.cells]
    said = [LEGEND] if any(cell.difference is not None for cell in cells) else []
    said += [_text(note) for note in grid.notes(table)]
    said += [f"published figures, {_text(key)}: {_text(text)}" for key, text in grid.sources(table).items()]
    if said:
        lines += ['<ul class="notes">', *(f"<li>{text}</li>" for text in said), "</ul>"]
    return "\n".join([*lines, "</section>"]) + "\n"


def page(table: Table) -> str:
    """The fragment as a whole document."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(table.title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{html(table)}</body>\n</html>\n"
    )


def _table(table: Table) -> list[str]:
    stubs = [table.factor] if table.factor else [*([table.subject] if table.subject else []), "method"]
    head = [f'<th scope="col" class="stub">{_text(text)}</th>' for text in stubs]
    for column in table.columns:
        head.append(f'<th scope="col"{"" if column.in_paper else _CLASS_OWN}>{_text(column.heading)}</th>')
    return [
        f'<table id="table-{_text(table.name)}">',
        f"<caption><span>{_text(table.title)}</span></caption>",
        f"<thead><tr>{''.join(head)}</tr></thead>",
        "<tbody>",
        *(_row(table, row) for row in table.rows),
        "</tbody>",
        "</table>",
    ]


_CLASS_OWN = ' class="own"'


def _row(table: Table, row: Row) -> str:
    method = f"{row.method} {grid.DEFAULT}" if row.default else row.method
    sort = "" if row.x is None else f' data-sort="{row.x!r}"'
    stubs = [f'<th scope="row">{_text(row.subject)}</th>'] if table.subject and not table.factor else []
    stubs.append(f'<th scope="row"{sort}>{_text(method)}</th>')
    cells = (_cell(cell, column) for cell, column in zip(row.cells, table.columns, strict=True))
    return f"<tr>{''.join(stubs)}{''.join(cells)}</tr>"


def _cell(cell: Cell, column: Column) -> str:
    if cell.published is None and cell.ours is None:
        return f'<td class="missing">{grid.MISSING}</td>'
    spans = []
    if cell.published is not None:
        text = grid.with_unit(in_decimals(cell.published, cell.decimals), column.unit)
        spans.append(f'<span class="published" title="{_text(", ".join(cell.sources))}">{_text(text)}</span>')
    if cell.ours is not None:
        text = grid.with_unit(grid.measured(cell.ours, cell.decimals), column.unit)
        records = _text("\n".join(plain(record) for record in cell.ours.records))
        spans.append(f'<span class="ours" title="{records}">{_text(text)}</span>')
    if cell.difference is not None:
        verdict = "" if cell.within is None else f" {grid.verdict(cell)}"
        title = "no tolerance published"
        if cell.tolerance is not None:
            title = f"{grid.verdict(cell)} the tolerance of {grid.finer(cell.tolerance, cell.decimals)}"
        text = in_decimals(cell.difference, cell.decimals, signed=True)
        spans.append(f'<span class="difference{verdict}" title="{title}">{text}</span>')
    return f"<td{_sort(cell)}>{''.join(spans)}</td>"


def _sort(cell: Cell) -> str:
    value = cell.ours.mean if cell.ours else cell.published
    return f' data-sort="{value!r}"' if value is not None and math.isfinite(value) else ""


def _text(text: str) -> str:
    """Text of a record: on one line, without control characters, with no sign that means anything to HTML."""
    return escape_html(plain(text))
