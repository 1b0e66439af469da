"""Labelled images as classification and pre-training read them, whatever layout they lie in (`tasks.datasets.layouts`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from backbones.errors import UserError
from tasks.datasets.account import Account
from tasks.datasets.decoding import SKIP_BROKEN, UNREADABLE, WHITE, RandomCrop, decode_rgb, unreadable
from tasks.datasets.layouts import Reader, open_reader
from tasks.datasets.layouts.find import SPLITS, open_path
from tasks.datasets.layouts.folders import looks_like_imagenet
from tasks.datasets.manifest import Manifest, spelt_otherwise
from tasks.datasets.options import LayoutOptions
from tasks.datasets.roots import data_root

# fast: `CroppedImages`; pil: PIL decodes and resizes the whole, as in the official code.


@dataclass
class ImageSet:
    """The images of one split: `read` decodes image i, `labels[i]` is its class index."""

    root: Path
    split: str
    reader: Reader
    class_to_idx: dict[str, int]
    indices: list[int]  # rows of the reader that are used, in order
    way_out: str = SKIP_BROKEN  # how to leave out unreadable images, for messages
    cached: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    chosen_by: str = ""  # digest of a choice among the images, for the fingerprint
    white: int = WHITE  # ``data.white_level``

    def __post_init__(self) -> None:
        # The reader numbers its own classes; here they have the numbers of the training split.
        self._numbers = np.array([self.class_to_idx.get(name, -1) for name in self.reader.class_names], np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def classes(self) -> int:
        return len(self.class_to_idx)

    @property
    def class_names(self) -> list[str]:
        """Class index -> name."""
        return sorted(self.class_to_idx, key=lambda name: self.class_to_idx[name])

    @property
    def labels(self) -> list[int]:
        """The class index of every image, without reading any."""
        found: list[int] = self._numbers[self.reader.labels[self.indices]].tolist()
        return found

    def name(self, i: int) -> str:
        """The image's path for messages."""
        return self.reader.place(self.indices[i])

    def relative_name(self, i: int) -> str:
        """The image's path under the folder, or in the tar."""
        return self.reader.name(self.indices[i])

    def encoded(self, i: int) -> tuple[bytes, int]:
        """The image file's bytes, not decoded, and its class index.

        Raises:
            UserError: cannot be read, naming the file.
        """
        try:
            return self.reader.encoded(self.indices[i]), self.label(i)
        except (OSError, ValueError) as e:
            raise self.unreadable(i, e) from e

    def read(self, i: int) -> tuple[Image.Image, int]:
        """The whole image as RGB, and its class index.

        Raises:
            UserError: unreadable or cut short, naming the file.
        """
        if i in self.cached:
            return Image.fromarray(self.cached[i]), self.label(i)
        content, label = self.encoded(i)
        try:
            return decode_rgb(content, white=self.white), label
        except UNREADABLE as e:
            raise self.unreadable(i, e) from e

    def unreadable(self, i: int, reason: Exception) -> UserError:
        """The error for an image that cannot be read or decoded."""
        return unreadable(self.name(i), reason, self.way_out)

    def label(self, i: int) -> int:
        """The class index, without reading the image."""
        return int(self._numbers[self.reader.labels[self.indices[i]]])

    def limit(self, count: int | None) -> None:
        """Keeps `count` images, spread evenly over the split so that every class stays."""
        if count is not None and count < len(self.indices):
            self._keep([k * len(self.indices) // count for k in range(count)], "not_chosen")

    def choose(self, rows: Sequence[int]) -> None:
        """Keeps the images at these places, in this order; the fingerprint becomes that of the choice."""
        self._keep(rows, "not_chosen")
        names = "\n".join(self.reader.name(k) for k in self.indices)
        self.chosen_by = hashlib.sha256(names.encode()).hexdigest()

    def drop_broken(self) -> int:
        """Decodes everything once and leaves out what cannot be read; returns how many."""
        good = [i for i in range(len(self)) if self._is_readable(i)]
        dropped = len(self) - len(good)
        self._keep(good, "unreadable")
        return dropped

    def _is_readable(self, i: int) -> bool:
        try:
            self.read(i)
        except UserError:
            return False
        return True

    def _keep(self, rows: Sequence[int], reason: str) -> None:
        """Keeps the images at these places, in this order; the account says why the others go."""
        kept = set(rows)
        gone = [i for i in range(len(self)) if i not in kept]
        if gone:
            self.reader.give_up(reason, self.name(gone[0]), len(gone))
        self.indices = [self.indices[i] for i in rows]

    @property
    def account(self) -> Account:
        """What was found of the split, used and left out."""
        return self.reader.account

    def manifest(self, *, whole: bool = False) -> Manifest:
        """What the checks that know no layout look at: the images that are used, or all of the split."""
        rows = np.arange(len(self.reader)) if whole else np.asarray(self.indices, np.int64)
        sizes = self.reader.sizes()
        return Manifest(
            str(self.reader.root),
            self.class_names,
            np.bincount(np.maximum(self._numbers[self.reader.labels[rows]], 0), minlength=self.classes),
            self.reader.places()[rows],
            name=lambda i: self.reader.name(int(rows[i])),
            content=lambda i: self.reader.encoded(int(rows[i])),
            sizes=None if sizes is None else sizes[rows],
            labels=self._numbers[self.reader.labels[rows]],
        )

    def cache(self) -> None:
        """Decodes everything now, so that forked workers share the memory."""
        for i in range(len(self)):
            self.cached[i] = np.array(self.read(i)[0])  # a copy: torch takes no read-only memory

    def fingerprint(self) -> str:
        """sha256 over the files' names and sizes (archives: their own), and over a choice among them."""
        whole = self.reader.fingerprint()
        return hashlib.sha256(f"{whole}\n{self.chosen_by}".encode()).hexdigest() if self.chosen_by else whole


def open_split(
    name: str,
    root: str | None,
    split: str,
    class_to_idx: dict[str, int] | None = None,
    *,
    options: LayoutOptions = LayoutOptions(),  # noqa: B008 (frozen)
    allow: Collection[str] = (),
) -> ImageSet:
    """The images of `split` (pretrain, train or val) under `root`, in any layout of `tasks.datasets.layouts`.

    Args:
        class_to_idx: classes of the training split, so that both splits number them alike.
        options: what the layout does not say itself.
        allow: ``data.allow``.

    Raises:
        UserError: folder missing or empty, no such split, no images, a class that training does not have, a class
            without training images, something left out for a doubtful reason, or what is wrong with the layout.
    """
    base = data_root(name, root)
    reader = open_reader(base, split, options)
    if reader is None:
        known = " or ".join(f"{s}/, {s}.tar" for s in SPLITS[split])
        raise UserError(
            f"--data {name}={root}: no {split} split there: expected {known} with one folder a class, or another of the "
            f"layouts of docs/data.md{_meant(base, split)}"
        )
    reader.account.settle(reader.root, allow)
    if not len(reader):
        raise UserError(f"{reader.root}: no images with a class are left")
    own = {class_name: i for i, class_name in enumerate(reader.class_names)}
    if class_to_idx is not None and own != class_to_idx:
        _check_classes(reader, class_to_idx)
    if split == "train" or (split == "val" and class_to_idx is None):
        _check_filled(reader, split)
    way_out = "--set data.allow=[unreadable]" if split == "val" else SKIP_BROKEN
    return ImageSet(base, split, reader, class_to_idx or own, list(range(len(reader))), way_out, white=options.white)


def open_folder(path: str | Path, *, skip_broken: bool = False) -> ImageSet:
    """Every image under a folder or in a tar, in the natural order of the names; folders' names are the classes.

    Images that lie in no folder have the class ``""``.

    Args:
        skip_broken: leave out what a name says to be an image and that cannot be one here (no such file, HEIC).

    Raises:
        UserError: no such folder, neither folder nor tar, no images, or something that would be left out.
    """
    base = Path(path).expanduser()
    if not base.exists():
        raise UserError(f"--data {path}: no such file or folder")
    if base.is_file() and base.suffix.lower() != ".tar":
        raise UserError(f"--data {path}: give a folder of images or a .tar")
    reader = open_path(base)
    if not skip_broken and (doubts := reader.account.doubts(base)):
        raise UserError(f"{doubts[0].rpartition(': ')[0]}: mend that, or leave such files out with --skip-broken")
    if not len(reader):
        raise UserError(f"--data {path}: no images found there")
    own = {class_name: i for i, class_name in enumerate(reader.class_names)}
    return ImageSet(base, "", reader, own, list(range(len(reader))), way_out="--skip-broken")


def _check_classes(reader: Reader, wanted: dict[str, int]) -> None:
    """A split may lack classes of the training split but not have images of others."""
    present = {reader.class_names[i] for i in set(reader.labels.tolist())}
    extra = sorted(present - wanted.keys())
    if extra:
        raise UserError(
            f"{reader.root}: class {extra[0]!r} is not in the training split ({len(extra)} such): remove or add it"
            f"{spelt_otherwise(extra[0], wanted)}{_unsorted(reader, extra)}"
        )


def _unsorted(reader: Reader, extra: Sequence[str]) -> str:
    """A hint where a list has numbers for names, or images lie in one folder as Tiny-ImageNet's, their labels beside."""
    if reader.numbered and all(name.isdecimal() for name in extra):
        return " (these are numbers, training's classes have names: give names, in a CSV list of path,label)"
    if len(extra) > 1 or not reader.root.is_dir():
        return ""
    lists = sorted(path.name for path in reader.root.glob("*.txt"))
    return f" (its labels are in {lists[0]}? Move the images into a folder a class)" if lists else ""


def _check_filled(reader: Reader, split: str) -> None:
    """Without its images a class would be learnt by nobody, or shift the numbers of those after it."""
    if split == "val" and reader.numbered:
        return  # a class without images shifts nothing
    if empty := reader.empty_classes():
        from_one = " (if the first class is 1: --set data.options.first_label=1)" if empty == ["0"] else ""
        raise UserError(
            f"{reader.root}: class {empty[0]!r} has no images ({len(empty)} such of {len(reader.class_names)}): "
            f"complete the download, or remove the class{from_one}"
        )


class TransformedImages(Dataset[Any]):
    """An image set under a transform of PIL images: ``dataset[i]`` is (transformed image, class index)."""

    def __init__(self, images: ImageSet, transform: Callable[[Image.Image], Any]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        image, label = self.images.read(i)
        return self.transform(image), label


class CroppedImages(Dataset[Any]):
    """An image set under a random crop, little more than it is decoded: ``dataset[i]`` is (uint8 (3, H, W), class index)."""

    def __init__(self, images: ImageSet, crop: RandomCrop) -> None:
        self.images, self.crop = images, crop

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        view, label = self._view(i)
        return self.crop.then(view), label

    def _view(self, i: int) -> tuple[Tensor, int]:
        if i in self.images.cached:
            return self.crop.of_pixels(self.images.cached[i]), self.images.label(i)
        content, label = self.images.encoded(i)
        try:
            return self.crop.of_encoded(content, self.images.white), label
        except UNREADABLE as e:
            raise self.images.unreadable(i, e) from e


def training_images(
    images: ImageSet, decoder: str, transform: Callable[[Image.Image], Any], crop: RandomCrop | None
) -> Dataset[Any]:
    """Training images by the recipe's ``data.decoder``: `crop` where it is fast and there is one, else `transform`.

    Args:
        transform: of the whole image, the official pixels.
        crop: the same draws as `transform`; None for a transform that does not start with a random crop.
    """
    return TransformedImages(images, transform) if decoder == "pil" or crop is None else CroppedImages(images, crop)


def _meant(base: Path, split: str) -> str:
    """The folder beside `base` that was probably meant: one above it, or one in it, that has the split."""
    below = sorted(path for path in base.iterdir() if path.is_dir())[:100] if base.is_dir() else []
    for folder in (base.parent, base.parent.parent, *below):
        test_set = split == "val" and folder in below and looks_like_imagenet(folder)
        if test_set or any((folder / name).is_dir() for name in SPLITS[split]):
            return f"; {folder} has one: is that meant?"
    return ""
