"""Class folders, read by timm's reader: one folder a class, at any depth, the leaf folder's name being the class."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
from timm.data.readers.reader_image_folder import ReaderImageFolder

from backbones.errors import UserError
from tasks.datasets.imagenet import synsets
from tasks.datasets.layouts.reader import Reader
from tasks.datasets.roots import fingerprint

SYNSET = re.compile(r"n\d{8}")


class FolderReader(Reader):
    """Classes are the sorted (natural order) names of the leaf folders; images in no folder have the class ``""``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            reader = ReaderImageFolder(str(root))
        except (RuntimeError, ValueError, OSError) as e:
            reason = (str(e).splitlines() or [type(e).__name__])[0]
            raise UserError(f"{root}: no images found in class folders: {reason}") from e
        self.files: list[str] = [file for file, _ in reader.samples]
        self.labels = np.array([label for _, label in reader.samples], np.int64)
        self.class_names = list(reader.class_to_idx)

    def name(self, i: int) -> str:
        # Cut off as text: making a million paths takes seconds.
        return self.files[i][len(os.path.join(self.root, "")) :].replace(os.sep, "/")

    def place(self, i: int) -> str:
        return self.files[i]

    def encoded(self, i: int) -> bytes:
        with open(self.files[i], "rb", buffering=0) as file:  # half the time of a buffered one that is read at once
            return file.read()

    def fingerprint(self) -> str:
        return fingerprint(self.root, map(Path, self.files))

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
        own = [known[name] if name in known else int(name) for name in self.class_names if name]
        if len(own) != len(self.class_names):
            raise UserError(f"{root}: images lie beside the class folders: move them into one")
        self.labels = np.array(own, np.int64)[self.labels]
        self.class_names = list(synsets())


def class_folders(root: Path) -> list[Path]:
    """The folders right under `root`, without hidden ones."""
    return [path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__MACOSX"))]


def is_index(name: str) -> bool:
    """Whether a folder's name is a class index of ImageNet."""
    return name.isdecimal() and int(name) < len(synsets()) and name == str(int(name))


def looks_like_imagenet(root: Path) -> bool:
    """Whether `root` holds class folders of ImageNet, by synset or (all of them) by index."""
    names = [path.name for path in class_folders(root)]
    return any(SYNSET.fullmatch(name) for name in names) or (bool(names) and all(map(is_index, names)))
