"""Hugging Face's parquet shards: ``train-00000-of-00294.parquet`` with the columns image {bytes, path} and label.

An image is found by its row group, which is read whole (100 rows as `datasets` writes them): as quick as any layout in order,
some fifty times slower shuffled. For training, unpack, or use tars or WebDataset shards.
"""

from __future__ import annotations

import json
import os
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from backbones.errors import UserError
from tasks.datasets.layouts.reader import Reader, check_labels, numbered_names, unique_names
from tasks.datasets.roots import fingerprint

_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.parquet")
_KEPT_GROUPS = 2  # decoded row groups a process keeps: about 11 MB each for ImageNet


class ParquetReader(Reader):
    """Classes are the names that the shards' metadata gives (`ClassLabel`), else the numbers from 0 up to the greatest."""

    numbered = True

    def __init__(self, shards: list[Path]) -> None:
        _check_complete(shards)
        self.root, self.shards = shards[0].parent, shards
        groups: list[tuple[int, int, int]] = []  # shard, group, rows
        labels, self.paths = [], []
        names: list[str] | None = None
        for number, shard in enumerate(shards):
            file = _open(shard)
            self.image, label = _columns(shard, file)
            names = names or _class_names(file, label)
            metadata = file.metadata
            groups += [(number, g, metadata.row_group(g).num_rows) for g in range(metadata.num_row_groups)]
            table = _read(shard, lambda file=file, label=label: file.read([f"{self.image}.path", label]))
            labels += table.column(label).to_pylist()
            self.paths += table.column(self.image).combine_chunks().field("path").to_pylist()
            if None in labels:
                raise UserError(
                    f"{shard}: rows without a label: this split holds none, give train or validation shards"
                )
        self.labels = np.array(labels, np.int64)
        if not len(labels):
            raise UserError(f"{shards[0]}: no rows in it")
        self.class_names = unique_names(names) if names else numbered_names(self.labels, self.root)
        check_labels(self.labels, len(self.class_names), self.root)
        self.groups = groups
        self.ends = np.cumsum([rows for *_, rows in groups])
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._files: dict[int, Any] = {}
        self._process = os.getpid()

    def name(self, i: int) -> str:
        # Written by `datasets`: the synset comes twice in ImageNet's names, and once too often.
        return re.sub(r"^(n\d{8}_\d+|ILSVRC2012_val_\d{8})_n\d{8}(?=\.)", r"\1", self.paths[i] or f"row {i}")

    def place(self, i: int) -> str:
        shard, _, _ = self.groups[self._group(i)]
        return f"{self.shards[shard]}: {self.paths[i] or f'row {i}'}"

    def encoded(self, i: int) -> bytes:
        group = self._group(i)
        row = i - (self.ends[group] - self.groups[group][2])
        content = self._column(group)[int(row)].as_py()
        if content is None:
            raise ValueError("the row holds no bytes")
        return bytes(content)

    def fingerprint(self) -> str:
        return fingerprint(self.root, self.shards)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict(), "_files": {}}

    def _group(self, i: int) -> int:
        return int(np.searchsorted(self.ends, i, side="right"))

    def _column(self, group: int) -> Any:
        """The images' bytes of a row group."""
        if self._process != os.getpid():  # a forked process opens its own files
            self._kept, self._files, self._process = OrderedDict(), {}, os.getpid()
        if group not in self._kept:
            shard, number, _ = self.groups[group]
            if shard not in self._files:
                self._files = {shard: _open(self.shards[shard])}
            table = self._files[shard].read_row_group(number, columns=[f"{self.image}.bytes"])
            self._kept[group] = table.column(self.image).combine_chunks().field("bytes")
            while len(self._kept) > _KEPT_GROUPS:
                self._kept.popitem(last=False)
        return self._kept[group]


def _check_complete(shards: list[Path]) -> None:
    for shard in shards:
        match = _PART.fullmatch(shard.name)
        if match is None:
            continue
        stem, _, total = match.groups()
        for k in range(int(total)):
            part = shard.with_name(f"{stem}-{k:05d}-of-{total}.parquet")
            if not part.exists():
                raise UserError(f"{part}: missing: complete the download ({int(total)} shards)")
        return


def _open(shard: Path) -> Any:
    try:
        import pyarrow.parquet as pq
    except ImportError as e:
        raise UserError(f"{shard}: parquet needs pyarrow: pip install 'mae-bench[parquet]'") from e
    return _read(shard, lambda: pq.ParquetFile(shard, memory_map=True))


def _read(shard: Path, call: Any) -> Any:
    try:
        return call()
    except (OSError, ValueError) as e:  # pyarrow's errors are these as well
        raise UserError(f"{shard}: not readable as parquet ({str(e).splitlines()[0]}): download it again") from e


def _columns(shard: Path, file: Any) -> tuple[str, str]:
    """Names of the image column and of the label column."""
    schema = file.schema_arrow
    image = next((name for name in ("image", "img") if name in schema.names), None)
    label = next((name for name in ("label", "labels") if name in schema.names), None)
    if image is None or label is None:
        raise UserError(f"{shard}: columns are {', '.join(schema.names)}: expected image and label")
    fields = {field.name for field in schema.field(image).type} if schema.field(image).type.num_fields else set()
    if not {"bytes", "path"} <= fields:
        raise UserError(f"{shard}: column {image} is {schema.field(image).type}: expected a struct of bytes and path")
    return image, label


def _class_names(file: Any, label: str) -> list[str] | None:
    metadata = file.schema_arrow.metadata or {}
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][label]
        names = feature.get("names")
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
    return [str(name) for name in names] if names else None
