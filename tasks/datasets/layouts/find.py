"""Which layout lies in a folder, and its reader; the layouts themselves are in the modules beside."""

from __future__ import annotations

from pathlib import Path

from backbones.errors import UserError
from tasks.datasets.layouts import devkit
from tasks.datasets.layouts.folders import FolderReader, ImageNetFolderReader, class_folders, looks_like_imagenet
from tasks.datasets.layouts.listed import find_annotations, find_list, open_annotations, open_list
from tasks.datasets.layouts.parquet import ParquetReader
from tasks.datasets.layouts.reader import Reader
from tasks.datasets.layouts.shards import ShardReader, is_shard
from tasks.datasets.layouts.tars import TarReader

# Names of a split's folder, tar or shards; the first that is there is taken.
SPLITS = {
    "pretrain": ("pretrain", "train", "training"),
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "test"),
}
_OFFICIAL = {"train": "ILSVRC2012_img_train", "val": "ILSVRC2012_img_val"}  # as ImageNet's own archives are named
# ImageNet-V2's three test sets; the first is the one that results are reported on.
_V2 = ("imagenetv2-matched-frequency*", "imagenetv2-threshold*", "imagenetv2-top-images*")


def open_reader(base: Path, split: str) -> Reader | None:
    """The images of `split` under `base` in whichever layout they are; None where none is known.

    Raises:
        UserError: the layout is known and something in it is wrong.
    """
    listed = "train" if split == "pretrain" else split
    names = (*SPLITS[split], _OFFICIAL[listed])
    listing = find_list(base, listed)
    for name in names:
        folder = base / name
        is_split = folder.is_dir() and (listing is None or bool(class_folders(folder)))  # a flat one goes by its list
        place = folder if is_split else base / f"{name}.tar"
        if place.exists():
            reader = open_path(place)
            return devkit.label(reader, base) if split == "val" and devkit.is_official(reader) else reader
    if listing:
        return open_list(base, listing, listed)
    if annotations := find_annotations(base, listed):
        return open_annotations(base, annotations)
    return _open_shards(base, names) or (_open_test_set(base) if split == "val" else None)


def open_path(path: Path) -> Reader:
    """A folder of class folders, of tars or of shards; or a tar."""
    if path.is_file():
        return ShardReader([path]) if is_shard(path) else TarReader(path)
    if shards := sorted(path.glob("*.parquet")):
        return ParquetReader(shards)
    if (tars := sorted(path.glob("*.tar"))) and not class_folders(path):
        return ShardReader(tars) if is_shard(tars[0]) else TarReader(path)
    return FolderReader(path)


def _open_shards(base: Path, names: tuple[str, ...]) -> Reader | None:
    """Shards of several splits in one folder: ``train-00000-of-00294.parquet``, ``imagenet1k-train-0000.tar``."""
    for folder in (base, base / "data"):
        for name in names:
            if shards := sorted(folder.glob(f"{name}-*.parquet")):
                return ParquetReader(shards)
            numbered = "[0-9]*.tar"
            if shards := sorted({*folder.glob(f"{name}-{numbered}"), *folder.glob(f"*-{name}-{numbered}")}):
                if not is_shard(shards[0]):
                    raise UserError(f"{shards[0]}: no label file among its first members: expected key.jpg and key.cls")
                return ShardReader(shards)
    return None


def _open_test_set(base: Path) -> Reader | None:
    """A test set of ImageNet's classes, whose class folders lie right under `base`."""
    for pattern in _V2:
        if found := sorted(path for path in base.glob(pattern) if path.is_dir()):
            return ImageNetFolderReader(found[0])
    return ImageNetFolderReader(base) if base.is_dir() and looks_like_imagenet(base) else None
