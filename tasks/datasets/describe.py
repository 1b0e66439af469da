"""What a run says of its images before it trains: their account, what the splits are to each other, a look at some of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tasks.base import DataInfo
from tasks.datasets.account import printable
from tasks.datasets.decoding import odd_images
from tasks.datasets.images import ImageSet
from tasks.datasets.look import Looked, between, look, spread, three_lines
from tasks.datasets.manifest import check_alone, check_pair, copies
from tasks.recipe import DataConfig

_DARK_LOOKED_AT = 16  # images of each split that are looked at for levels that all come out black
LOOKED_AT = 128  # images of each split that are decoded before the first step


def allowed(data: DataConfig, split: str) -> frozenset[str]:
    """``data.allow``; ``data.skip_broken`` allows training images that cannot be read."""
    skip = {"unreadable"} if data.skip_broken and split != "val" else set()
    return frozenset(data.allow) | skip


def drop_unreadable(images: ImageSet, data: DataConfig) -> list[str]:
    """Decodes every image and leaves out those that cannot be read, where that is allowed; a note."""
    if "unreadable" not in allowed(data, images.split):
        return []
    dropped = images.drop_broken()
    what = "validation" if images.split == "val" else "training"
    return [f"{dropped} unreadable {what} images left out"] if dropped else []


def describe(
    data: DataConfig, root: str | None, splits: Mapping[str, ImageSet], notes: list[str], *, labelled: bool = True
) -> DataInfo:
    """What the record says of the data of a task on whole images.

    Args:
        splits: of ``train`` and ``val``, those that are used; the last is what is evaluated on.
        notes: that are known already.
        labelled: whether classes matter.

    Raises:
        UserError: one class alone, or validation images that are training images too.
    """
    notes = list(notes)
    for name, images in splits.items():
        notes += images.account.notes(name, but={"unreadable"})  # `drop_unreadable` has said it
        notes += [f"{name}: {note}" for note in images.reader.notes]
        if labelled:
            notes += check_alone(images.manifest(whole=True)) + _numbered_otherwise(name, images)
    if labelled and len(splits) == 2:
        notes += check_pair(splits["train"].manifest(), splits["val"].manifest(), data.allow)
    last = list(splits.values())[-1]
    return DataInfo(
        name=data.name,
        root=str(root),
        train_count=len(splits.get("train", ())),
        val_count=len(splits.get("val", ())),
        classes=last.classes,
        fingerprint="+".join(images.fingerprint() for images in splits.values()),
        notes=notes,
        account={name: images.account.to_json() for name, images in splits.items()},
        class_names=[printable(name) for name in last.class_names] if labelled else [],
    )


def _numbered_otherwise(split: str, images: ImageSet) -> list[str]:
    """A note where a split's files give the same names other numbers than training's do: which of the two holds is a guess."""
    ours, theirs = images.reader.class_names, images.class_names
    if not images.reader.numbered or ours == theirs or set(ours) != set(theirs):
        return []
    at = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    return [
        f"{split}: its file numbers the classes otherwise than training's, {at} is {printable(ours[at])!r} and not "
        f"{printable(theirs[at])!r}: matched by name"
    ]


def first_look(info: DataInfo, splits: Mapping[str, ImageSet]) -> list[str]:
    """Looks at some images of each split; adds what it sees to `info`. Returns three lines for people.

    Raises:
        UserError: an image that cannot be read, naming it.
    """
    told = []
    for name, images in splits.items():
        seen = _look(images, LOOKED_AT)
        info.looked += odd_images(name, *_some(images))
        counts = np.bincount(images.labels, minlength=images.classes)
        few, many = counts[counts > 0].min(initial=len(images)), counts.max(initial=0)
        balance = (
            f", {between(f'{few:,}', f'{many:,}')} of each of {np.count_nonzero(counts):,} classes"
            if images.classes > 1
            else ""
        )
        told.append(f"{name}: {len(images):,} images{balance}, {seen.sizes()} ({seen.images:,} looked at)")
    if len(splits) == 2 and info.class_names:
        info.looked += copies(splits["train"].manifest(), splits["val"].manifest())
    return three_lines(info, told)


def look_at_parts(info: DataInfo, parts: Sequence[ImageSet]) -> list[str]:
    """`first_look` at a test set that has the same images in several conditions, some of each."""
    seen = Looked()
    for images in parts:
        seen += _look(images, max(1, LOOKED_AT // len(parts)))
    count = sum(map(len, parts))
    told = f"val: {count:,} images in {len(parts)} folders, {seen.sizes()} ({seen.images:,} looked at)"
    return three_lines(info, [told])


def _some(images: ImageSet) -> tuple[list[str], int, Callable[[int], bytes]]:
    """Names of a few images, the level that becomes white, and their content."""
    rows = spread(len(images), _DARK_LOOKED_AT)
    return [images.name(row) for row in rows], images.white, lambda k: images.encoded(rows[k])[0]


def _look(images: ImageSet, most: int) -> Looked:
    """What some of the images are, and all those that are known to be empty.

    Raises:
        UserError: one of them cannot be read, naming it.
    """
    rows = sorted({*spread(len(images), most), *_empty(images, images.reader.sizes())})
    seen = look(lambda i: images.reader.encoded(images.indices[i]), rows)
    if seen.broken:
        row, why = seen.broken[0]
        raise images.unreadable(row, ValueError(why))
    return seen


def _empty(images: ImageSet, sizes: Any) -> list[int]:
    """Images whose files are known to be empty."""
    return [] if sizes is None else np.flatnonzero(sizes[np.asarray(images.indices, np.int64)] == 0).tolist()
