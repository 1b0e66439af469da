"""Images named in a list: iNaturalist's json annotations, Places205 and Places365, and any ``train.txt`` of path and label."""

from __future__ import annotations

import csv
import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbones.errors import UserError
from backbones.plain_files import parse_json, read_plain
from tasks.datasets.account import Account
from tasks.datasets.layouts.reader import (
    Reader,
    class_indices,
    list_fingerprint,
    modified,
    numbered_names,
    unique_names,
)
from tasks.datasets.manifest import place_of
from tasks.datasets.options import LayoutOptions

KIND = "rows"
_MOST_STATS = 50_000  # images of a list whose sizes are looked up, some seconds on a network's disk
# Where the images of a list lie, under the folder that the user gives; the first that holds the first image is taken.
_PLACES365_TRAIN = ("data_256_standard", "data_256", "data_large_standard", "data_large", "train_256", "train_large")
_PLACES205 = ("data/vision/torralba/deeplearning/images256", "images256", "data/images256", "data")
_LISTS: dict[str, list[tuple[str, tuple[str, ...]]]] = {
    "train": [
        ("places365_train_standard.txt", _PLACES365_TRAIN),
        ("trainvalsplit_places205/train_places205.csv", _PLACES205),
        ("train_places205.csv", _PLACES205),
        ("train.txt", ("", "train", "images")),
        ("train.csv", ("", "train", "images")),
    ],
    "val": [
        ("places365_val.txt", ("val_256", "val_large", "val")),
        ("trainvalsplit_places205/val_places205.csv", _PLACES205),
        ("val_places205.csv", _PLACES205),
        ("val.txt", ("", "val", "images")),
        ("val.csv", ("", "val", "images")),
    ],
}
_CATEGORIES = (
    "categories_places365.txt",
    "categoryIndex_places205.csv",
    "trainvalsplit_places205/categoryIndex_places205.csv",
    "classes.txt",
)
_HEADER = re.compile(r"(?i)(path|file|file_?name|file_?path|image|image_?(path|file|id)|img|id|name)")
_MISSING = ("nan", "n/a", "#n/a", "<na>")
Row = tuple[str, str, str]  # path, label as it stands there, place in the list


class ListReader(Reader):
    """Images with their labels from a list. Which files are there is looked up in listings of their folders."""

    numbered = True
    kind = KIND

    def __init__(
        self,
        root: Path,
        listing: Path,
        rows: Sequence[tuple[str, int, str]],
        names: Sequence[str],
        options: LayoutOptions = LayoutOptions(),  # noqa: B008
    ) -> None:
        """`rows` are (path, class number, place in the list)."""
        self.root, self.listing, self.account, self.notes = root, listing, Account(), []
        kept = self._present(rows, options.outside)
        self.paths = [path for _, path in kept]
        self._sizes: NDArray[np.int64] | None = None
        self.labels = class_indices([rows[row][1] for row, _ in kept], names, options.first_label, listing)
        self.class_names = list(names) or numbered_names(self.labels, options.first_label)

    def _present(self, rows: Sequence[tuple[str, int, str]], outside: bool) -> list[tuple[int, str]]:
        """(row, path as the disk has it) of the rows that can be used; the others go into the account."""
        folders = _Folders(self.root)
        kept: list[tuple[int, str]] = []
        seen: set[str] = set()
        other_spelling = 0
        for row, (path, _, place) in enumerate(rows):
            self.account.found(KIND)
            leaves = _leaves(path) and not outside
            actual = None if leaves else folders.find(path)
            if leaves:
                self.account.leave_out(KIND, "outside", f"{place}: {path}")
            elif actual is None:
                self.account.leave_out(KIND, "missing", f"{place}: {path}")
            elif actual in seen:
                self.account.leave_out(KIND, "duplicate", f"{place}: {path}")
            else:
                self.account.use(KIND)
                seen.add(actual)
                kept.append((row, actual))
                other_spelling += actual != path
        if other_spelling:
            self.notes.append(
                f"{self.listing.name}: {other_spelling} names were found in another spelling (case, accents)"
            )
        return kept

    def name(self, i: int) -> str:
        return self.paths[i]

    def encoded(self, i: int) -> bytes:
        return read_plain(self.root / self.paths[i])

    def sizes(self) -> NDArray[np.int64] | None:
        """See `Reader`; a stat a file, where they are not too many."""
        if len(self) > _MOST_STATS:
            return None
        if self._sizes is None:
            self._sizes = np.array([_size(self.root / path) for path in self.paths], np.int64)
        return self._sizes

    def places(self) -> NDArray[np.int64]:
        root = os.path.realpath(self.root)
        return np.array([place_of(root, path) for path in self.paths], np.int64)

    def modified(self) -> str:
        return modified(self.root / path for path in self.paths)

    def fingerprint(self) -> str:
        return list_fingerprint(self.listing.read_bytes(), _Files(self.root, self.paths))


class _Files(Sequence[Path]):
    """The paths, made when asked for: a million of them are not needed."""

    def __init__(self, root: Path, paths: list[str]) -> None:
        self.root, self.paths = root, paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: Any) -> Any:
        return self.root / self.paths[i]


class _Folders:
    """Which files lie under a folder: a listing of each folder that is asked for, once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listed: dict[str, tuple[set[str], dict[str, str]]] = {}

    def find(self, path: str) -> str | None:
        """The file's path as the disk spells it (``.JPG`` for ``.jpg``, other forms of accents); None where there is none."""
        folder, _, name = path.rpartition("/")
        if folder not in self._listed:
            self._listed[folder] = self._list(folder)
        there, alike = self._listed[folder]
        if name in there:
            return path
        actual = alike.get(_folded(name))
        return None if actual is None else f"{folder}/{actual}" if folder else actual

    def _list(self, folder: str) -> tuple[set[str], dict[str, str]]:
        try:
            with os.scandir(self.root / folder) as entries:
                there = {entry.name for entry in entries if entry.is_file()}
        except (FileNotFoundError, NotADirectoryError):
            return set(), {}
        except OSError as e:
            raise UserError(f"{self.root / folder}: cannot be read ({e.strerror}): mend its permissions") from e
        counts = Counter(map(_folded, there))
        return there, {key: name for name in there if counts[key := _folded(name)] == 1}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _size(path: Path) -> int:
    """Bytes of a file; -1 where it cannot be told, which whoever reads it says."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _leaves(path: str) -> bool:
    """Whether a path leads out of the folder that it is relative to."""
    return path.startswith("/") or ".." in path.split("/")


def find_list(base: Path, split: str) -> Path | None:
    """The list of `split` under `base`, if there is one."""
    return next(iter(_lists(base, split)), None)


def _lists(base: Path, split: str) -> list[Path]:
    return [base / name for name, _ in _LISTS[split] if (base / name).is_file()]


def open_list(base: Path, listing: Path, split: str, options: LayoutOptions = LayoutOptions()) -> ListReader:  # noqa: B008
    """A list of ``path label`` a line, apart by space, tab, comma or semicolon; with or without a line of headings.

    Raises:
        UserError: a line without label, a label outside the categories' file, or the first image is nowhere.
    """
    if others := [path.name for path in _lists(base, split) if path != listing]:
        raise UserError(f"{listing}: {others[0]} is there as well: which of them is meant? Keep one list a split")
    rows = list(_lines(listing))
    if not rows:
        raise UserError(f"{listing}: no images in this list")
    names = _category_names(base)
    labelled, names = _numbered(rows, names, listing)
    inside = [(_inside(base, path), label, place) for path, label, place in labelled]
    places = dict(_LISTS[split])[listing.relative_to(base).as_posix()]
    root = _root(base, places, inside)
    if root is None:
        tried = ", ".join(dict.fromkeys(place or "." for place in places))
        raise UserError(
            f"{listing}: its first image {rows[0][0]} is in none of {tried} under {base}: unpack the images there"
            f"{_columns(rows[0][0])}"
        )
    _check_first_label(base, split, labelled, options)
    return ListReader(root, listing, inside, names, options)


def _columns(path: str) -> str:
    """A hint where a path has separators in it: a list has two columns, and of more the last is taken for the label."""
    more = len(re.findall(r"[,;\t]", path))
    return f" (a list has two columns, path and label; this one has {more + 2}?)" if more else ""


def _root(base: Path, places: Sequence[str], rows: Sequence[tuple[str, int, str]]) -> Path | None:
    """The first of the folders that holds the first image that stays inside."""
    first = next((path for path, *_ in rows if not _leaves(path)), None)
    if first is None:
        return base
    return next((base / p for p in (*places, "") if _Folders(base / p).find(first) is not None), None)


def _inside(base: Path, path: str) -> str:
    """A path of a list under the data folder: absolute ones that lead into it, and Places365's with a ``/`` in front."""
    if "\\" in path and not (base / path).exists():  # written on Windows
        path = path.replace("\\", "/")
    if not path.startswith("/"):
        return path if _leaves(path) else posixpath.normpath(path)
    for prefix in dict.fromkeys((f"{base}/", f"{os.path.realpath(base)}/")):
        if path.startswith(prefix):
            return path[len(prefix) :]
    relative = path.lstrip("/")
    return path if os.path.exists(path) else relative


def _numbered(rows: Sequence[Row], names: Sequence[str], listing: Path) -> tuple[list[tuple[str, int, str]], list[str]]:
    """Rows with class numbers; labels that are texts are names, whose numbers are their places in plain order."""
    if all(_is_number(label) for _, label, _ in rows):
        return [(path, int(label), place) for path, label, place in rows], list(names)
    if listing.suffix != ".csv":
        path, label, place = next(row for row in rows if not _is_number(row[1]))
        raise UserError(f"{place}: {f'{path} {label}'.strip()!r} is not a path and a class index")
    known = list(names) or sorted({label for _, label, _ in rows})
    index = {name: i for i, name in enumerate(known)}
    for path, label, place in rows:
        if label.lower() in _MISSING and label not in names:
            raise UserError(
                f"{place}: {label!r} for the class of {path} is how tools write that there is none: give one"
            )
        if label not in index:
            raise UserError(f"{place}: {label!r}, the class of {path}, is none of the {len(known)} known")
    return [(path, index[label], place) for path, label, place in rows], known


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]{1,4000}", text) is not None


def _check_first_label(base: Path, split: str, rows: Sequence[tuple[str, int, str]], options: LayoutOptions) -> None:
    """Lists whose labels run from 1 up to the number of classes: read only where the user says so, for both splits alike.

    Raises:
        UserError: they do, and nothing was said.
    """
    numbers = {label for _, label, _ in rows}
    from_one = min(numbers) == 1 and len(numbers) == max(numbers)
    if options.first_label == 0 and split == "train" and from_one:
        raise UserError(
            f"{find_list(base, split)}: labels run from 1 to {max(numbers)}, and none is 0: say that the first class is 1 "
            "with --set data.options.first_label=1, or complete the list"
        )


def _lines(listing: Path) -> Iterator[Row]:
    """Rows of a list; names of files may hold any bytes, as on disk.

    Raises:
        UserError: a line that is not path and label, or a file that is no text.
    """
    heading = True  # may come
    with open(listing, encoding="utf-8-sig", errors="surrogateescape", newline=None) as lines:
        for number, text in enumerate(lines, 1):
            line = text.strip()
            if not line or re.fullmatch(r"(?i)sep=.", line):  # the latter is Excel's
                continue
            place = f"{listing}:{number}"
            if "\0" in line:
                raise UserError(f"{place}: a null byte: this is no list of paths and labels")
            fields = _fields(line, listing.suffix == ".csv")
            if len(fields) == 1:
                raise UserError(f"{place}: {line!r} is not a path and a class index")
            first, heading = heading, False
            if first and not _is_number(fields[1]) and _HEADER.fullmatch(fields[0]):
                continue
            yield fields[0], fields[1], place


def _fields(line: str, csv_file: bool) -> list[str]:
    """Path and label; in a list apart by spaces, a path may hold some, in a CSV file a label."""
    if '"' in line:
        split = (next(csv.reader([line], delimiter=by)) for by in ",;\t")
        return next(([field.strip() for field in fields] for fields in split if len(fields) == 2), [line])
    ways = [r"(.*?\S)\s*[\s,;]\s*(-?[0-9]+)", r"(.*\S)\s*[,;\t]\s*([^,;\t]+)", r"(.*\S)\s+(\S+)"]
    if csv_file:
        ways[:2] = ways[1::-1]
    match = next(filter(None, (re.fullmatch(way, line) for way in ways)), None)
    return [match[1].strip(), match[2].strip()] if match else [line]


def _category_names(base: Path) -> list[str]:
    """Class names in the order of their index; none where there is no such file."""
    file = next((base / name for name in _CATEGORIES if (base / name).is_file()), None)
    if file is None:
        return []
    rows = list(_category_lines(file))
    if sorted(label for _, label in rows) != list(range(len(rows))):
        raise UserError(f"{file}: class indices do not run from 0 to {len(rows) - 1}: download it again")
    return unique_names([name for name, _ in sorted(rows, key=lambda row: row[1])])


def _category_lines(file: Path) -> Iterable[tuple[str, int]]:
    """``name index`` a line, or plain names in the order of their index."""
    text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    pairs = [re.fullmatch(r"(.*\S)[\s,]+([0-9]{1,9})", line) for line in lines]
    if all(pairs):
        return [(match[1].lstrip("/"), int(match[2])) for match in pairs if match]
    if any(pairs):
        bare = next(line for line, match in zip(lines, pairs, strict=True) if match is None)
        raise UserError(f"{file}: {bare!r} has no class index, other lines have one")
    return [(line, i) for i, line in enumerate(lines)]


def find_annotations(base: Path, split: str) -> Path | None:
    """``train2018.json`` or the like under `base`, if there is one.

    Raises:
        UserError: there are several years.
    """
    found = [path for path in sorted(base.glob(f"{split}20[0-9][0-9]*.json")) if path.is_file()]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"{base}: several years there ({names}): give each its own folder")
    return found[0] if found else None


def open_annotations(base: Path, listing: Path, options: LayoutOptions = LayoutOptions()) -> ListReader:  # noqa: B008
    """iNaturalist's annotations (visipedia/inat_comp): images, annotations and categories, joined by their ids.

    Raises:
        UserError: not such a file, ids that are there twice, an annotation without image or category, an image without
            annotation.
    """
    try:
        content = parse_json(read_plain(listing))
        names = {c["id"]: str(c["name"]) for c in content["categories"]}
        files = {image["id"]: str(image["file_name"]) for image in content["images"]}
        pairs = {a["image_id"]: a["category_id"] for a in content["annotations"]}
        twice = (
            ("category", names, "categories"),
            ("image", files, "images"),
            ("annotation of image", pairs, "annotations"),
        )
        for what, by_id, key in twice:
            if len(by_id) != len(content[key]):
                _refuse_twice(listing, what, [_id_of(entry, key) for entry in content[key]])
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise UserError(
            f"{listing}: not iNaturalist's annotations ({type(e).__name__}: {e}): expected images, annotations, categories"
        ) from e
    indices = {category: i for i, category in enumerate(sorted(names))}
    for image, category in pairs.items():
        if category not in indices:
            raise UserError(
                f"{listing}: image {image} has category {category}, which is not among its {len(names)} categories"
            )
        if image not in files:
            raise UserError(f"{listing}: annotation of image {image}, which is not among its {len(files)} images")
    bare = next((file for image, file in files.items() if image not in pairs), None)
    if bare is not None or not files:
        raise UserError(f"{listing}: image {bare} has no annotation" if bare else f"{listing}: no images in it")
    rows = [(_inside(base, file), indices[pairs[image]], f"image {image}") for image, file in files.items()]
    return ListReader(
        base, listing, rows, unique_names([names[c] for c in sorted(names)]), LayoutOptions(outside=options.outside)
    )


def _id_of(entry: Any, key: str) -> Any:
    return entry["image_id" if key == "annotations" else "id"]


def _refuse_twice(listing: Path, what: str, ids: list[Any]) -> None:
    number, count = Counter(ids).most_common(1)[0]
    raise UserError(f"{listing}: {what} {number} is there {count} times: which of them is meant?")


KAGGLE_LIST = "LOC_val_solution.csv"


def kaggle_labels(file: Path, index_of: Callable[[str], int]) -> dict[str, int]:
    """Image id -> class index, of Kaggle's list of ImageNet's validation labels: ``ImageId,PredictionString``.

    The second column is a synset and a box, again and again; all of an image are of one class.

    Raises:
        UserError: something else is in it.
    """
    found: dict[str, int] = {}
    with open(file, encoding="utf-8-sig", newline="") as lines:
        for number, row in enumerate(csv.reader(lines), 1):
            if number == 1 or not row:
                continue
            try:
                found[row[0]] = index_of(row[1].split()[0])
            except (IndexError, KeyError, ValueError) as e:
                raise UserError(f"{file}:{number}: expected an image id and a synset with boxes") from e
    return found
