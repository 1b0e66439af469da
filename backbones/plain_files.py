"""Files that somebody else may have made: opened only when they are plain files, read only up to a limit.

A FIFO, a device or a socket in the place of a file would wait for ever or never end; `open_plain` refuses them without opening
them for long. `load_json` is the one door for JSON. Pickles, zips and safetensors have theirs in `backbones.checkpoints`.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from pathlib import Path
from typing import IO, Any

from backbones.errors import UserError

JSON_LIMIT = 1 << 24  # bytes of a record, an index, a config or a state: no honest one is near
FILE_LIMIT = 1 << 32  # bytes of labels or of a log
_DEPTH_LIMIT = 100  # containers within containers
_GROWN = 1 << 16  # bytes that are read in any case, of a file that says it has none
_LARGEST_BITS = 1024  # whole numbers that a float holds are smaller


class UnfitFile(UserError, OSError):
    """Something else than a plain file of a usual size; an OSError too, for those who read many files and go on."""


def open_plain(path: str | Path, *, buffering: int = -1) -> IO[bytes]:
    """Opens a plain file for reading; links are followed.

    Raises:
        UnfitFile: it is a FIFO, a device or a socket.
        OSError: as `open`.
    """
    # Without O_NONBLOCK opening a FIFO waits for a writer; for plain files it means nothing.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise UnfitFile(f"{path} is {_kind(mode)}, not a file: it is not read")
        return open(descriptor, "rb", buffering=buffering)
    except BaseException:
        os.close(descriptor)
        raise


def read_plain(path: Path, limit: int = FILE_LIMIT) -> bytes:
    """The bytes of a plain file.

    Args:
        limit: bytes; a larger file is refused.

    Raises:
        UnfitFile: not a plain file, or larger.
        OSError: as `open`.
    """
    with open_plain(path) as file:
        # Python reserves what it is asked to read: not the limit, where the file has less (a growing one a little more).
        content = file.read(min(limit, max(os.fstat(file.fileno()).st_size, _GROWN)) + 1)
    if len(content) > limit:
        raise UnfitFile(f"{path} is larger than {limit / 2**20:,.0f} MiB: that is no such file")
    return content


def load_json(path: Path, *, limit: int = JSON_LIMIT) -> Any:
    """The content of a JSON file.

    Args:
        limit: bytes. Files beyond `JSON_LIMIT` (labels of data sets) are held to it alone, not to a depth.

    Raises:
        UserError: cannot be read, is no plain file, too large, no JSON, or nested too deeply.
    """
    try:
        return parse_json(read_plain(path, limit))
    except UserError:
        raise
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from e
    except ValueError as e:
        raise UserError(f"{path} is not readable as JSON: {e}") from e


def parse_json(content: bytes | str, *, finite: bool = True) -> Any:
    """`json.loads` that raises nothing but ValueError, also on what is nested too deeply, and on a key that is there twice.

    Of two values `json` itself takes the last without a word: half of somebody's labels may be in the first.

    Args:
        finite: refuse numbers that are none (NaN, Infinity) or beyond floats (1e999). Of files beyond `JSON_LIMIT`, as of any
            where this is False, the reader looks at each number itself.
    """
    options: dict[str, Any] = {"parse_constant": _no_number} if finite else {}
    try:
        parsed = json.loads(content, object_pairs_hook=_unique, **options)
    except RecursionError as e:
        raise ValueError("nested too deeply") from e
    if len(content) <= JSON_LIMIT:
        _check_bounds(parsed, finite)
    return parsed


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"key {twice[:100]!r} is there twice in one object: which of the two is meant cannot be told")
    return found


def _check_bounds(content: Any, finite: bool) -> None:
    """What is done with it (copies, comparisons, YAML) goes as deep as it does, and counts with its numbers."""
    inside = [content]
    for _ in range(_DEPTH_LIMIT + 1):
        if finite and (beyond := next((x for x in inside if isinstance(x, (int, float)) and not _is_finite(x)), None)):
            _no_number(str(beyond)[:20])
        level = [value for value in inside if isinstance(value, (dict, list))]
        if not level:
            return
        inside = [item for value in level for item in (value.values() if isinstance(value, dict) else value)]
    raise ValueError("nested too deeply")


def _is_finite(number: float) -> bool:
    return math.isfinite(number) if isinstance(number, float) else number.bit_length() < _LARGEST_BITS


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFIFO: "a FIFO",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "no plain file")
