"""Class folders as torchvision's `ImageFolder` has them: a folder right under the split is a class, whatever lies below it."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backbones.errors import UserError
from backbones.plain_files import open_plain
from tasks.datasets.account import Account
from tasks.datasets.imagenet import synsets
from tasks.datasets.layouts.reader import Reader
from tasks.datasets.listing import KIND, list_images, natural_key
from tasks.datasets.suffixes import is_hidden

SYNSET = re.compile(r"n\d{8}")


class FolderReader(Reader):
    """Classes are the names of the folders under `root` in plain order; images right under it have the class ``""``."""

    def __init__(self, root: Path) -> None:
        self.root, self.account, self.notes = root, Account(), []
        self.files = list_images(root, self.account)
        if not self.files.names:
            self.account.settle(root)  # a reason to say first, such as a format that is not read
            raise UserError(f"{root}: no images found in class folders{_seen(self.account)}")
        self._set_classes([name.partition("/")[0] if "/" in name else "" for name in self.files.names])

    def _set_classes(self, classes: list[str]) -> None:
        self.class_names = sorted(set(classes))
        index = {name: i for i, name in enumerate(self.class_names)}
        self.labels = np.array([index[name] for name in classes], np.int64)

    def require_labels(self) -> None:
        """Images right under the split are in no class."""
        if "" not in self.class_names:
            return
        stray = [name for name in self.files.names if "/" not in name]
        for name in stray:
            self.account.give_up(KIND, "no_label", f"{self.root}/{name}")
        self.files = self.files.take(np.flatnonzero(["/" in name for name in self.files.names]))
        self._set_classes([name.partition("/")[0] for name in self.files.names])

    def name(self, i: int) -> str:
        return self.files.names[i]

    def place(self, i: int) -> str:
        return os.path.join(self.root, self.files.names[i])

    def encoded(self, i: int) -> bytes:
        with open_plain(self.place(i), buffering=0) as file:  # half the time of a buffered one that is read at once
            return file.read()

    def sizes(self) -> NDArray[np.int64]:
        return self.files.sizes

    def places(self) -> NDArray[np.int64]:
        return self.files.places

    def modified(self) -> str:
        return hashlib.sha256(self.files.mtimes.astype("<i8").tobytes()).hexdigest()

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        by_parts = sorted(zip(self.files.names, self.files.sizes.tolist(), strict=True), key=lambda f: f[0].split("/"))
        for name, size in by_parts:
            digest.update(f"{name}\0{size}\n".encode(errors="surrogateescape"))
        # Earlier versions took the folder that a file lies in for its class, and natural order: other labels, another job.
        if self.class_names != sorted(self.class_names, key=natural_key):
            digest.update(b"classes in plain order\n")
        if any(name.count("/") > 1 for name in self.files.names):
            digest.update(b"classes by the first folder\n")
        return digest.hexdigest()

    def empty_classes(self) -> list[str]:
        filled = {self.name(i).partition("/")[0] for i in range(len(self))}
        return sorted(path.name for path in class_folders(self.root) if path.name not in filled)


class ImageNetFolderReader(FolderReader):
    """Folders of a set that shares ImageNet's 1000 classes: its label is the index among those, whatever is there.

    Folders are named by synset (ImageNet-A, -R, -Sketch, -C) or by index (ImageNet-V2: ``0`` to ``999``).
    """

    def __init__(self, root: Path) -> None:
        known = {name: i for i, name in enumerate(synsets())}
        for folder in class_folders(root):
            if folder.name not in known and not is_index(folder.name):
                raise UserError(
                    f"{folder}: no class of ImageNet's 1000 has this name: remove the folder, or give a data set of your "
                    "own as train/ and val/ with class folders"
                )
        super().__init__(root)
        self.require_labels()
        own = [known[name] if name in known else int(name) for name in self.class_names]
        numbers = [name for name in self.class_names if name not in known]
        if numbers and not root.name.startswith("imagenetv2"):  # that set's folders are numbers
            self.notes.append(
                f"{len(numbers)} folders are numbers, such as {numbers[0]}: taken for indices of ImageNet's 1000 classes"
            )
        self.labels = np.array(own, np.int64)[self.labels]
        self.class_names = list(synsets())


def class_folders(root: Path) -> list[Path]:
    """The folders right under `root`, without hidden ones."""
    try:
        return [path for path in root.iterdir() if path.is_dir() and not is_hidden(path.name)]
    except OSError as e:
        raise UserError(f"{root}: cannot be read ({e.strerror}): mend its permissions") from e


def is_index(name: str) -> bool:
    """Whether a folder's name is a class index of ImageNet."""
    return name.isdecimal() and int(name) < len(synsets()) and name == str(int(name))


def looks_like_imagenet(root: Path) -> bool:
    """Whether `root` holds class folders of ImageNet, by synset or (all of them) by index."""
    names = [path.name for path in class_folders(root)]
    return any(SYNSET.fullmatch(name) for name in names) or (bool(names) and all(map(is_index, names)))


def _seen(account: Account) -> str:
    found = account.kinds[KIND].found if KIND in account.kinds else 0
    return f" ({found} other files there)" if found else ""
