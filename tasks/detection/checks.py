"""What a run says of a COCO data set before it trains: the books of its images and objects, and what two splits share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tasks.base import DataInfo
from tasks.datasets.account import Account, printable
from tasks.datasets.decoding import WHITE, odd_images
from tasks.datasets.look import between, spread, three_lines
from tasks.datasets.manifest import Manifest, place_of
from tasks.detection.data import CocoSplit, Record, read_pixels, turned_images

LOOKED_AT = 128  # images of each split that are decoded before the first step


@dataclass(frozen=True)
class Used:
    """A split with the images of it that are used."""

    name: str  # train or val
    split: CocoSplit
    records: Sequence[Record]
    account: Account

    @cached_property
    def manifest(self) -> Manifest:
        """The images, where they lie and how many objects of each class they show; a stat of each file, once."""
        paths = [record["file_name"] for record in self.records]
        stats = [os.stat(path) for path in paths]
        return Manifest(
            f"{self.name} ({self.split.json})",
            list(self.split.classes),
            class_counts(self.split, self.records),
            np.array([place_of(stat.st_dev, stat.st_ino) for stat in stats], np.int64),
            name=lambda i: printable(os.path.relpath(paths[i], self.split.images)),
            content=lambda i: Path(paths[i]).read_bytes(),
            sizes=np.array([stat.st_size for stat in stats], np.int64),
        )


def open_books(split: CocoSplit, *, trains: bool) -> Account:
    """Of the json's images and annotations; what does not train is left out of a training split alone."""
    content, books = split.content, Account()
    books.add(content.account)
    books.found("images", len(content.images))
    books.use("images", len(content.images))
    if trains:
        for record in split.records:
            if not has_objects(record):
                books.give_up("images", "empty_image", Path(record["file_name"]).name)
        for a in content.annotations:
            if a["iscrowd"] or a["id"] in content.maskless:
                reason = "crowd" if a["iscrowd"] else "no_mask"
                books.give_up("annotations", reason, f"annotation {a['id']}")
    books.found("classes", len(split.classes))
    books.use("classes", len(split.classes))
    for name, count in zip(split.classes, class_counts(split, split.records), strict=True):
        if not count:
            books.give_up("classes", "absent", name)
    return books


def has_objects(record: Record) -> bool:
    """Whether an image has an object that is not a crowd: only such images train, as in detectron2."""
    return any(a.get("iscrowd", 0) == 0 for a in record["annotations"])


def class_counts(split: CocoSplit, records: Sequence[Record]) -> np.ndarray:
    """(C,) objects of each class, without crowds."""
    numbers = [a["category_id"] for record in records for a in record["annotations"] if not a["iscrowd"]]
    return np.bincount(numbers, minlength=len(split.classes))


def class_notes(train: Used, val: Used) -> list[str]:
    """What is declared and never seen, or seen in validation alone: AP is over classes that validation holds."""
    names, notes = train.split.classes, []
    trained, judged = (class_counts(used.split, used.records) > 0 for used in (train, val))
    for which, said in (
        (~trained & judged, "scored in validation have no training object"),
        (~trained & ~judged, "have no object in training or validation"),
    ):
        if which.any():
            some = ", ".join(names[i] for i in np.flatnonzero(which)[:3])
            notes.append(f"{which.sum()} of {len(names)} classes {said} ({some}{', …' if which.sum() > 3 else ''})")
    return notes


def first_look(info: DataInfo, splits: Sequence[Used], white: int = WHITE) -> list[str]:
    """Decodes some images of each split; adds what it sees to the notes of `info`. Returns three lines for people.

    Raises:
        UserError: an image that cannot be read or has another size than the json says, naming it.
    """
    told = [_seen(used, info, white) for used in splits]
    return three_lines(info, told)


def _seen(used: Used, info: DataInfo, white: int) -> str:
    chosen = [used.records[i] for i in spread(len(used.records), LOOKED_AT)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding leaves Python's lock alone
        for _ in pool.map(read_pixels, chosen):
            pass
    info.notes += odd_images(used.name, [record["file_name"] for record in chosen], white)
    info.notes += turned_images(used.name, chosen)
    sizes = sorted((r["width"] * r["height"], f"{r['width']}x{r['height']}") for r in used.records)
    objects = class_counts(used.split, used.records)
    present = objects[objects > 0] if objects.any() else objects
    images = f"{used.name}: {len(used.records):,} images of {between(sizes[0][1], sizes[-1][1])} pixels ({len(chosen)} decoded)"
    classes = f"{objects.sum():,} objects of {np.count_nonzero(objects)} of {len(objects)} classes"
    return f"{images}, {classes}, {between(f'{present.min():,}', f'{present.max():,}')} of each"
