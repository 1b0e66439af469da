"""Images named in a list: iNaturalist's json annotations, Places205 and Places365, and any ``train.txt`` of path and label."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backbones.errors import UserError
from tasks.datasets.layouts.reader import Reader, check_labels, list_fingerprint, numbered_names, unique_names

# Where the images of a list lie, under the folder that the user gives; the first that holds the first image is taken.
_PLACES365_TRAIN = ("data_256_standard", "data_256", "data_large_standard", "data_large", "train_256", "train_large")
_PLACES205 = ("data/vision/torralba/deeplearning/images256", "images256", "data/images256", "data")
_LISTS: dict[str, list[tuple[str, tuple[str, ...]]]] = {
    "train": [
        ("places365_train_standard.txt", _PLACES365_TRAIN),
        ("trainvalsplit_places205/train_places205.csv", _PLACES205),
        ("train_places205.csv", _PLACES205),
        ("train.txt", ("", "train", "images")),
    ],
    "val": [
        ("places365_val.txt", ("val_256", "val_large", "val")),
        ("trainvalsplit_places205/val_places205.csv", _PLACES205),
        ("val_places205.csv", _PLACES205),
        ("val.txt", ("", "val", "images")),
    ],
}
_CATEGORIES = (
    "categories_places365.txt",
    "categoryIndex_places205.csv",
    "trainvalsplit_places205/categoryIndex_places205.csv",
    "classes.txt",
)


class ListReader(Reader):
    """Images with their labels from a list; the files are looked for only when they are read."""

    numbered = True

    def __init__(
        self, root: Path, listing: Path, paths: Sequence[str], labels: Sequence[int], names: Sequence[str]
    ) -> None:
        self.root, self.listing, self.paths = root, listing, list(paths)
        self.labels = np.array(labels, np.int64)
        self.class_names = list(names) or numbered_names(self.labels, listing)
        check_labels(self.labels, len(self.class_names), listing)

    def name(self, i: int) -> str:
        return self.paths[i]

    def encoded(self, i: int) -> bytes:
        return (self.root / self.paths[i]).read_bytes()

    def missing_files(self) -> list[str]:
        return [path for path in self.paths if not (self.root / path).is_file()]

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


def find_list(base: Path, split: str) -> Path | None:
    """The list of `split` under `base`, if there is one."""
    return next((base / name for name, _ in _LISTS[split] if (base / name).is_file()), None)


def open_list(base: Path, listing: Path, split: str) -> ListReader:
    """A list of ``path label`` a line.

    Raises:
        UserError: a line without label, a label outside the categories' file, or the first image is nowhere.
    """
    rows = list(_lines(listing))
    if not rows:
        raise UserError(f"{listing}: no images in this list")
    paths, labels = zip(*rows, strict=True)
    places = dict(_LISTS[split])[listing.relative_to(base).as_posix()]
    roots = [base / place for place in (*places, "")]
    root = next((r for r in roots if (r / paths[0]).is_file()), None)
    if root is None:
        tried = ", ".join(dict.fromkeys(place or "." for place in places))
        raise UserError(
            f"{listing}: its first image {paths[0]} is in none of {tried} under {base}: unpack the images there"
        )
    return ListReader(root, listing, paths, labels, _category_names(base))


def _lines(listing: Path) -> Iterable[tuple[str, int]]:
    with open(listing, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            path, _, label = line.strip().replace("\t", " ").rpartition(" ")
            if not path or not re.fullmatch(r"-?\d+", label):
                raise UserError(f"{listing}:{number}: {line.strip()!r} is not a path and a class index")
            yield path.strip().lstrip("/"), int(label)


def _category_names(base: Path) -> list[str]:
    """Class names in the order of their index; none where there is no such file."""
    file = next((base / name for name in _CATEGORIES if (base / name).is_file()), None)
    if file is None:
        return []
    pairs = {label: path for path, label in _lines(file)}
    if sorted(pairs) != list(range(len(pairs))):
        raise UserError(f"{file}: class indices do not run from 0 to {len(pairs) - 1}: download it again")
    return unique_names([pairs[i] for i in range(len(pairs))])


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


def open_annotations(base: Path, listing: Path) -> ListReader:
    """iNaturalist's annotations (visipedia/inat_comp): images, annotations and categories, joined by their ids.

    Raises:
        UserError: not such a file, an annotation without image or category, an image without annotation.
    """
    try:
        content = json.loads(listing.read_bytes())
        names = {c["id"]: str(c["name"]) for c in content["categories"]}
        files = {image["id"]: image["file_name"] for image in content["images"]}
        pairs = {a["image_id"]: a["category_id"] for a in content["annotations"]}
    except (ValueError, KeyError, TypeError) as e:
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
    labels = [indices[pairs[image]] for image in files]
    return ListReader(base, listing, list(files.values()), labels, unique_names([names[c] for c in sorted(names)]))
