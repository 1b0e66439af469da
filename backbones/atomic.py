"""Files that are whole or not there: written under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from backbones.errors import UserError
from backbones.plain_files import load_json

_NOT_PRINTED = re.compile("[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp(\..*)?")


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
    refuse_special(path, where)
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{where}: {path.parent} is not writable: give another folder")


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`, of the same suffix; becomes `path` when the block ends well, else nothing is left.

    Its mode is what the umask gives a new file, whatever the block makes of it.

    Args:
        durable: on the disk before it gets its name, and the name as well before this returns, so that a power cut leaves
            the old file or the new one, and whatever is written later speaks of a file that is there.

    Raises:
        UserError: `path` is a device, a FIFO or a socket, which renaming would replace.
    """
    refuse_special(path)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.tmp{path.suffix}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        os.close(descriptor)
        yield temporary
        os.chmod(temporary, mode)  # safetensors makes files of its own, for their owner alone
        if durable:
            sync(temporary)
        os.replace(temporary, path)
        if durable:
            sync(path.parent)
    except OSError as e:
        if e.errno is not None and e.filename is None:  # a full disk, as `write` says it
            e.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Puts a file, or the names in a folder, on the disk; some network file systems do without the latter."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Deletes what killed processes left half written in `folder`; for whoever knows that nobody writes there."""
    for path in folder.glob(".*.tmp*"):
        if not _TEMPORARY.fullmatch(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def refuse_special(path: Path, where: str | None = None) -> None:
    """A UserError where a device, a FIFO or a socket lies in the place of a file: writing to it waits, or replaces it."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(
            f"{where or path} is a device, a FIFO or a socket: give a file (without --out it goes to stdout)"
        )


def append_to(path: Path, *, buffering: int = -1) -> IO[str]:
    """Opens a file of a folder's own for writing at its end; a link in its place, which may lead anywhere, is not followed.

    Raises:
        UserError: a device, a FIFO or a socket.
        OSError: as `open`; ELOOP for a link.
    """
    refuse_special(path)
    return open(
        path,
        "a",
        buffering=buffering,
        encoding="utf-8",
        opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666),
    )


def write_bytes(path: Path, content: bytes, *, durable: bool = False) -> None:
    """As `Path.write_bytes`."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str, *, durable: bool = False) -> None:
    """As `Path.write_text`, always in UTF-8."""
    write_bytes(path, content.encode(), durable=durable)


def json_text(content: Any, *, indent: int | None = 1, ascii: bool = False) -> str:
    """`content` as JSON that every program reads: null stands for not-a-number and infinity, which JSON has not.

    What does not print (a terminal's codes of one byte, a change of direction) is escaped in any case.

    Args:
        indent: None gives a single line.
        ascii: other signs are escaped, for terminals of any encoding.
    """
    text = json.dumps(_finite(content), indent=indent, ensure_ascii=ascii, allow_nan=False)
    return _NOT_PRINTED.sub(lambda found: json.dumps(found[0])[1:-1], text)


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: _finite(item) for key, item in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(item) for item in content]
    return content


def write_json(path: Path, content: Any, *, indent: int = 1, durable: bool = False) -> None:
    """`json_text` and a newline: the one writer of JSON files."""
    write_text(path, json_text(content, indent=indent) + "\n", durable=durable)


def read_json(path: Path) -> Any:
    """The content, or None when there is no such file or it is no JSON (`backbones.plain_files` has the limits)."""
    try:
        return load_json(path)
    except UserError:
        return None
