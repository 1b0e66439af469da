"""Images in tar files, read at their offsets: a tar of class folders, a tar of tars, a folder with a tar a class.

timm's reader of these streams through every byte to list them (138 GB for ImageNet, at each start), leaves a pickle beside the
data and opens an archive anew for each image; hence an index of offsets, kept in the cache folder. Names, classes and order
are timm's. WebDataset shards are in `shards`, which uses the index as well.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from timm.data.readers.img_extensions import get_img_extensions
from timm.utils.misc import natural_key

from backbones.atomic import replacing
from backbones.errors import UserError
from tasks.datasets.cache_folder import default_cache_root
from tasks.datasets.layouts.reader import Reader
from tasks.datasets.roots import fingerprint

LABEL_SUFFIX = ".cls"
_CACHED_BYTES = 64 * 2**20  # smaller archives are indexed in no time
_FORMAT = 1  # of a kept index
_UNREADABLE_INDEX = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


@dataclass
class TarIndex:
    """Where images (and label files) begin in some archives, row by row.

    Attributes:
        tars: the archives; `tar` says by row which.
        names: path in the archive; in an archive within, that one's stem comes first.
        values: the number in a label file, -1 for images.
    """

    tars: list[Path]
    names: list[str]
    tar: NDArray[np.int32]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    values: NDArray[np.int64]

    def read(self, row: int) -> bytes:
        """The file's bytes; opened anew each time, so that forked processes share no position."""
        with open(self.tars[self.tar[row]], "rb") as file:
            file.seek(self.offsets[row])
            content = file.read(self.sizes[row])
        if len(content) < self.sizes[row]:
            raise OSError("the archive ends within this file")
        return content

    def fingerprint(self) -> str:
        """sha256 over names, sizes and labels in the order of the rows; archives' own sizes are rounded up, and say less."""
        digest = hashlib.sha256("\n".join(self.names).encode())
        for column in (self.sizes, self.values):
            digest.update(column.astype("<i8").tobytes())
        return digest.hexdigest()

    def take(self, rows: Sequence[int]) -> TarIndex:
        """The index of some rows, in the order given."""
        k = np.asarray(rows, np.int64)
        names = [self.names[row] for row in rows]
        return TarIndex(self.tars, names, self.tar[k], self.offsets[k], self.sizes[k], self.values[k])


def index_tars(tars: Sequence[Path]) -> TarIndex:
    """The index of archives, from the cache folder if they have not changed since.

    Raises:
        UserError: not a tar, cut short, or a label file without a number; the file is named.
    """
    kept = _kept_place(tars)
    if kept is not None and kept.is_file():
        with suppress(*_UNREADABLE_INDEX), np.load(kept) as arrays:  # unreadable: made anew
            return TarIndex(
                list(tars),
                arrays["names"].tobytes().decode().split("\0")[:-1],
                *(arrays[column] for column in ("tar", "offsets", "sizes", "values")),
            )
    rows = [(number, *member) for number, path in enumerate(tars) for member in _members(path)]
    number, names, offsets, sizes, values = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    index = TarIndex(
        list(tars),
        list(names),
        np.array(number, np.int32),
        np.array(offsets, np.int64),
        np.array(sizes, np.int64),
        np.array(values, np.int64),
    )
    if kept is not None:
        with suppress(OSError):  # a cache that cannot be written costs time, nothing else
            _keep(index, kept)
    return index


def _members(path: Path) -> Iterator[tuple[str, int, int, int]]:
    """(name, offset, size, value) of each image and label file."""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                if member.name.lower().endswith(".tar"):
                    stem = member.name[: -len(".tar")]
                    with tarfile.open(fileobj=tar.extractfile(member), mode="r:") as inner:
                        for row in _rows(inner):
                            yield f"{stem}/{row[0]}", row[1] + member.offset_data, *row[2:]
                else:
                    yield from _row(tar, member)
    except (OSError, tarfile.TarError, EOFError) as e:
        raise UserError(f"{path}: not readable as an uncompressed tar ({e}): unpack or download it again") from e
    except ValueError as e:
        raise UserError(f"{path}: {e}") from e


def _rows(tar: tarfile.TarFile) -> Iterator[tuple[str, int, int, int]]:
    for member in tar:
        if member.isfile():
            yield from _row(tar, member)


def _row(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[tuple[str, int, int, int]]:
    suffix = os.path.splitext(member.name)[1].lower()
    if suffix == LABEL_SUFFIX:
        file = tar.extractfile(member)
        assert file is not None
        text = file.read(32).strip()
        if not text.isdigit():
            raise ValueError(f"{member.name} holds {text!r}: expected a class index")
        yield member.name, member.offset_data, member.size, int(text)
    elif suffix in _IMAGE_SUFFIXES:
        yield member.name, member.offset_data, member.size, -1


_IMAGE_SUFFIXES = get_img_extensions(as_set=True)


def _kept_place(tars: Sequence[Path]) -> Path | None:
    stats = [path.stat() for path in tars]
    if sum(stat.st_size for stat in stats) < _CACHED_BYTES:
        return None
    digest = hashlib.sha256(str(_FORMAT).encode())
    for path, stat in zip(tars, stats, strict=True):
        digest.update(f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return default_cache_root() / "tar-index" / f"{digest.hexdigest()[:32]}.npz"


def _keep(index: TarIndex, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    names = np.frombuffer("".join(f"{name}\0" for name in index.names).encode(), np.uint8)
    with replacing(place) as partial:
        np.savez(partial, names=names, tar=index.tar, offsets=index.offsets, sizes=index.sizes, values=index.values)


class TarReader(Reader):
    """One tar, or a folder of tars whose names are the classes of the images that lie in no folder inside."""

    def __init__(self, path: Path) -> None:
        self.root = path
        self.tars = [path] if path.is_file() else sorted(path.glob("*.tar"))
        index = index_tars(self.tars)
        images = np.flatnonzero(index.values < 0)
        if not len(images):
            raise UserError(f"{path}: no images found in it")
        if path.is_dir():
            index.names = [f"{index.tars[t].stem}/{n}" for t, n in zip(index.tar, index.names, strict=True)]
        order = sorted(images.tolist(), key=lambda row: natural_key(index.names[row]))
        self.index = index.take(order)
        classes = [_leaf_folder(name) for name in self.index.names]
        self.class_names = sorted(set(classes), key=natural_key)
        numbers = {name: i for i, name in enumerate(self.class_names)}
        self.labels = np.array([numbers[name] for name in classes], np.int64)

    def name(self, i: int) -> str:
        return self.index.names[i]

    def encoded(self, i: int) -> bytes:
        return self.index.read(i)

    def fingerprint(self) -> str:
        return self.index.fingerprint() if self.root.is_dir() else fingerprint(self.root.parent, self.tars)

    def empty_classes(self) -> list[str]:
        if not self.root.is_dir():
            return []
        filled = {self.tars[t] for t in set(self.index.tar.tolist())}
        return [path.stem for path in self.tars if path not in filled]


def _leaf_folder(name: str) -> str:
    folders = name.split("/")[:-1]
    return folders[-1] if folders else ""
