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

_SAMPLED_FILES = 1000


class Reader(ABC):
    """The images of one split in one layout.

    Attributes:
        root: what names are relative to, for messages.
        class_names: class index -> name, unique.
        labels: class index of every image, int64 (N,).
        numbered: classes are numbered in the files themselves, not by the order of their names.
    """

    root: Path
    class_names: list[str]
    labels: NDArray[np.int64]
    numbered: bool = False

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
        """sha256 that changes when the split does; reads no image."""

    def place(self, i: int) -> str:
        """Where the image lies, for messages."""
        return f"{self.root}/{self.name(i)}"

    def missing_files(self) -> list[str]:
        """Names of images that a list has and the disk has not; looks at every file."""
        return []

    def empty_classes(self) -> list[str]:
        """Names of classes without images, in order."""
        present = set(self.labels.tolist())
        return [name for i, name in enumerate(self.class_names) if i not in present]


def unique_names(names: Sequence[str]) -> list[str]:
    """`names`, those that occur more than once with their index: class names need not be unique, our keys must be."""
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({i})" for i, name in enumerate(names)]


def check_labels(labels: NDArray[np.int64], classes: int, where: object) -> None:
    """Raises UserError when a label is not in 0..classes-1, with the first such and where it was read."""
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        raise UserError(
            f"{where}: label {labels[outside.argmax()]} is outside 0 to {classes - 1} ({outside.sum()} such of "
            f"{len(labels)}): the file is damaged, belongs to another data set, or holds no labels"
        )


def numbered_names(labels: NDArray[np.int64], where: object) -> list[str]:
    """Names "0", "1", … up to the greatest label, for layouts that give numbers only."""
    check_labels(labels, int(labels.max(initial=-1)) + 1, where)
    return [str(i) for i in range(int(labels.max(initial=-1)) + 1)]


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


def _spread(files: Sequence[Path]) -> Iterable[Path]:
    count = min(len(files), _SAMPLED_FILES)
    return (files[k * len(files) // count] for k in range(count))
