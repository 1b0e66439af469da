"""Labelled images in class folders or in a tar of them (timm's readers), as classification and pre-training read them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.data.readers.reader_image_in_tar import ReaderImageInTar
from torch.utils.data import Dataset

from backbones.errors import UserError
from tasks.data import data_root, fingerprint

# Folder (or tar) names under the root, first found wins.
SPLITS = {
    "pretrain": ("pretrain", "train", "training"),
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "test"),
}


@dataclass
class ImageSet:
    """The images of one split: `read` decodes image i, `labels[i]` is its class index."""

    root: Path
    split: str
    reader: Any
    class_to_idx: dict[str, int]
    indices: list[int]
    way_out: str = "--set data.skip_broken=true"  # how to leave out unreadable images, for messages
    cached: dict[int, NDArray[np.uint8]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def classes(self) -> int:
        return len(self.class_to_idx)

    def name(self, i: int) -> str:
        """The image's path for messages."""
        name: str = self.reader.filename(self.indices[i], absolute=True)
        return name if Path(name).is_absolute() else f"{self.reader.root}/{name}"

    def relative_name(self, i: int) -> str:
        """The image's path under the folder, or in the tar."""
        return str(self.reader.filename(self.indices[i]))

    def read(self, i: int) -> tuple[Image.Image, int]:
        """The whole image as RGB, and its class index.

        Raises:
            UserError: unreadable or cut short, naming the file.
        """
        if i in self.cached:
            return Image.fromarray(self.cached[i]), self.label(i)
        try:
            file, label = self.reader[self.indices[i]]
            with file, Image.open(io.BytesIO(file.read())) as image:
                return image.convert("RGB"), label
        except (OSError, SyntaxError, ValueError, tarfile.TarError) as e:
            raise UserError(
                f"{self.name(i)}: unreadable image ({e}): replace it, or leave such images out with {self.way_out}"
            ) from e

    def label(self, i: int) -> int:
        """The class index, without reading the image."""
        reader = self.reader
        k = self.indices[i]
        return int(reader.targets[k] if hasattr(reader, "targets") else reader.samples[k][1])

    def limit(self, count: int | None) -> None:
        """Keeps `count` images, spread evenly over the split so that every class stays."""
        if count is not None and count < len(self.indices):
            self.indices = [self.indices[k * len(self.indices) // count] for k in range(count)]

    def drop_broken(self) -> int:
        """Decodes everything once and leaves out what cannot be read; returns how many."""
        good = []
        for i, k in enumerate(self.indices):
            try:
                self.read(i)
            except UserError:
                continue
            good.append(k)
        dropped = len(self.indices) - len(good)
        self.indices = good
        return dropped

    def cache(self) -> None:
        """Decodes everything now, so that forked workers share the memory."""
        for i in range(len(self)):
            self.cached[i] = np.asarray(self.read(i)[0])

    def fingerprint(self) -> str:
        """sha256 over the files' names and sizes (a tar: its own)."""
        path = Path(self.reader.root)
        if path.is_file():
            return fingerprint(path.parent, [path])
        return fingerprint(path, [Path(self.reader.filename(k, absolute=True)) for k in range(len(self.reader))])


def open_split(name: str, root: str | None, split: str, class_to_idx: dict[str, int] | None = None) -> ImageSet:
    """The images of `split` under `root`: folders of class folders, or a tar of them (``train.tar``, ``val.tar``).

    Args:
        class_to_idx: classes of the training split, so that both splits number them alike.

    Raises:
        UserError: folder missing or empty, no such split, no images, or a class that training does not have.
    """
    base = data_root(name, root)
    path = _find(base, split)
    if path is None:
        known = " or ".join(f"{s}/, {s}.tar" for s in SPLITS[split])
        raise UserError(f"--data {name}={root}: no {split} split there: expected {known} with one folder a class")
    reader = _open_reader(path)
    own = _classes(reader)
    if class_to_idx is not None and own != class_to_idx:
        reader = _renumber(reader, path, own, class_to_idx)
    return ImageSet(base, split, reader, class_to_idx or own, list(range(len(reader))))


def open_folder(path: str | Path) -> ImageSet:
    """Every image under a folder or in a tar, in the natural order of the names; folders' names are the classes.

    Images that lie in no folder have the class ``""``.

    Raises:
        UserError: no such folder, neither folder nor tar, or no images.
    """
    base = Path(path).expanduser()
    if not base.exists():
        raise UserError(f"--data {path}: no such file or folder")
    if base.is_file() and base.suffix.lower() != ".tar":
        raise UserError(f"--data {path}: give a folder of images or a .tar")
    reader = _open_reader(base)
    if not len(reader):
        raise UserError(f"--data {path}: no images found there")
    return ImageSet(base, "", reader, _classes(reader), list(range(len(reader))), way_out="--skip-broken")


def _open_reader(path: Path) -> Any:
    try:
        # A tar kept open would be shared by forked workers, together with its position.
        return (
            ReaderImageFolder(str(path))
            if path.is_dir()
            else ReaderImageInTar(str(path), cache_tarfiles=False, cache_tarinfo=False)
        )
    except (RuntimeError, AssertionError, ValueError, OSError, tarfile.TarError) as e:
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise UserError(f"{path}: no images found in class folders: {reason}") from e


def _classes(reader: Any) -> dict[str, int]:
    found: dict[str, int] = getattr(reader, "class_to_idx", None) or reader.class_name_to_idx
    return found


def _find(base: Path, split: str) -> Path | None:
    for name in SPLITS[split]:
        for path in (base / name, base / f"{name}.tar"):
            if path.exists():
                return path
    return None


def _renumber(reader: Any, path: Path, own: dict[str, int], wanted: dict[str, int]) -> Any:
    """The reader with the training split's class indices; a split may lack classes but not have more."""
    extra = sorted(own.keys() - wanted.keys())
    if extra:
        raise UserError(
            f"{path}: class {extra[0]!r} is not in the training split ({len(extra)} such): remove or add it"
        )
    if path.is_dir():
        return ReaderImageFolder(str(path), class_map=wanted)
    return ReaderImageInTar(str(path), class_map=wanted, cache_tarfiles=False, cache_tarinfo=False)


class TransformedImages(Dataset[Any]):
    """An image set under a transform of PIL images: ``dataset[i]`` is (transformed image, class index)."""

    def __init__(self, images: ImageSet, transform: Callable[[Image.Image], Any]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        image, label = self.images.read(i)
        return self.transform(image), label
