"""A built table as the bytes of a file, text or picture, and onto the disk."""

from __future__ import annotations

from pathlib import Path

from backbones.errors import UserError, unknown
from mae_bench.tables.formats import charts as figures
from mae_bench.tables.formats.html import page
from mae_bench.tables.formats.render import FORMATS, render
from mae_bench.tables.table import Table

_ENDINGS = {"tex": "latex", "htm": "html", "markdown": "md"}


def choose_format(asked: str | None, out: Path | None) -> str:
    """The format that was asked for, else that of the file's ending, else markdown.

    Raises:
        UserError: no such format, or a picture without a file to write it to.
    """
    every = [*FORMATS, *figures.FORMATS]
    ending = out.suffix.lower().removeprefix(".") if out else ""
    chosen = asked or _ENDINGS.get(ending, ending) or "md"
    if chosen not in every:
        raise unknown("table format", chosen, every, where="--format" if asked else f"--out {out}")
    if chosen in figures.FORMATS and out is None:
        raise UserError(f"--format {chosen} is a picture: give --out FILE.{chosen}")
    return chosen


def contents(table: Table, format: str) -> bytes:
    """The table as a file of this format holds it: HTML as a page of its own."""
    if format in figures.FORMATS:
        return figures.draw(table, format)
    return (page(table) if format == "html" else render(table, format)).encode()
