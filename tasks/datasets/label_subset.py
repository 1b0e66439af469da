"""Training on a part of the labels: 1 % or 10 % of every class, or the images that a list names, as SimCLR's lists do.

The part belongs to the data, not to a run's seed: which images of a class come first is settled by their file names, so that
every layout of the same data set, and every seed, has the same ones, and 1 % is within 10 %.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from backbones.errors import UserError
from tasks.datasets.images import ImageSet
from tasks.recipe import DataConfig


def choose_labels(images: ImageSet, data: DataConfig) -> str | None:
    """Keeps the images of `images` that ``data.label_share`` or ``data.label_list`` chooses; a note for the record, or None.

    Raises:
        UserError: both are given, a share outside 0 to 1 or of less than an image a class, or a list that does not fit.
    """
    if data.label_share is None and data.label_list is None:
        return None
    if data.label_share is not None and data.label_list is not None:
        raise UserError("data.label_share and data.label_list: give one of them")
    whole = len(images)
    if data.label_list is not None:
        rows = _listed(images, Path(data.label_list).expanduser())
        how = Path(data.label_list).name
    else:
        assert data.label_share is not None
        rows = _share(images, data.label_share)
        how = f"{data.label_share:.2%} of each class"
    images.choose(rows)
    return f"labels of {len(images)} of {whole} training images ({how})"


def _share(images: ImageSet, share: float) -> list[int]:
    if not 0 < share <= 1:
        raise UserError(f"data.label_share={share}: give a share between 0 and 1, such as 0.01")
    members: dict[int, list[int]] = defaultdict(list)
    for i, label in enumerate(images.labels):
        members[label].append(i)
    total = round(share * len(images))
    if total < len(members):
        raise UserError(
            f"data.label_share={share} leaves {total} of {len(images)} images for {len(members)} classes: give at least "
            f"{len(members) / len(images):.2g}"
        )
    classes = sorted(members, key=lambda label: _digest(str(label)))
    given = quotas([len(members[label]) for label in classes], total)
    chosen: list[int] = []
    for label, count in zip(classes, given, strict=True):
        chosen += sorted(members[label], key=lambda i: _digest(_stem(images.relative_name(i))))[:count]
    return sorted(chosen)


def quotas(counts: Sequence[int], total: int) -> list[int]:
    """How many of each class: alike, as far as the classes have them; what is left over goes to the first classes.

    A greater `total` takes nothing away from any class.
    """
    level = 0
    while level < max(counts) and sum(min(count, level + 1) for count in counts) <= total:
        level += 1
    given = [min(count, level) for count in counts]
    larger = [c for c, count in enumerate(counts) if count > level]
    for c in larger[: total - sum(given)]:
        given[c] += 1
    return given


def _listed(images: ImageSet, file: Path) -> list[int]:
    """Rows of the images that a file names, one a line; suffix and folders need not be given."""
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as e:
        raise UserError(f"data.label_list={file}: not readable ({e}): give a text file with a file name a line") from e
    wanted = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    names = [images.relative_name(i) for i in range(len(images))]
    rows_of: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(names):
        rows_of[_stem(name)].append(i)
    rows, missing = [], []
    for line in wanted:
        found = rows_of.get(_stem(line), [])
        if len(found) > 1:  # such as 0.jpg in every class: the folder tells them apart
            found = [i for i in found if f"/{_bare(names[i])}".endswith(f"/{_bare(line)}")]
        if len(found) > 1:
            raise UserError(f"{file}: {line} is the name of {len(found)} images: give it with its folder")
        rows += found
        if not found:
            missing.append(line)
    if missing or not rows:
        what = (
            f"{missing[0]} is not in the training split ({len(missing)} such of {len(wanted)})" if missing else "empty"
        )
        raise UserError(f"{file}: {what}: give file names of {images.root}, one a line")
    rows = sorted(set(rows))
    labels = np.asarray(images.labels)
    if absent := sorted(set(labels.tolist()) - set(labels[rows].tolist())):
        raise UserError(
            f"{file}: names no image of class {images.class_names[absent[0]]!r} ({len(absent)} such classes): complete it"
        )
    return rows


def _stem(name: str) -> str:
    return _bare(name).rpartition("/")[2]


def _bare(name: str) -> str:
    """A path without suffix."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + (file.rpartition(".")[0] or file)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
