"""What a run says of a segmentation data set before it trains: the labels that its maps hold, what two splits share."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backbones.errors import UserError
from tasks.base import DataInfo
from tasks.datasets.account import Account, printable
from tasks.datasets.decoding import WHITE, odd_images
from tasks.datasets.look import between, spread, three_lines
from tasks.datasets.manifest import Manifest, check_pair
from tasks.segmentation.folders import IGNORE, Pair, Pairs
from tasks.segmentation.reading import read_image, read_labels, to_classes, turned_images

MAPS_LOOKED_AT = 1000  # of each split, before the first step: all of most sets, half of ADE20K's validation
IMAGES_LOOKED_AT = 64


@dataclass(frozen=True)
class Used:
    """A split with those of its pairs that are used, by row."""

    name: str  # train or val
    found: Pairs
    rows: Sequence[int]

    @property
    def pairs(self) -> list[Pair]:
        """The pairs that are used."""
        return [self.found.pairs[i] for i in self.rows]

    @property
    def account(self) -> Account:
        """Of images and maps."""
        return self.found.account


@dataclass(frozen=True)
class Labels:
    """What the maps that were looked at hold."""

    maps: int
    whole: bool  # all maps of the split were looked at
    counts: NDArray[np.int64]  # (C,) maps that show each class
    zero: int  # maps that hold the value 0


def look_at_labels(used: Used, classes: int, reduce_zero_label: bool, most: int | None = MAPS_LOOKED_AT) -> Labels:
    """Reads `most` maps, spread over the split; all by default of None.

    Raises:
        UserError: a map that cannot be read, or a label beyond the classes, naming the file.
    """
    pairs = used.pairs
    chosen = [pairs[i] for i in spread(len(pairs), most)]

    def look(pair: Pair) -> tuple[NDArray[np.bool_], bool]:
        values = read_labels(pair.map)
        found = to_classes(pair.map, values, classes, reduce_zero_label)
        return np.bincount(found.ravel(), minlength=IGNORE + 1)[:classes] > 0, bool((values == 0).any())

    counts, zero = np.zeros(classes, np.int64), 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding leaves Python's lock alone
        for shown, has_zero in pool.map(look, chosen):
            counts += shown
            zero += has_zero
    return Labels(len(chosen), len(chosen) == len(pairs), counts, zero)


def check_labels(
    labels: dict[str, Labels], names: Sequence[str], reduce_zero_label: bool, parts: Collection[str] = ()
) -> list[str]:
    """Notes on the labels that occur: classes that no map holds, and values that fit the other `reduce_zero_label`.

    Args:
        labels: by split.
        parts: splits of which the user asked for some maps alone.

    Raises:
        UserError: less than two classes occur in the maps of a whole split, over which no mIoU means anything.
    """
    notes = []
    for split, found in labels.items():
        absent = [name for name, count in zip(names, found.counts, strict=True) if not count]
        if split not in parts and len(names) - len(absent) < 2:
            raise _untold(split, found, names, reduce_zero_label)
        if absent:
            some = ", ".join(absent[:3]) + (", …" if len(absent) > 3 else "")
            notes.append(f"{split}: {len(absent)} of {len(names)} classes are in none of {found.maps:,} maps ({some})")
    return [*_other_setting(labels, names, reduce_zero_label), *notes]


def _other_setting(labels: dict[str, Labels], names: Sequence[str], reduce_zero_label: bool) -> list[str]:
    """A note where the values look as if the first class began elsewhere: every class would be off by one."""
    counts, zero = sum(found.counts for found in labels.values()), any(found.zero for found in labels.values())
    missing = np.flatnonzero(np.asarray(counts) == 0)
    if reduce_zero_label and zero and len(missing) <= max(1, len(names) // 20) and len(names) - 1 in missing:
        return [
            f"maps hold the value 0, which is unlabelled, and never {len(names)}, the last class's: as with "
            "segmentation.reduce_zero_label=false"
        ]
    if not reduce_zero_label and not zero:
        return ["maps never hold the value 0, the first class's: as with segmentation.reduce_zero_label=true"]
    return []


def _untold(split: str, labels: Labels, names: Sequence[str], reduce_zero_label: bool) -> UserError:
    present = np.flatnonzero(labels.counts)
    only = f"all labelled pixels are of one class, {names[present[0]]!r}" if len(present) else "no pixel is labelled"
    zero = ", and so is 0 with segmentation.reduce_zero_label=true" if reduce_zero_label else ""
    return UserError(
        f"{split}: {only} in {labels.maps:,} maps: nothing can be told apart (0 and 255 are no two classes: 255 is "
        f"unlabelled{zero}): mend the maps"
    )


def count_classes(account: Account, labels: Labels, names: Sequence[str]) -> None:
    """Enters the classes into the account: those that are in no map are declared and not used."""
    account.found("classes", len(names))
    account.use("classes", len(names))
    for name, count in zip(names, labels.counts, strict=True):
        if not count:
            account.give_up("classes", "absent", name)


def manifest(used: Used, names: Sequence[str], *, maps: bool = False) -> Manifest:
    """The images (or the maps), and where they lie."""
    files = (used.found.maps if maps else used.found.images).take(np.array(used.rows, np.int64))
    pairs = used.pairs
    paths = [pair.map if maps else pair.image for pair in pairs]
    return Manifest(
        f"{used.name} ({'maps' if maps else 'images'} such as {printable(str(paths[0]))})",
        list(names),
        np.zeros(len(names), np.int64),
        files.places,
        name=lambda i: printable(files.names[i]),
        content=lambda i: Path(paths[i]).read_bytes(),
        sizes=files.sizes,
    )


def check_overlap(train: Used, val: Used, names: Sequence[str], allow: Collection[str]) -> list[str]:
    """Notes on images and maps that both splits have; see `check_pair`."""
    notes = check_pair(manifest(train, names), manifest(val, names), allow)
    return notes + check_pair(manifest(train, names, maps=True), manifest(val, names, maps=True), allow)


def first_look(info: DataInfo, splits: Sequence[Used], labels: dict[str, Labels], white: int = WHITE) -> list[str]:
    """Decodes some images of each split; adds what it sees to the notes of `info`. Returns three lines for people.

    Raises:
        UserError: an image that cannot be read, naming it.
    """
    told = [_seen(used, labels[used.name], info, white) for used in splits]
    return three_lines(info, told)


def _seen(used: Used, labels: Labels, info: DataInfo, white: int) -> str:
    pairs = used.pairs
    chosen = [pairs[i].image for i in spread(len(pairs), IMAGES_LOOKED_AT)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes = sorted(pool.map(_size, chosen))
    info.notes += odd_images(used.name, chosen, white) + turned_images(used.name, chosen)
    counts = labels.counts[labels.counts > 0] if labels.counts.any() else labels.counts
    low, high = (f"{width}x{height}" for _, width, height in (sizes[0], sizes[-1]))
    images = f"{used.name}: {len(pairs):,} images of {between(low, high)} pixels ({len(chosen)} decoded)"
    classes = f"{np.count_nonzero(labels.counts)} of {len(labels.counts)} classes"
    return f"{images}; {classes}, each in {between(f'{counts.min():,}', f'{counts.max():,}')} of {labels.maps:,} maps"


def _size(path: Path) -> tuple[int, int, int]:
    height, width, _ = read_image(path).shape
    return height * width, width, height
