"""Built tables as markdown that a terminal shows as well."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mae_bench.common.text import plain
from mae_bench.tables.formats.text_grid import blocks, grid, notes, sources, stubs
from mae_bench.tables.table import Table


def markdown(table: Table, width: int | None = None) -> str:
    """The grid of the table (of each part) in blocks of `width` characters (`text_grid.blocks`), notes and sources below."""
    lines = [f"### {escape(table.title)}", ""]
    for part in table.parts or (table,):
        if part is not table:
            lines += [f"**{escape(part.title)}**", ""]
        escaped = [[escape(text) for text in line] for line in grid(part)]
        for block in blocks(part, escaped, width):
            lines += [*_pipe_table(block, stubs(part)), ""]
    lines += [f"- {escape(note)}" for note in notes(table)]
    lines += [f"- published figures, {escape(key)}: {escape(text)}" for key, text in sources(table).items()]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text of a record as markdown that reads as that text, on one line: no new cell, row, tag, emphasis."""
    text = plain(text)
    text = re.sub(r"([\\|<&*`\[\]~])", r"\\\1", text)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # inside a word an underscore is no emphasis


def _pipe_table(block: Sequence[Sequence[str]], stubs: int) -> list[str]:
    """Header, rule and lines."""
    header, *body = block
    widths = [max(3, *(len(line[i]) for line in block)) for i in range(len(header))]
    rule = [("-" * width if i < stubs else "-" * (width - 1) + ":") for i, width in enumerate(widths)]

    def line(texts: Sequence[str]) -> str:
        cells = (t.ljust(w) if i < stubs else t.rjust(w) for i, (t, w) in enumerate(zip(texts, widths, strict=True)))
        return f"| {' | '.join(cells)} |"

    return [line(header), line(rule), *(line(texts) for texts in body)]
