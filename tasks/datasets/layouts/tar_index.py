"""Where the members of tar files begin, every one accounted for; an index of a large archive is kept in the cache folder.

`tarfile` takes a header that it cannot read for the end of the archive; here it is an error that names file and offset.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbones.atomic import replacing
from backbones.errors import UserError
from backbones.plain_files import open_plain
from tasks.datasets.account import Account
from tasks.datasets.cache_folder import default_cache_root
from tasks.datasets.layouts.reader import Reader, modified
from tasks.datasets.manifest import place_of

KIND = "members"
"""What images of archives are called in the account."""
LABEL_SUFFIX = ".cls"
IMAGE, NO_NUMBER = -1, -2
"""Values of members that hold no class number: no label file, or one with something else in it."""
REASONS = ("", "not_a_file", "missing", "replaced", "outside")
"""What a member is, by its `states`: a file, or why it cannot be one (`tasks.datasets.account`)."""
_CACHED_BYTES = 64 * 2**20  # smaller archives are indexed in no time
_FORMAT = 2  # of a kept index
_BLOCK = 512
_FAR = 1 << 62  # seconds; extended headers may hold any number
_PIECE = re.compile(r"(|.*\D)(\d{1,6})")  # a name that ends in a number; longer ones are dates
_UNREADABLE_INDEX = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
_COLUMNS = ("tar", "offsets", "sizes", "values", "mtimes", "inner", "states")


@dataclass
class TarIndex:
    """The members of some archives, row by row, folders aside.

    Attributes:
        tars: the archives; `tar` says by row which.
        names: path in the archive; in an archive within, that one's stem comes first, and `inner` says so.
        offsets, sizes: of the content; a hard link's are those of the member that it is a link to.
        values: the number in a label file, else `IMAGE` or `NO_NUMBER`.
        mtimes: seconds, as the archive has them.
        states: index into `REASONS`.
    """

    tars: list[Path]
    names: list[str]
    tar: NDArray[np.int64]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    values: NDArray[np.int64]
    mtimes: NDArray[np.int64]
    inner: NDArray[np.int64]
    states: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, row: int, most: int | None = None) -> bytes:
        """The file's bytes (the first `most`); opened anew each time, so that forked processes share no position."""
        size = int(self.sizes[row]) if most is None else min(most, int(self.sizes[row]))
        with open_plain(self.tars[self.tar[row]]) as file:
            file.seek(self.offsets[row])
            content = file.read(size)
        if len(content) < size:
            raise OSError("the archive ends within this file")
        return content

    def fingerprint(self) -> str:
        """sha256 over names, sizes, times and labels in the order of the rows: what the archive says of its members."""
        digest = hashlib.sha256("\n".join(self.names).encode(errors="surrogateescape"))
        for column in (self.sizes, self.values, self.mtimes):
            digest.update(column.astype("<i8").tobytes())
        return digest.hexdigest()

    def places(self) -> NDArray[np.int64]:
        """`place_of` (device, inode, offset) of every row."""
        archives = [(stat.st_dev, stat.st_ino) for stat in (path.stat() for path in self.tars)]
        rows = zip(self.tar.tolist(), self.offsets.tolist(), strict=True)
        return np.array([place_of(*archives[tar], offset) for tar, offset in rows], np.int64)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> TarIndex:
        """The index of some rows, in the order given."""
        k = np.asarray(rows, np.int64)
        columns = {column: getattr(self, column)[k] for column in _COLUMNS}
        return replace(self, names=[self.names[row] for row in k.tolist()], **columns)


def index_tars(tars: Sequence[Path]) -> TarIndex:
    """The index of archives, from the cache folder if they have not changed since.

    Raises:
        UserError: not a tar, cut short or damaged; the file is named, and the offset.
    """
    kept = _kept_place(tars)
    if kept is not None and kept.is_file():
        with suppress(*_UNREADABLE_INDEX), np.load(kept) as arrays:  # unreadable: made anew
            names = arrays["names"].tobytes().decode(errors="surrogateescape").split("\0")[:-1]
            return TarIndex(list(tars), names, *(arrays[column] for column in _COLUMNS))
    rows = [(number, *member) for number, path in enumerate(tars) for member in _members(path)]
    names = [row[1] for row in rows]
    numbers = np.array([(row[0], *row[2:]) for row in rows], np.int64).reshape(-1, len(_COLUMNS))
    index = TarIndex(list(tars), names, *np.ascontiguousarray(numbers.T))
    if kept is not None:
        with suppress(OSError):  # a cache that cannot be written costs time, nothing else
            _keep(index, kept)
    return index


Row = tuple[str, int, int, int, int, int, int]  # name, and the columns but the first


def _members(path: Path) -> Iterator[Row]:
    try:
        with tarfile.open(path, "r:") as tar:
            rows = list(_rows(tar, 0, ""))
            _check_end(tar, path)
    except (OSError, tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as e:
        # Headers about the next header, thousands of them in a row, are read by recursion.
        why = "headers without end" if isinstance(e, RecursionError) else e
        raise UserError(f"{path}: not readable as an uncompressed tar ({why}): unpack or download it again") from e
    return iter(rows)


def _rows(tar: tarfile.TarFile, base: int, stem: str) -> Iterator[Row]:
    """Members of an archive that begins at `base`; of one within another, whose stem is `stem`."""
    rows: list[Row] = []
    last: dict[str, int] = {}  # name -> row: a later member of a name replaces the earlier one
    links: list[tuple[int, str]] = []  # row, name of the member that it leads to
    for member in tar:
        if member.isdir():
            continue
        name = _clean(member.name)
        if member.isfile() and name.lower().endswith(".tar") and not stem:
            inner_stem = name[: -len(".tar")]
            with tarfile.open(fileobj=tar.extractfile(member), mode="r:") as inner:
                rows += _rows(inner, member.offset_data, inner_stem)
                _check_end(inner, Path(name))
            continue
        state = 0 if member.isfile() and not member.issparse() else REASONS.index("not_a_file")
        if name.startswith("../") or "/../" in name:
            state = REASONS.index("outside")
        if name in last and not state:
            rows[last[name]] = (*rows[last[name]][:-1], REASONS.index("replaced"))
        if member.islnk() or member.issym():
            folder = posixpath.dirname(name) if member.issym() else ""
            links.append((len(rows), posixpath.normpath(posixpath.join(folder, member.linkname)).removeprefix("./")))
        last[name] = len(rows)
        shown = f"{stem}/{name}" if stem else name
        value = _value(tar, member) if not state else IMAGE
        offset = base + member.offset_data
        time = int(min(max(member.mtime, -_FAR), _FAR))
        rows.append((shown, offset, member.size, value, time, int(bool(stem)), state))
    for row, target in links:
        rows[row] = _followed(rows, row, last.get(target.lstrip("/")))
    return iter(rows)


def _followed(rows: list[Row], row: int, target: int | None) -> Row:
    """A link's row with the content of its target; one that leads out of the archive, or to another link, has none."""
    name, *_, inner, _ = rows[row]
    if target is None or rows[target][-1] not in (0, REASONS.index("replaced")):
        return (name, 0, 0, IMAGE, 0, inner, REASONS.index("missing"))
    _, offset, size, value, mtime, *_ = rows[target]
    return (name, offset, size, value, mtime, inner, 0)


def _clean(name: str) -> str:
    """A member's name without ``./`` and ``/`` before it."""
    while name.startswith(("./", "/")):
        name = name.removeprefix("./").lstrip("/")
    return name


def _value(tar: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    if not member.name.lower().endswith(LABEL_SUFFIX):
        return IMAGE
    file: Any = tar.extractfile(member)
    text = file.read(32).strip()
    # Of 18 figures at most: more do not fit into an index, and are no class.
    return int(text) if text.isdigit() and len(text) <= 18 and member.size <= 32 else NO_NUMBER


def _check_end(tar: tarfile.TarFile, path: Path) -> None:
    """Where `tarfile` stopped, zeros follow, which mark the end, and nothing else.

    Raises:
        tarfile.TarError: nothing follows: it was cut off behind a member, or its writer was stopped there; or something else
            does: a header was unreadable, or another archive comes after.
    """
    file: Any = tar.fileobj
    at = tar.offset
    file.seek(at)
    if not file.read(1):
        raise tarfile.ReadError(
            f"{path.name} stops at byte {at:,} without an archive's end: more files may have followed"
        )
    file.seek(at)
    while block := file.read(2**20):
        if block.strip(b"\0"):
            first = at + len(block) - len(block.lstrip(b"\0"))
            where = "a damaged header" if at == tar.offset and block[:_BLOCK].strip(b"\0") else "another archive"
            raise tarfile.ReadError(f"{path.name} has {where} at byte {first - first % _BLOCK:,}, what follows is lost")
        at += len(block)


def _kept_place(tars: Sequence[Path]) -> Path | None:
    stats = [path.stat() for path in tars]
    if sum(stat.st_size for stat in stats) < _CACHED_BYTES:
        return None
    digest = hashlib.sha256(str(_FORMAT).encode())
    for path, stat in zip(tars, stats, strict=True):
        digest.update(f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return default_cache_root() / "tar-index" / f"{digest.hexdigest()[:32]}.npz"


def _keep(index: TarIndex, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    joined = "".join(f"{name}\0" for name in index.names).encode(errors="surrogateescape")
    with replacing(place) as partial:
        np.savez(partial, names=np.frombuffer(joined, np.uint8), **{c: getattr(index, c) for c in _COLUMNS})


def find_gaps(tars: Sequence[Path], account: Account) -> None:
    """Pieces that are missing by the numbers of those that are there go into `account`: 000001 between 000000 and 000002."""
    numbers: dict[str, dict[int, str]] = defaultdict(dict)
    for path in tars:
        if match := _PIECE.fullmatch(path.stem):
            numbers[match[1]][int(match[2])] = match[2]
    for prefix, there in numbers.items():
        width = len(there[min(there)])
        gaps = [n for n in range(min(there), max(there)) if n not in there]
        if gaps:
            account.found("archives", len(there) + len(gaps))
            account.use("archives", len(there))
        for n in gaps:
            account.leave_out("archives", "missing", f"{prefix}{n:0{width}d}.tar")


class ArchiveReader(Reader):
    """Images that are members of tar files: what all layouts in tars read off their `index`."""

    kind = KIND
    index: TarIndex

    def encoded(self, i: int) -> bytes:
        return self.index.read(i)

    def sizes(self) -> NDArray[np.int64]:
        return self.index.sizes

    def places(self) -> NDArray[np.int64]:
        return self.index.places()

    def modified(self) -> str:
        return modified(self.index.tars)
