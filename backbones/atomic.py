"""Files that are whole or not there: written under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backbones.errors import UserError


def check_writable(path: Path, where: str | None = None) -> None:
    """Refuses `path` before any work is done if no file can be written there.

    Args:
        where: what messages call it; by default ``--out PATH``.
    """
    where = where or f"--out {path}"
    if path.is_dir():
        raise UserError(f"{where} is a folder: give a file in it")
    if not path.parent.is_dir():
        raise UserError(f"{where}: no folder {path.parent}: make it first")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{where}: {path.parent} is not writable: give another folder")


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`, of the same suffix; becomes `path` when the block ends well, else nothing is left.

    Args:
        durable: on the disk before it gets its name, so that a power cut leaves the old file or the new one.
    """
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.tmp{path.suffix}")
    try:
        yield temporary
        if durable:
            descriptor = os.open(temporary, os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes, *, durable: bool = False) -> None:
    """As `Path.write_bytes`."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str, *, durable: bool = False) -> None:
    """As `Path.write_text`, always in UTF-8."""
    write_bytes(path, content.encode(), durable=durable)


def write_json(path: Path, content: Any, *, durable: bool = False) -> None:
    """`content` as indented JSON; not-a-number is refused."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", durable=durable)


def read_json(path: Path) -> Any:
    """The content, or None when there is no such file or it is no JSON."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
