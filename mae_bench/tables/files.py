"""A built table as the bytes of a file, text or picture, and onto the disk."""

from __future__ import annotations

import os
from pathlib import Path

from backbones.errors import UserError, unknown
from mae_bench import figures
from mae_bench.tables.model import Table
from mae_bench.tables.render import FORMATS, render


def choose_format(asked: str | None, out: Path | None) -> str:
    """The format that was asked for, else that of the file's ending, else markdown.

    Raises:
        UserError: no such format, or a picture without a file to write it to.
    """
    every = [*FORMATS, *figures.FORMATS]
    chosen = asked or (out.suffix.lower().removeprefix(".") if out and out.suffix else "md")
    if chosen not in every:
        raise unknown("table format", chosen, every, where="--format" if asked else f"--out {out}")
    if chosen in figures.FORMATS and out is None:
        raise UserError(f"--format {chosen} is a picture: give --out FILE.{chosen}")
    return chosen


def check_out(out: Path) -> None:
    """Refuses `out` before any work is done if no file can be written there."""
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: give a file in it")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: no folder {out.parent}: make it first")
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"--out {out}: {out.parent} is not writable: give another folder")


def contents(table: Table, format: str) -> bytes:
    """The table as a file of this format holds it."""
    return figures.draw(table, format) if format in figures.FORMATS else render(table, format).encode()


def write(content: bytes, out: Path) -> None:
    """Atomically: a reader sees the old file or the new one."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
