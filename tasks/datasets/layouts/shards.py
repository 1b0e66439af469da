"""WebDataset shards with random access: ``train-000000.tar`` … whose samples are ``key.jpg`` and ``key.cls`` side by side.

As timm's `imagenet-1k-wds` is laid out. timm's own reader of them streams; ours indexes them once (`tar_index`), so that
samplers, subsets and exact evaluation work as with every other layout.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from backbones.plain_files import parse_json
from tasks.datasets.account import Account
from tasks.datasets.layouts.reader import class_indices, numbered_names
from tasks.datasets.layouts.tar_index import KIND, REASONS, ArchiveReader, TarIndex, find_gaps
from tasks.datasets.options import LayoutOptions
from tasks.datasets.suffixes import is_hidden, readable

# The key ends at the first dot of the file's base name, as in webdataset (tariterators.base_plus_ext).
_SAMPLE = re.compile(r"((?:.*/)?[^/.]+)\.([^/]*)")
_SIDE_SHARE = 0.5  # of the images that have a file of the same key beside them: then labels are likely to be in it

Sample = dict[str, int]  # field, in small letters -> row of the index


class ShardReader(ArchiveReader):
    """Samples in the order of the shards; classes are the numbers from the first up to the greatest."""

    numbered = True
    units = 2

    def __init__(self, shards: Sequence[Path], index: TarIndex, options: LayoutOptions = LayoutOptions()) -> None:  # noqa: B008
        self.root, self.account, self.notes = shards[0].parent, Account(), []
        self._index_of_all = index
        find_gaps(shards, self.account)
        images, labels = self._pairs(options)
        if not images:
            self.account.settle(self.root)
            raise UserError(f"{shards[0]}: no images found: expected key.jpg and key.cls side by side")
        numbers = self._numbers(labels, options.label or "cls")
        self.index = index.take(images)
        del self._index_of_all
        self.labels = class_indices(numbers, (), options.first_label, self.root)
        self.class_names = numbered_names(self.labels, options.first_label)

    def _pairs(self, options: LayoutOptions) -> tuple[list[int], list[int]]:
        """Rows of images and of their label files; all else goes into the account."""
        index, label_field = self._index_of_all, (options.label or "cls").partition(":")[0].lower()
        images, labels = [], []
        for (_, key), sample in samples(index, self.account).items():
            image = self._image(sample, key, options.image)
            label = sample.get(label_field)
            used = [row for row in (image, label) if row is not None]
            if image is not None and label is not None:
                images.append(image)
                labels.append(label)
            elif used:
                lacks = "no_label" if image is not None else "no_partner"
                said = f"{self._place(used[0])} (no {key}.{label_field})" if image is not None else self._place(used[0])
                self.account.leave_out(KIND, lacks, said)
            for field, row in sample.items():
                if row not in used:
                    self.account.leave_out(KIND, "other_view" if _is_image(field) else "beside", self._place(row))
        self.account.use(KIND, 2 * len(images))
        return images, labels

    def _image(self, sample: Sample, key: str, wanted: str | None) -> int | None:
        """The row of a sample's image: of the field that the user names, or of the only one, or the only plain one.

        Raises:
            UserError: several.
        """
        if wanted is not None:
            return sample.get(wanted.lower())
        fields = [field for field in sample if _is_image(field)]
        plain = [field for field in fields if "." not in field]
        chosen = fields if len(fields) == 1 else plain
        if len(fields) > 1 and len(chosen) != 1:
            raise UserError(
                f"{self._place(sample[fields[0]])}: sample {key!r} has {len(fields)} images ({', '.join(fields)}): name one "
                f"with --set data.options.image={fields[0]}; a key ends at the first dot of the name, so those are no samples "
                "of their own"
            )
        return sample[chosen[0]] if chosen else None

    def _numbers(self, rows: list[int], label: str) -> list[int]:
        """The class number in each label file.

        Raises:
            UserError: something else is in one.
        """
        index, key = self._index_of_all, label.partition(":")[2]
        if label == "cls" and not (index.values[rows] < 0).any():
            found: list[int] = index.values[rows].tolist()
            return found
        return [self._number(row, key) for row in rows]

    def _number(self, row: int, key: str) -> int:
        text = self._index_of_all.read(row, 2**20)
        try:
            value: Any = parse_json(text) if key else text.decode().strip()
            for part in key.split(".") if key else ():
                value = value[part]
            if isinstance(value, str) and re.fullmatch(r"-?[0-9]+", value):
                value = int(value)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        wanted = f"a class index under {key!r}" if key else "a class index"
        raise UserError(f"{self._place(row)} holds {text[:32].strip()!r}: expected {wanted}")

    def _place(self, row: int) -> str:
        return _place(self._index_of_all, row)

    def name(self, i: int) -> str:
        return f"{self.index.tars[self.index.tar[i]].name}/{self.index.names[i]}"

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.index.fingerprint().encode())
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()


def samples(index: TarIndex, account: Account | None = None) -> dict[tuple[int, str], Sample]:
    """(shard, key) -> its fields; what is no field of a sample goes into `account`, where it is found as well."""
    account = account or Account()
    found: dict[tuple[int, str], Sample] = defaultdict(dict)
    for row, (shard, name) in enumerate(zip(index.tar.tolist(), index.names, strict=True)):
        account.found(KIND)
        match = _SAMPLE.fullmatch(name)
        reason = REASONS[index.states[row]]
        if any(map(is_hidden, name.split("/"))):
            reason = "hidden"
        elif reason == "replaced":  # which of the two is meant, and which label is whose, nobody knows
            reason = "duplicate"
        elif not reason and match is None:
            reason = "not_image"
        elif not reason and match is not None and match[2].lower() in found[shard, match[1]]:
            reason = "duplicate"
        if reason or match is None:
            account.leave_out(KIND, reason, _place(index, row))
        else:
            found[shard, match[1]][match[2].lower()] = row
    return {key: sample for key, sample in found.items() if sample}


def are_shards(index: TarIndex, options: LayoutOptions) -> bool:
    """Whether archives hold samples of a WebDataset: label files lie beside images.

    Raises:
        UserError: files of the same key lie beside most images, but none that labels are known to be in.
    """
    label = (options.label or "cls").partition(":")[0].lower()
    images = fields = 0
    others: set[str] = set()
    for sample in samples(index).values():
        if label in sample:
            return True
        pictures = [field for field in sample if _is_image(field)]
        images += bool(pictures)
        rest = set(sample) - set(pictures)
        fields += bool(pictures) and bool(rest)
        if len(others) < 8:
            others |= rest
    flat = not any("/" in name for name in index.names)
    if flat and images and fields > _SIDE_SHARE * images:
        dotted = any(field.endswith(f".{label}") for field in others)
        way_out = (
            f"a key ends at the first dot of the name, so write samples' names without one before .{label}"
            if dotted
            else "name where they are, such as --set data.options.label=txt or --set data.options.label=json:KEY"
        )
        raise UserError(
            f"{index.tars[0]}: samples of {', '.join(sorted(others))} beside the images, but no .{label} with the labels: "
            f"{way_out}"
        )
    return False


def _is_image(field: str) -> bool:
    return "." + field.rpartition(".")[2] in readable()


def _place(index: TarIndex, row: int) -> str:
    return f"{index.tars[index.tar[row]]}: {index.names[row]}"
