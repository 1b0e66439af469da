"""What the tasks' data sets share: fingerprints, the cache folder, folder checks, decoding. No layouts here."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from backbones.errors import UserError


def fingerprint(root: Path, files: Iterable[Path]) -> str:
    """sha256 over the relative paths and sizes of `files`: cheap on a million files, changes when any is swapped."""
    digest = hashlib.sha256()
    for file in sorted(files):
        name = file.relative_to(root) if file.is_relative_to(root) else file
        digest.update(os.fsencode(f"{name.as_posix()}\0{file.stat().st_size}\n"))
    return digest.hexdigest()


def data_root(name: str, root: str | None) -> Path:
    """The folder of data set `name`, which must exist.

    Raises:
        UserError: none was given, or it is missing, or it is empty.
    """
    if root is None:
        raise UserError(f"data set {name} has no folder: give --data {name}=DIR")
    path = Path(root).expanduser()
    if not path.exists():
        raise UserError(f"--data {name}={root}: no such file or folder")
    if path.is_dir() and next(path.iterdir(), None) is None:
        raise UserError(f"--data {name}={root}: the folder is empty")
    return path
