"""What the tasks' data sets share: fingerprints, the cache folder, folder checks, decoding. No layouts here."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from backbones.errors import UserError
from tasks.recipe import DataConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, of pixels in 0..1
IMAGENET_STD = (0.229, 0.224, 0.225)


def fingerprint(root: Path, files: Iterable[Path]) -> str:
    """sha256 over the relative paths and sizes of `files`: cheap on a million files, changes when any is swapped."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(root).as_posix()}\0{file.stat().st_size}\n".encode())
    return digest.hexdigest()


def default_cache_root() -> Path:
    """``$MAE_BENCH_CACHE``, else ``$XDG_CACHE_HOME/mae_bench``, else ``~/.cache/mae_bench``."""
    if own := os.environ.get("MAE_BENCH_CACHE"):
        return Path(own).expanduser()
    # The XDG specification says that a relative path is to be ignored.
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path("~/.cache").expanduser()) / "mae_bench"


def data_root(name: str, root: str | None) -> Path:
    """The folder of data set `name`, which must exist.

    Raises:
        UserError: none was given, or it is missing, or it is empty.
    """
    if root is None:
        raise UserError(f"data set {name} has no folder: give --data {name}=DIR")
    path = Path(root).expanduser()
    if not path.exists():
        raise UserError(f"--data {name}={root}: no such file or folder")
    if path.is_dir() and next(path.iterdir(), None) is None:
        raise UserError(f"--data {name}={root}: the folder is empty")
    return path


def embedded_root(data: DataConfig, layout: str) -> str | None:
    """``data.root``, or for the embedded set the folder of `layout` in the cache (made when missing)."""
    if data.name != "embedded" or data.root is not None:
        return data.root
    # Kept out of module scope: generating scenes loads photographs and digits that no other data set needs.
    from tasks.embedded import EmbeddedConfig, prepare

    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(EmbeddedConfig), data.options))
    except OmegaConfBaseException as e:
        raise UserError(f"data.options of the embedded set: {str(e).splitlines()[0]}") from e
    return str(prepare(config) / layout)  # type: ignore[arg-type]


def normalise(images: Tensor) -> Tensor:
    """uint8 RGB (N, 3, H, W) on any device -> float, ImageNet's mean and deviation taken off."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=images.device).view(1, 3, 1, 1)
    return (images.float() / 255 - mean) / std
