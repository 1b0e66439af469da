"""The samples of a split whatever layout they lie in, and what they tell without knowing it.

What a reader found and did not take is `tasks.datasets.account`'s.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from backbones.errors import UserError

VAL_IN_TRAIN = "val_in_train"
CLASS_NAMES = "class_names"
CHECKS = (VAL_IN_TRAIN, CLASS_NAMES)
"""What ``data.allow`` takes beside the reasons of an account: validation images that are training images too; a head whose
classes have other names than the data's, taken in the order of both."""

_SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing"))
_PARTS = frozenset(
    (*("image", "images", "img", "imgs", "photos", "jpegimages"), *("mask", "masks", "label", "labels", "labelimages"))
) | {"annotation", "annotations", "seg", "segmentation", "segmentations", "segmentationclass", "gt", "depth", "depths"}
_SAMPLE = 64  # validation images whose content is looked for among the training images
_CANDIDATES = 16  # training images that each is compared with


def place_of(*parts: Hashable) -> int:
    """Where a sample lies as a number: equal for the same parts, such as (device, inode) or (archive's inode, offset)."""
    return hash(parts)


@dataclass(frozen=True)
class Manifest:
    """One split's samples, column by column.

    Attributes:
        where: the split, for messages: ``train (DIR/train)``.
        class_names: class index -> name.
        class_counts: (C,) samples of each class; of dense data, samples that show it.
        places: (N,) `place_of` each sample: the same bytes have the same, whatever name leads to them.
        name: row -> path under the data folder or in its archive.
        content: row -> the file's bytes; None where looking is no use.
        sizes: (N,) bytes of each file; None where finding out takes longer than a listing.
        labels: (N,) class index of each sample; None where a sample has several.
    """

    where: str
    class_names: list[str]
    class_counts: NDArray[np.int64]
    places: NDArray[np.int64]
    name: Callable[[int], str]
    content: Callable[[int], bytes] | None = None
    sizes: NDArray[np.int64] | None = None
    labels: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.places)

    @cached_property
    def present(self) -> list[str]:
        """Names of the classes that have samples."""
        return [self.class_names[i] for i in np.flatnonzero(self.class_counts)]


def check_alone(manifest: Manifest) -> list[str]:
    """Notes on one split: samples that lie at the same place, how the classes are balanced.

    Raises:
        UserError: all samples are of one class (or there is none): nothing can be told apart.
    """
    if len(manifest.present) < 2:
        only = f"all of one class, {manifest.present[0]!r}" if manifest.present else "of no class"
        raise UserError(
            f"{manifest.where}: {len(manifest):,} images {only}: telling classes apart needs two: a folder a class, right "
            "under the split's"
        )
    if (_PARTS | _SPLITS).issuperset(name.lower() for name in manifest.present):
        folders = ", ".join(map(repr, manifest.present))
        raise UserError(
            f"{manifest.where}: its folders are {folders}, which name no classes but parts of a data set: classification "
            "wants a folder a class, right under the split's"
        )
    return [*alike(manifest.where, manifest.present), *twice(manifest)]


def folded(name: str) -> str:
    """What spellings of a name have in common that look alike: case, spaces, the form of accents."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())


def spelt_otherwise(name: str, known: Iterable[str]) -> str:
    """A hint where a name that is not known differs from a known one in that alone: people see the same name twice."""
    same = [other for other in known if folded(other) == folded(name)]
    return f" (training spells it {same[0]!a}, this is {name!a}: rename one)" if same else ""


def alike(where: str, names: Sequence[str]) -> list[str]:
    """A note on classes whose names look alike: one class that was written in two ways, as a rule."""
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in names:
        spellings[folded(name)].append(name)
    if not (several := [same for same in spellings.values() if len(same) > 1]):
        return []
    first = " and ".join(map(ascii, several[0]))
    return [f"{where}: classes {first} have names that look alike ({len(several)} such): each is a class of its own"]


def twice(manifest: Manifest) -> list[str]:
    """A note on samples that lie where others do."""
    order = np.argsort(manifest.places, kind="stable")
    same = np.diff(manifest.places[order]) == 0
    if not same.any():
        return []
    again = order[1:][same]
    told = f"{manifest.where}: {len(again):,} of {len(manifest):,} are there twice, such as {manifest.name(int(again.min()))}"
    apart = 0 if manifest.labels is None else np.count_nonzero(np.diff(manifest.labels[order])[same])
    return [f"{told}; {apart:,} of them in two classes, of which one is wrong" if apart else told]


def check_pair(train: Manifest, val: Manifest, allow: Collection[str] = ()) -> list[str]:
    """Notes on what two splits are to each other: samples in common, classes that only one of them has.

    Args:
        allow: ``data.allow``.

    Raises:
        UserError: a class that training never sees, or a validation sample lies where a training sample does, and
            ``val_in_train`` is not allowed.
    """
    notes = []
    if strange := sorted(set(val.present) - set(train.class_names)):
        raise UserError(
            f"{val.where}: class {strange[0]!r} is not in the training split ({len(strange)} such)"
            f"{spelt_otherwise(strange[0], train.class_names)}"
        )
    common = np.flatnonzero(np.isin(val.places, train.places))
    if len(common):
        said = f"{len(common):,} of {len(val):,} are training images too, such as {val.name(int(common[0]))}"
        if VAL_IN_TRAIN not in allow:
            raise UserError(
                f"{val.where}: {said}: give images that training does not see, or say that it is meant with --set "
                f"data.allow=[{VAL_IN_TRAIN}]"
            )
        notes.append(f"{val.where}: {said}")
    if unseen := [name for name in train.present if name not in set(val.present)]:
        notes.append(
            f"{val.where}: {len(unseen)} of {len(train.present)} classes have no validation image, such as {unseen[0]!r}"
        )
    return notes


def copies(train: Manifest, val: Manifest) -> list[str]:
    """A note where validation files have the very bytes of training files; reads some of both (`same_content`)."""
    if not (found := same_content(train, val)):
        return []
    row, twin = found[0]
    return [
        f"{val.where}: {len(found)} of {min(_SAMPLE, len(val))} looked at have the very bytes of a training image, such as "
        f"{val.name(row)} and {train.name(twin)}"
    ]


def same_content(train: Manifest, val: Manifest) -> list[tuple[int, int]]:
    """(validation row, training row) of files with the same bytes, among some validation files spread over the split.

    Compared with training files of the same name, then of the same size: at most some 1,000 are read.
    """
    if train.content is None or val.content is None or not len(train) or not len(val):
        return []
    rows = [k * len(val) // min(_SAMPLE, len(val)) for k in range(min(_SAMPLE, len(val)))]
    wanted = {_base(val.name(row)) for row in rows}
    named: dict[str, list[int]] = defaultdict(list)
    for i in range(len(train)):
        if (base := _base(train.name(i))) in wanted:
            named[base].append(i)
    found = []
    for row in rows:
        candidates = named[_base(val.name(row))][:_CANDIDATES]
        if train.sizes is not None and val.sizes is not None:
            candidates = [i for i in candidates if train.sizes[i] == val.sizes[row]]
            equal = np.flatnonzero(train.sizes == val.sizes[row])[: _CANDIDATES - len(candidates)]
            candidates += [int(i) for i in equal if int(i) not in candidates]
        digest = _digest(val.content, row) if candidates else None
        twin = next((i for i in candidates if digest and _digest(train.content, i) == digest), None)
        if twin is not None:
            found.append((row, twin))
    return found


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _digest(content: Callable[[int], bytes], row: int) -> bytes | None:
    try:
        return hashlib.sha256(content(row)).digest()
    except (OSError, ValueError):  # said by whoever decodes a sample of them
        return None
