"""Folders of images and class maps: which image goes with which map. Opens no image; classes are `classes`'s."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from backbones.errors import UserError
from tasks.datasets.account import Account, Books
from tasks.datasets.listing import KIND, ImageFiles, list_images
from tasks.segmentation.config import SegmentationConfig

IGNORE = 255  # label of pixels that count neither in the loss nor in the metric
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")  # in lower case
ADE_FOLDER = "ADEChallengeData2016"


@dataclass(frozen=True)
class Pair:
    """An image and its map of classes."""

    image: Path
    map: Path


def layout_root(root: Path, config: SegmentationConfig) -> Path:
    """`root`, or the folder ADEChallengeData2016 in it when the layout is there."""
    inside = root / ADE_FOLDER
    return inside if not (root / config.val_images).is_dir() and inside.is_dir() else root


@dataclass(frozen=True)
class Pairs:
    """The pairs of one split, in order of the images' paths, and what became of everything else in its two folders."""

    pairs: list[Pair]
    account: Account  # of ``images`` and ``maps``
    images: ImageFiles  # of the pairs, row by row
    maps: ImageFiles


def find_pairs(
    root: Path, images: str, maps: str, config: SegmentationConfig, allow: Collection[str] = frozenset()
) -> Pairs:
    """The images of a folder and of those below it with their maps; links are followed.

    Args:
        allow: ``data.allow``: images and maps without a partner are left out where it holds ``no_partner``.

    Raises:
        UserError: a folder is missing or holds no image, an image has no map, a map no image, or two images would share one.
    """
    image_folder, map_folder = root / images, root / maps
    for folder in (image_folder, map_folder):
        if not folder.is_dir():
            raise UserError(
                f"{folder}: no such folder; segmentation reads {images} and {maps} below the data set's folder "
                "(--set segmentation.train_images=… and the like name others)"
            )
    account = Account()
    found = _listed(image_folder, "images", config.image_suffix, account)
    if not found.names:
        wanted = f"*{config.image_suffix}" if config.image_suffix else " or ".join(SUFFIXES)
        raise UserError(f"{image_folder}: the folder holds no {wanted} (see segmentation.image_suffix)")
    drawn = _listed(map_folder, "maps", config.map_suffix, account)
    rows = {name: i for i, name in enumerate(drawn.names)}
    wanted_maps = _maps_of(found.names, config)
    for image, map_name in zip(found.names, wanted_maps, strict=True):
        if map_name not in rows:
            account.give_up("images", "no_partner", f"{image_folder / image} has no map {map_folder / map_name}")
    wanted_by = set(wanted_maps)
    for name in drawn.names:
        if name not in wanted_by:
            account.give_up("maps", "no_partner", f"{map_folder / name} has no image")
    account.settle(f"{images}, {maps}", allow)
    kept = [i for i, name in enumerate(wanted_maps) if name in rows]
    taken, their = (
        found.take(np.array(kept, np.int64)),
        drawn.take(np.array([rows[wanted_maps[i]] for i in kept], np.int64)),
    )
    pairs = [Pair(image_folder / a, map_folder / b) for a, b in zip(taken.names, their.names, strict=True)]
    return Pairs(pairs, account, taken, their)


def _listed(folder: Path, kind: str, suffix: str | None, account: Account) -> ImageFiles:
    """Images under a folder in order of path, as `kind` in the account; of another `suffix` than is asked for, left out."""
    own = Account()
    files = list_images(folder, own)
    order = sorted(range(len(files.names)), key=lambda i: files.names[i].split("/"))
    kept = [i for i in order if suffix is None or files.names[i].endswith(suffix)]
    for i in sorted(set(order) - set(kept)):
        own.give_up(KIND, "not_chosen", files.names[i])
    account.kinds[kind] = own.kinds.get(KIND, Books())
    return files.take(np.array(kept, np.int64))


def _maps_of(images: Sequence[str], config: SegmentationConfig) -> list[str]:
    """The path of each image's map under the folder of maps."""
    names: list[str] = []
    owner: dict[str, str] = {}
    for image in images:
        suffix = config.image_suffix or PurePosixPath(image).suffix
        name = f"{image.removesuffix(suffix)}{config.map_suffix}"
        if name in owner:
            raise UserError(
                f"{owner[name]} and {image} would share the map {name}: remove or rename one, "
                "or name the images' suffix by segmentation.image_suffix"
            )
        owner[name] = image
        names.append(name)
    return names
