"""Images in tar files, read at their offsets: a tar of class folders, a tar of tars, a folder with a tar a class.

timm's reader of these streams through every byte to list them (138 GB for ImageNet, at each start), leaves a pickle beside the
data and opens an archive anew for each image; hence an index of offsets (`tar_index`). WebDataset shards are in `shards`.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from backbones.errors import UserError
from tasks.datasets.account import Account
from tasks.datasets.layouts.folders import SYNSET
from tasks.datasets.layouts.tar_index import KIND, REASONS, ArchiveReader, TarIndex, find_gaps, index_tars
from tasks.datasets.listing import natural_key
from tasks.datasets.suffixes import HEAD, Kind, is_hidden, kind_of

# An archive's own name for the folder that all of it lies in.
_WRAPPERS = re.compile(r"(?i)(pretrain|train|training|val|valid|validation|test)|ILSVRC2012_img_\w+")
_NUMBERED = re.compile(
    r"(?i)((?:.*[-_.])?)\d{3,}|(.*(?:train|val|validation|test|shard|part|chunk|data|images?)[-_.]?)\d+"
)


class TarReader(ArchiveReader):
    """One tar, or a folder of tars whose names are the classes of the images that lie in no folder inside.

    Classes are the names of the first folders in plain order, as with class folders on disk.
    """

    def __init__(self, path: Path, index: TarIndex | None = None) -> None:
        self.root, self.account, self.notes = path, Account(), []
        index = index or index_tars([path] if path.is_file() else sorted(path.glob("*.tar")))
        images = _latest(index, images_among(index, self.account), self.account)
        if not images:
            self.account.settle(path)
            raise UserError(f"{path}: no images found in it")
        index = index.take(images)
        if path.is_dir():
            classes, index.names = _of_tars(index)
            if not {tar.stem for tar in index.tars} >= set(classes):  # pieces that hold class folders
                find_gaps(index.tars, self.account)
        else:
            classes = _of_one(index, path)
        order = sorted(range(len(index)), key=lambda row: natural_key(index.names[row]))
        self.index = index.take(order)
        self._set_classes([classes[row] for row in order])

    def _set_classes(self, classes: list[str]) -> None:
        self.class_names = sorted(set(classes))
        numbers = {name: i for i, name in enumerate(self.class_names)}
        self.labels = np.array([numbers[name] for name in classes], np.int64)

    def require_labels(self) -> None:
        """Images that lie in no folder of the archive are in no class."""
        if "" not in self.class_names:
            return
        classes = [self.class_names[label] for label in self.labels]
        for row in (i for i, name in enumerate(classes) if not name):
            self.account.give_up(KIND, "no_label", self.place(row))
        self.index = self.index.take([i for i, name in enumerate(classes) if name])
        self._set_classes([name for name in classes if name])

    def name(self, i: int) -> str:
        return self.index.names[i]

    def fingerprint(self) -> str:
        classes = "\n".join(self.class_names).encode(errors="surrogateescape")
        labels = self.labels.astype("<i8").tobytes()
        return hashlib.sha256(self.index.fingerprint().encode() + classes + labels).hexdigest()

    def empty_classes(self) -> list[str]:
        if not self.root.is_dir():
            return []
        filled = {self.index.tars[t] for t in set(self.index.tar.tolist())}
        return [path.stem for path in self.index.tars if path not in filled]


def images_among(index: TarIndex, account: Account) -> list[int]:
    """Rows of the images; every other member goes into `account` with its reason."""
    images = []
    for row, name in enumerate(index.names):
        account.found(KIND)
        reason = _why_not(index, row, name)
        if reason:
            account.leave_out(KIND, reason, f"{index.tars[index.tar[row]].name}/{name}")
        else:
            account.use(KIND)
            images.append(row)
    return images


def _why_not(index: TarIndex, row: int, name: str) -> str:
    if REASONS[index.states[row]] == "outside":
        return "outside"
    if any(map(is_hidden, name.split("/"))):
        return "hidden"
    if index.states[row]:
        return REASONS[index.states[row]]
    kind: Kind = kind_of(name, lambda: index.read(row, HEAD))
    return "" if kind == "image" else kind


def _latest(index: TarIndex, rows: list[int], account: Account) -> list[int]:
    """The last of the rows that have the same name in the same archive: an inner archive that was added once more."""
    latest: dict[tuple[int, str], int] = {}
    for row in rows:
        key = (int(index.tar[row]), index.names[row])
        if key in latest:
            account.give_up(KIND, "replaced", f"{index.tars[key[0]].name}/{key[1]}")
        latest[key] = row
    return sorted(latest.values())


def _of_one(index: TarIndex, path: Path) -> list[str]:
    """The class of each image of one tar: the first folder, behind one that wraps the archive whole."""
    if index.inner.any():
        stems = [name.split("/")[0] if inner else "" for name, inner in zip(index.names, index.inner, strict=True)]
        insides = [
            name.partition("/")[2] if inner else name for name, inner in zip(index.names, index.inner, strict=True)
        ]
        return _by_archives(stems, insides, path)
    return first_folders(index.names, path)


def _of_tars(index: TarIndex) -> tuple[list[str], list[str]]:
    """Classes of the images of a folder of tars, and their names with the archive's stem in front."""
    stems = [index.tars[tar].stem for tar in index.tar]
    names = [f"{stem}/{name}" for stem, name in zip(stems, index.names, strict=True)]
    return _by_archives(stems, index.names, index.tars[0].parent), names


def _by_archives(stems: Sequence[str], names: Sequence[str], where: Path) -> list[str]:
    """Classes where archives are classes (flat inside, or below a folder of their name), or parts that hold class folders.

    Raises:
        UserError: it could be either.
    """
    folders: dict[str, set[str]] = defaultdict(set)
    for stem, name in zip(stems, names, strict=True):
        folders[stem].add(name.partition("/")[0] if "/" in name else "")
    if all(inside <= {"", stem} for stem, inside in folders.items()):
        check_not_shards(list(folders), where)
        return list(stems)
    within = {folder for inside in folders.values() for folder in inside}
    parts = _are_numbered(list(folders)) or all(SYNSET.fullmatch(folder) for folder in within)
    if parts and "" not in within:
        return [name.partition("/")[0] for name in names]
    stem = next(stem for stem, inside in folders.items() if not inside <= {"", stem})
    raise UserError(
        f"{where}: are the classes its archives ({stem}.tar, …) or the folders in them ({sorted(folders[stem])[0]}, …)? "
        "Unpack it, so that the folders right under the split's are the classes"
    )


def check_not_shards(stems: Sequence[str], where: Path) -> None:
    """Raises UserError for archives with flat images whose names count up: pieces of one set, not a class each."""
    if len(stems) > 1 and _are_numbered(stems):
        raise UserError(
            f"{where}: {stems[0]}.tar and so on look like shards, and hold no labels: expected key.cls beside key.jpg (or "
            "another file, named by --set data.options.label=…), or class folders"
        )


def _are_numbered(stems: Sequence[str]) -> bool:
    """Whether archives are numbered pieces: ``train-000000``, ``shard_001``; not synsets, nor plain class numbers."""
    if any(map(SYNSET.fullmatch, stems)):
        return False
    matches = [_NUMBERED.fullmatch(stem) for stem in stems]
    return None not in matches and len({match[1] or match[2] for match in matches if match}) == 1


def first_folders(names: Sequence[str], path: Path) -> list[str]:
    """The first folder of each name, "" for those in none; a folder that wraps the whole archive does not count."""
    cut = 0
    while True:
        firsts = {name[cut:].partition("/")[0] if "/" in name[cut:] else "" for name in names}
        only = next(iter(firsts)) if len(firsts) == 1 else ""
        wraps = bool(only) and (
            bool(_WRAPPERS.fullmatch(only))
            or only == path.stem
            or all(SYNSET.fullmatch(name[cut + len(only) + 1 :].partition("/")[0]) for name in names)
        )
        if not wraps:
            return [name[cut:].partition("/")[0] if "/" in name[cut:] else "" for name in names]
        cut += len(only) + 1
