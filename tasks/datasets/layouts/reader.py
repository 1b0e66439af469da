"""What every layout gives: encoded images by index, their labels and names, without decoding anything."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backbones.errors import UserError
from tasks.datasets.account import Account

MAX_CLASSES = 100_000
"""Class numbers from here on are no class numbers: the largest public sets of images have some 20,000 classes."""
_SAMPLED_FILES = 1000


class Reader(ABC):
    """The images of one split in one layout.

    Attributes:
        root: what names are relative to, for messages.
        class_names: class index -> name, unique.
        labels: class index of every image, int64 (N,).
        numbered: classes are numbered in the files themselves, not by the order of their names.
        account: everything that was found, used or left out.
        kind, units: what an image is in the account, and how many of it: a shard's image comes with a label file.
        notes: what else a person should know of how the layout was read.
    """

    root: Path
    class_names: list[str]
    labels: NDArray[np.int64]
    numbered: bool = False
    account: Account
    kind: str = "files"
    units: int = 1
    notes: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def name(self, i: int) -> str:
        """The image's path under the root, or in its archive."""

    @abstractmethod
    def encoded(self, i: int) -> bytes:
        """The image file's bytes. Raises OSError or ValueError when they cannot be read."""

    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 that changes when the split does; reads no image. Copies of the data have the same."""

    @abstractmethod
    def places(self) -> NDArray[np.int64]:
        """(N,) `tasks.datasets.manifest.place_of` each image: links to the same bytes have the same."""

    @abstractmethod
    def modified(self) -> str:
        """sha256 over times of modification, for what is kept on this machine; copies may have another."""

    def sizes(self) -> NDArray[np.int64] | None:
        """(N,) bytes of each image's file; None where that takes longer than a listing."""
        return None

    def place(self, i: int) -> str:
        """Where the image lies, for messages."""
        return f"{self.root}/{self.name(i)}"

    def require_labels(self) -> None:  # noqa: B027 (most layouts have labels for all)
        """Leaves out, in the account, images that the layout gives no class."""

    def give_up(self, reason: str, place: object, images: int = 1) -> None:
        """So many images that were used are left out after all."""
        self.account.give_up(self.kind, reason, place, images * self.units)

    def empty_classes(self) -> list[str]:
        """Names of classes without images, in order."""
        present = set(self.labels.tolist())
        return [name for i, name in enumerate(self.class_names) if i not in present]


def unique_names(names: Sequence[str]) -> list[str]:
    """`names`, those that occur more than once with their index: class names need not be unique, our keys must be."""
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({i})" for i, name in enumerate(names)]


def class_indices(numbers: Sequence[int], names: Sequence[str], first: int, where: object) -> NDArray[np.int64]:
    """Class indices of the numbers that a file has, which begin at `first`.

    Args:
        names: of the classes; without any, numbers up to `MAX_CLASSES` will do.

    Raises:
        UserError: a number outside; the first such, and how many.
    """
    most = len(names) or MAX_CLASSES
    outside = [number for number in numbers if not first <= number < first + most]
    if outside:
        # A number of 10^30 does not fit into an array, one of 10^9 would make as many classes.
        hint = " (if the first class is 1: --set data.options.first_label=1)" if first + most in outside else ""
        raise UserError(
            f"{where}: label {outside[0]} is outside {first} to {first + most - 1} ({len(outside)} such of {len(numbers)}): "
            f"the file is damaged, belongs to another data set, or holds no labels{hint}"
        )
    return np.array(numbers, np.int64) - first


def numbered_names(labels: NDArray[np.int64], first: int = 0) -> list[str]:
    """Names ``first``, ``first + 1``, … up to the greatest label, for layouts that give numbers only."""
    return [str(i + first) for i in range(int(labels.max(initial=-1)) + 1)]


def list_fingerprint(listing: bytes, files: Sequence[Path]) -> str:
    """sha256 over a list of images and the sizes of some files spread over it: cheap where a stat of each is not.

    Raises:
        UserError: one of those files is missing.
    """
    digest = hashlib.sha256(listing)
    for file in _spread(files):
        try:
            digest.update(f"{file.stat().st_size}\n".encode())
        except OSError as e:
            raise UserError(f"{file}: listed but not there ({e.strerror}): complete the download") from e
    return digest.hexdigest()


def modified(files: Iterable[Path]) -> str:
    """sha256 over the times of modification of some files."""
    digest = hashlib.sha256()
    for file in files:
        try:
            digest.update(f"{file.stat().st_mtime_ns}\n".encode())
        except OSError as e:
            raise UserError(f"{file}: not there any more ({e.strerror})") from e
    return digest.hexdigest()


def _spread(files: Sequence[Path]) -> Iterable[Path]:
    count = min(len(files), _SAMPLED_FILES)
    return (files[k * len(files) // count] for k in range(count))
