"""Which layout lies in a folder, and its reader; the layouts themselves are in the modules beside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from backbones.errors import UserError
from tasks.datasets.layouts import devkit
from tasks.datasets.layouts.folders import FolderReader, ImageNetFolderReader, class_folders, looks_like_imagenet
from tasks.datasets.layouts.listed import find_annotations, find_list, open_annotations, open_list
from tasks.datasets.layouts.parquet import ParquetReader
from tasks.datasets.layouts.reader import Reader
from tasks.datasets.layouts.shards import ShardReader, are_shards
from tasks.datasets.layouts.tar_index import index_tars
from tasks.datasets.layouts.tars import TarReader
from tasks.datasets.options import LayoutOptions
from tasks.datasets.suffixes import is_hidden

# Names of a split's folder, tar or shards; the first that is there is taken.
SPLITS = {
    "pretrain": ("pretrain", "train", "training"),
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "test"),
}
_OFFICIAL = {"train": "ILSVRC2012_img_train", "val": "ILSVRC2012_img_val"}  # as ImageNet's own archives are named
_KAGGLE = "ILSVRC/Data/CLS-LOC"  # where Kaggle's archive of ImageNet has the splits' folders
# ImageNet-V2's three test sets; the first is the one that results are reported on.
_V2 = ("imagenetv2-matched-frequency*", "imagenetv2-threshold*", "imagenetv2-top-images*")

_NO_OPTIONS = LayoutOptions()


def open_reader(base: Path, split: str, options: LayoutOptions = _NO_OPTIONS) -> Reader | None:
    """The images of `split` under `base` in whichever layout they are; None where none is known.

    Images without a class are left out of training and validation, in the reader's account, whose doubts are the caller's.

    Raises:
        UserError: the layout is known and something in it is wrong.
    """
    reader = _open(base, split, options)
    if reader is not None and split != "pretrain":
        reader.require_labels()
    return reader


def _open(base: Path, split: str, options: LayoutOptions) -> Reader | None:
    listed = "train" if split == "pretrain" else split
    names = (*SPLITS[split], _OFFICIAL[listed])
    listing = find_list(base, listed)
    places = [place for name in names for place in (base / name, base / f"{name}.tar")]
    places += [base / _KAGGLE / name for name in names]
    if listing is not None:
        places = [
            place for place in places if not place.is_dir() or class_folders(place)
        ]  # a flat one goes by its list
    if places := [place for place in places if place.is_dir() or (place.suffix == ".tar" and place.exists())]:
        reader = open_path(places[0], options)
        if split != "pretrain":
            reader.notes += _unread([*places, *([listing] if listing else [])])
        return devkit.label(reader, base) if split == "val" and devkit.is_official(reader) else reader
    if listing:
        return open_list(base, listing, listed, options)
    if annotations := find_annotations(base, listed):
        return open_annotations(base, annotations, options)
    return _open_shards(base, names, options) or (_open_test_set(base) if split == "val" else None)


def _unread(places: Sequence[Path]) -> list[str]:
    """A note where more than one place could hold the split, as an archive beside the folder that a part of it is in."""
    others = [place.name for place in places[1:] if place.stem != "test"]
    return [f"{places[0].name} is read, and not {', '.join(others)} beside it"] if others else []


def open_path(path: Path, options: LayoutOptions = _NO_OPTIONS) -> Reader:
    """A folder of class folders, of tars or of shards; or a tar."""
    if path.is_file():
        return _open_tars(path, [path], options)
    if not class_folders(path):
        if shards := _plain(path.glob("*.parquet")):
            return ParquetReader(shards, options)
        if tars := _plain(path.glob("*.tar")):
            return _open_tars(path, tars, options)
    return FolderReader(path)


def _plain(paths: Iterable[Path]) -> list[Path]:
    """In order, without what macOS puts beside each file (``._train-000000.tar``)."""
    return sorted(path for path in paths if not is_hidden(path.name))


def _open_tars(place: Path, tars: list[Path], options: LayoutOptions) -> Reader:
    index = index_tars(tars)
    return ShardReader(tars, index, options) if are_shards(index, options) else TarReader(place, index)


def _open_shards(base: Path, names: tuple[str, ...], options: LayoutOptions) -> Reader | None:
    """Shards of several splits in one folder: ``train-00000-of-00294.parquet``, ``imagenet1k-train-0000.tar``."""
    for folder in (base, base / "data"):
        for name in names:
            if shards := _plain(folder.glob(f"{name}-*.parquet")):
                return ParquetReader(shards, options)
            numbered = "[0-9]*.tar"
            if shards := _plain({*folder.glob(f"{name}-{numbered}"), *folder.glob(f"*-{name}-{numbered}")}):
                if len(sets := sorted({shard.name.rpartition(f"{name}-")[0] for shard in shards})) > 1:
                    several = ", ".join(f"{one}{name}-…" for one in sets)
                    raise UserError(
                        f"{folder}: shards of several data sets lie together ({several}): give each its own folder"
                    )
                index = index_tars(shards)
                if not are_shards(index, options):
                    raise UserError(f"{shards[0]}: no label file in it: expected key.jpg and key.cls side by side")
                return ShardReader(shards, index, options)
    return None


def _open_test_set(base: Path) -> Reader | None:
    """A test set of ImageNet's classes, whose class folders lie right under `base`."""
    for pattern in _V2:
        if found := sorted(path for path in base.glob(pattern) if path.is_dir()):
            return ImageNetFolderReader(found[0])
    return ImageNetFolderReader(base) if base.is_dir() and looks_like_imagenet(base) else None
