"""The files under a folder, every one of them accounted for: a listing of each folder and a stat of each file, no reading.

Files whose names do not tell whether they are images are looked into (`tasks.datasets.suffixes`); usually there are none.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backbones.errors import UserError
from backbones.plain_files import open_plain
from tasks.datasets.account import Account
from tasks.datasets.manifest import place_of
from tasks.datasets.suffixes import HEAD, is_hidden, kind_of

KIND = "files"


@dataclass
class ImageFiles:
    """The images under a folder, in natural order of their paths.

    Attributes:
        names: paths under the folder, with ``/``.
        sizes, mtimes: bytes, and nanoseconds; (N,) each.
        places: (N,) `place_of` (device, inode): links to a file have the place of that file.
    """

    names: list[str]
    sizes: NDArray[np.int64]
    mtimes: NDArray[np.int64]
    places: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> ImageFiles:
        """Some of them, in the order given."""
        names = [self.names[i] for i in rows]
        return ImageFiles(names, self.sizes[rows], self.mtimes[rows], self.places[rows])


@dataclass
class _Found:
    """Columns in the making."""

    names: list[str] = field(default_factory=list)
    stats: list[tuple[int, int, int]] = field(default_factory=list)  # size, mtime, place


def list_images(root: Path, account: Account) -> ImageFiles:
    """Images under `root`, links followed; whatever else is there goes into `account` with its reason.

    Raises:
        UserError: a folder or file that cannot be looked at.
    """
    found = _Found()
    _walk(root, "", (_identity(root),), found, account)
    account.found(KIND, len(found.names))
    account.use(KIND, len(found.names))
    order = sorted(range(len(found.names)), key=lambda i: natural_key(found.names[i]))
    stats = np.array([found.stats[i] for i in order], np.int64).reshape(-1, 3)
    return ImageFiles([found.names[i] for i in order], stats[:, 0], stats[:, 1], stats[:, 2])


def natural_key(text: str) -> list[int | str]:
    """Orders ``2.jpg`` before ``10.jpg``, as timm's readers order files."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text.lower())]


def _walk(folder: Path, prefix: str, above: tuple[tuple[int, int], ...], found: _Found, account: Account) -> None:
    """A folder and those below it.

    Args:
        prefix: its path under the root, with ``/`` at the end.
        above: identities of the folders on the way to it, and its own.
    """
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):  # the same account on every file system
                _look(entry, prefix, above, found, account)
    except OSError as e:
        raise UserError(f"{e.filename or folder}: cannot be read ({e.strerror or e}): mend its permissions") from e


def _look(
    entry: os.DirEntry[str], prefix: str, above: tuple[tuple[int, int], ...], found: _Found, account: Account
) -> None:
    name = prefix + entry.name
    if is_hidden(entry.name):
        return _leave_out(account, "hidden", name + "/" if entry.is_dir(follow_symlinks=False) else name)
    if entry.is_symlink() and not os.path.exists(entry.path):
        return _leave_out(account, "missing", f"{name} (a link that leads nowhere)")
    if entry.is_dir():
        stat = entry.stat()
        identity = (stat.st_dev, stat.st_ino)
        if identity in above:
            return _leave_out(account, "link_loop", name)
        return _walk(Path(entry.path), name + "/", (*above, identity), found, account)
    if not entry.is_file():
        return _leave_out(account, "not_a_file", name)
    kind = kind_of(entry.name, lambda: _head(entry.path))
    if kind != "image":
        return _leave_out(account, kind, name)
    stat = entry.stat()
    found.names.append(name)
    found.stats.append((stat.st_size, stat.st_mtime_ns, place_of(stat.st_dev, stat.st_ino)))
    return None


def _leave_out(account: Account, reason: str, name: str) -> None:
    account.found(KIND)
    account.leave_out(KIND, reason, name)


def _head(path: str) -> bytes:
    with open_plain(path) as file:
        return file.read(HEAD)


def _identity(folder: Path) -> tuple[int, int]:
    try:
        stat = folder.stat()
    except OSError as e:
        raise UserError(f"{folder}: cannot be read ({e.strerror})") from e
    return stat.st_dev, stat.st_ino
