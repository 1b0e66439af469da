"""The image files that a json names: inside the data folder, under whatever spelling the disk has them. Opens none."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from backbones.errors import UserError
from tasks.datasets.account import printable


def locate(json: Path, root: Path, images: Path, names: Sequence[str], *, outside: bool = False) -> list[str]:
    """The path of each file name of a json, an absolute one included.

    Args:
        json, root: the json, for messages, and the data folder.
        images: the folder that the names are relative to.
        outside: take files from anywhere. Links are followed in any case: whoever holds the folder made them.

    Raises:
        UserError: a name that leads out of both folders, or a file that is not there.
    """
    paths = [os.path.join(images, name) for name in names]
    if not outside:
        folders = [os.path.abspath(folder) for folder in (root, images)]
        for name, path in zip(names, paths, strict=True):
            if (name.startswith("/") or ".." in name) and not _within(os.path.abspath(path), folders):
                raise UserError(
                    f"{json}: file_name={printable(name)} leads out of the data folder: move the image into it, or say that it "
                    "is meant with --set data.options.outside=true"
                )
    missing = [i for i, path in enumerate(paths) if not os.path.isfile(path)]
    spellings = _spellings(images) if missing else {}
    for i in missing:
        paths[i] = spellings.get(_key(names[i])) or paths[i]
    missing = [i for i in missing if not os.path.isfile(paths[i])]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(
            f"{printable(paths[missing[0]])}: no such image{more}, but {json} names it: complete the images or mend the json"
        )
    return paths


def hits(folder: Path, names: Sequence[str], *, loosely: bool = False) -> int:
    """How many of `names` are files in `folder`.

    Args:
        loosely: in another spelling too (`locate`).
    """
    spellings = _spellings(folder) if loosely else {}
    return sum(os.path.isfile(os.path.join(folder, name)) or _key(name) in spellings for name in names)


def _within(path: str, folders: Sequence[str]) -> bool:
    return any(path == folder or path.startswith(folder.rstrip("/") + "/") for folder in folders)


def _spellings(folder: Path) -> dict[str, str]:
    """Key of a name -> path, of the files under a folder whose key no other file has."""
    found: dict[str, str] = {}
    twice = set()
    for parent, _, files in os.walk(folder, followlinks=False):
        for file in files:
            path = os.path.join(parent, file)
            key = _key(os.path.relpath(path, folder))
            if key in found:
                twice.add(key)
            found[key] = path
    return {key: path for key, path in found.items() if key not in twice}


def _key(name: str) -> str:
    """What spellings of a name have in common: composed or decomposed letters, UTF-8 or Latin-1 on disk, .JPG or .jpg."""
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8
        try:
            name = os.fsencode(name).decode("latin-1")
        except UnicodeEncodeError:  # nor bytes at all
            return name
    path = PurePosixPath(unicodedata.normalize("NFC", name))
    return str(path.with_suffix(path.suffix.lower())) if path.name else name
