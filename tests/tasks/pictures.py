"""Small image folders for tests, in the layout of ImageNet."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def save_picture(path: Path, seed: int, size: tuple[int, int] = (40, 32)) -> None:
    """A noisy JPEG or PNG, by the suffix, of (width, height) `size`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 256, (size[1], size[0], 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def make_folders(root: Path, classes: tuple[str, ...] = ("ant", "bee", "cat"), train: int = 4, val: int = 2) -> Path:
    """``root/{train,val}/CLASS/N.jpg``."""
    for split, count in (("train", train), ("val", val)):
        for c, name in enumerate(classes):
            for i in range(count):
                save_picture(root / split / name / f"{i}.jpg", seed=100 * c + i + (50 if split == "val" else 0))
    return root


def make_tars(folders: Path, root: Path) -> Path:
    """``root/{train,val}.tar`` with the same files as `folders`."""
    root.mkdir()
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}.tar", "w") as tar:
            for path in sorted((folders / split).rglob("*.jpg")):
                info = tarfile.TarInfo(path.relative_to(folders / split).as_posix())
                content = path.read_bytes()
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return root


def truncate(path: Path, share: float = 0.5) -> None:
    """Cuts a file short."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
