"""Hugging Face's parquet shards: ``train-00000-of-00294.parquet`` with the columns image {bytes, path} and label.

An image is found by its row group, which is read whole (100 rows as `datasets` writes them): as quick as any layout in order,
some fifty times slower shuffled. For training, unpack, or use tars or WebDataset shards.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backbones.errors import UserError
from backbones.plain_files import JSON_LIMIT, open_plain, parse_json
from tasks.datasets.account import Account
from tasks.datasets.layouts.reader import Reader, class_indices, modified, numbered_names, unique_names
from tasks.datasets.manifest import place_of
from tasks.datasets.options import LayoutOptions
from tasks.datasets.roots import fingerprint

KIND = "rows"
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})(?:-[0-9a-f]+)?\.parquet")  # older ones end with a checksum of their own
_SMALL = 1 << 28  # bytes of shards, up to which all are read to tell how large each image is
_KEPT_GROUPS = 2  # decoded row groups a process keeps: about 11 MB each for ImageNet
# A few bytes can stand for gigabytes: a dictionary's entry repeated, pages of zeros. Pictures are compressed as they are.
_SLACK = 1 << 29  # bytes that a row group's images may come to in any case
_EXPANSION = 8  # and how many times what they take on disk
_TEXT_SLACK = 1 << 26  # bytes of a shard's labels and paths beyond its size
_BATCH = 1 << 26  # bytes that are decoded at a time, roughly
_ROW = 16  # bytes on disk that a row takes at the very least, of shards with more than so many rows:
_FEW_ROWS = 100_000
_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")  # CIFAR-100's published figures are of the fine one


@dataclass(frozen=True)
class _Columns:
    """Where a shard has image and label: ``image.bytes`` of a struct, or a column of bytes itself."""

    image: str
    label: str
    nested: bool
    path: bool  # the struct has the image's path as well


class ParquetReader(Reader):
    """Classes are the names that the shards' metadata gives (`ClassLabel`) or the labels' texts, else the numbers."""

    numbered = True
    kind = KIND

    def __init__(self, shards: list[Path], options: LayoutOptions = LayoutOptions()) -> None:  # noqa: B008
        _check_complete(shards)
        self.root, self.shards, self.account, self.notes = shards[0].parent, shards, Account(), []
        groups: list[tuple[int, int, int]] = []  # shard, group, rows
        labels: list[Any] = []
        paths: list[str | None] = []
        names: list[str] | None = None
        self.columns: list[_Columns] = []
        for number, shard in enumerate(shards):
            file = _open(shard)
            columns = _columns(shard, file, options)
            self.columns.append(columns)
            own = _class_names(file, columns.label)
            if number and own != names:
                raise UserError(
                    f"{shard}: its classes are {_shown(own)}, those of {shards[0].name} {_shown(names)}: keep shards of one set"
                )
            names = own
            metadata = file.metadata
            groups += [(number, g, metadata.row_group(g).num_rows) for g in range(metadata.num_row_groups)]
            found, where = _labels_and_paths(shard, file, columns)
            labels += found
            paths += where
        if not labels:
            raise UserError(f"{shards[0]}: no rows in it")
        if options.label is None and (others := _other_labels(_open(shards[0]), self.columns[0].label)):
            self.notes.append(f"labels are column {self.columns[0].label}; {', '.join(others)} is there as well")
        self.groups = groups
        self.ends = np.cumsum([rows for *_, rows in groups])
        self._paths = paths
        self._keep_labelled(labels)
        self._set_classes([label for label in labels if label is not None], names, options)
        self._sizes: NDArray[np.int64] | None = None
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._files: dict[int, Any] = {}
        self._process = os.getpid()

    def _keep_labelled(self, labels: list[Any]) -> None:
        """Rows without a label go into the account."""
        self.account.found(KIND, len(labels))
        self.rows = np.flatnonzero([label is not None for label in labels])
        self.account.use(KIND, len(self.rows))
        for row in np.flatnonzero([label is None for label in labels]).tolist():
            self.account.leave_out(KIND, "no_label", self._place(row))

    def _set_classes(self, labels: list[Any], names: list[str] | None, options: LayoutOptions) -> None:
        if len(types := {type(label) for label in labels}) > 1:
            kinds = " and ".join(sorted(kind.__name__ for kind in types))
            raise UserError(f"{self.root}: labels are {kinds} in different shards: keep files of one generation")
        if labels and isinstance(labels[0], str):
            self.numbered = False
            self.class_names = sorted(set(labels))
            index = {name: i for i, name in enumerate(self.class_names)}
            self.labels = np.array([index[label] for label in labels], np.int64)
            return
        self.labels = class_indices(labels, names or (), options.first_label, self.root)
        self.class_names = unique_names(names) if names else numbered_names(self.labels, options.first_label)

    def name(self, i: int) -> str:
        # Written by `datasets`: the synset comes twice in ImageNet's names, and once too often.
        row = int(self.rows[i])
        return re.sub(r"^(n\d{8}_\d+|ILSVRC2012_val_\d{8})_n\d{8}(?=\.)", r"\1", self._paths[row] or f"row {row}")

    def place(self, i: int) -> str:
        return self._place(int(self.rows[i]))

    def _place(self, row: int) -> str:
        shard, _, _ = self.groups[self._group(row)]
        return f"{self.shards[shard]}: {self._paths[row] or f'row {row}'}"

    def encoded(self, i: int) -> bytes:
        row = int(self.rows[i])
        group = self._group(row)
        content = self._column(group)[row - int(self.ends[group] - self.groups[group][2])].as_py()
        if content is None:
            raise ValueError("the row holds no bytes")
        return bytes(content)

    def fingerprint(self) -> str:
        # Labels of another order of classes, or others altogether, may fill as many bytes.
        labels = self.labels.astype("<i8").tobytes()
        paths = "\n".join(map(str, self._paths)).encode(errors="surrogateescape")
        return hashlib.sha256(fingerprint(self.root, self.shards).encode() + labels + paths).hexdigest()

    def places(self) -> NDArray[np.int64]:
        files = [(stat.st_dev, stat.st_ino) for stat in (shard.stat() for shard in self.shards)]
        starts = np.array([rows for *_, rows in self.groups]).cumsum() - [rows for *_, rows in self.groups]
        group_of = np.searchsorted(self.ends, self.rows, side="right").tolist()
        # The row within its shard: groups of a shard follow one another.
        first: dict[int, int] = {}
        for (shard, *_), start in zip(self.groups, starts.tolist(), strict=True):
            first.setdefault(shard, start)
        rows = zip(self.rows.tolist(), group_of, strict=True)
        return np.array(
            [place_of(*files[shard], row - first[shard]) for row, shard in ((r, self.groups[g][0]) for r, g in rows)],
            np.int64,
        )

    def sizes(self) -> NDArray[np.int64] | None:
        """See `Reader`; reads the images' column, where the shards are small."""
        if sum(shard.stat().st_size for shard in self.shards) > _SMALL:
            return None
        if self._sizes is None:
            import pyarrow.compute as pc

            lengths = [pc.fill_null(pc.binary_length(self._column(g)), 0) for g in range(len(self.groups))]
            self._sizes = np.concatenate([np.asarray(column, np.int64) for column in lengths])[self.rows]
        return self._sizes

    def modified(self) -> str:
        return modified(self.shards)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict(), "_files": {}}

    def _group(self, row: int) -> int:
        return int(np.searchsorted(self.ends, row, side="right"))

    def _column(self, group: int) -> Any:
        """The images' bytes of a row group."""
        if self._process != os.getpid():  # a forked process opens its own files
            self._kept, self._files, self._process = OrderedDict(), {}, os.getpid()
        if group not in self._kept:
            shard, number, _ = self.groups[group]
            if shard not in self._files:
                self._files = {shard: _open(self.shards[shard])}
            columns = self.columns[shard]
            wanted = f"{columns.image}.bytes" if columns.nested else columns.image
            table = _decoded(self.shards[shard], self._files[shard], [wanted], [number])
            column = table.column(columns.image).combine_chunks()
            self._kept[group] = column.field("bytes") if columns.nested else column
            while len(self._kept) > _KEPT_GROUPS:
                self._kept.popitem(last=False)
        return self._kept[group]


def _shown(names: list[str] | None) -> str:
    """Class names for a message."""
    if names is None:
        return "numbers alone"
    return f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''} ({len(names)})"


def _check_complete(shards: list[Path]) -> None:
    """Raises UserError where a numbered shard is missing, or files of several generations lie together."""
    matches = [_PART.fullmatch(shard.name) for shard in shards]
    kinds = {(match[1], match[3]) if match else None for match in matches}
    if len(kinds) > 1 and kinds != {None}:
        several = [
            next(s.name for s, m in zip(shards, matches, strict=True) if (m and (m[1], m[3])) == kind) for kind in kinds
        ]
        raise UserError(
            f"{shards[0].parent}: parquet files of several generations lie together ({', '.join(sorted(several))}): keep one"
        )
    if matches[0] is None:
        return
    stem, _, total = matches[0].groups()
    parts = Counter(match[2] for match in matches if match)
    for k in range(int(total)):
        part, there = f"{stem}-{k:05d}-of-{total}.parquet", parts[f"{k:05d}"]
        if not there:
            raise UserError(f"{shards[0].with_name(part)}: missing: complete the download ({int(total)} shards)")
        if there > 1:
            raise UserError(
                f"{shards[0].parent}: parquet files of several generations lie together ({there} of {part}): keep one"
            )


def _open(shard: Path) -> Any:
    try:
        import pyarrow.parquet as pq
    except ImportError as e:
        raise UserError(f"{shard}: parquet needs pyarrow: pip install 'mae-bench[parquet]'") from e
    open_plain(shard).close()
    file = _read(shard, lambda: pq.ParquetFile(shard, memory_map=True))
    rows = file.metadata.num_rows
    if rows > _FEW_ROWS and rows * _ROW > shard.stat().st_size:
        raise UserError(
            f"{shard} claims {rows:,} rows, more than a file of its size can hold images: download it again"
        )
    return file


def _decoded(shard: Path, file: Any, columns: list[str], groups: list[int], most: int | None = None) -> Any:
    """Columns of some row groups as a table, decoded piece by piece.

    Args:
        most: bytes that they may come to; by default what images of these groups may.

    Raises:
        UserError: it is more.
        OSError, ValueError: damaged, as pyarrow says it.
    """
    import pyarrow as pa

    parts = [file.metadata.row_group(group) for group in groups]
    chunks = [part.column(i) for part in parts for i in range(part.num_columns)]
    chunks = [chunk for chunk in chunks if chunk.path_in_schema in columns]
    most = most or max(_SLACK, _EXPANSION * sum(chunk.total_compressed_size for chunk in chunks))
    total = sum(chunk.total_uncompressed_size for chunk in chunks)  # a dictionary's entries counted once
    rows = max(1, _BATCH // max([1, *(chunk.total_uncompressed_size for chunk in chunks)]))
    batches, came_to = [], 0
    if total <= most:
        for batch in file.iter_batches(batch_size=min(rows, 1 << 16), row_groups=groups, columns=columns):
            came_to += batch.nbytes
            if came_to > most:
                break
            batches.append(batch)
    if max(total, came_to) > most:
        raise UserError(
            f"{shard}: {', '.join(columns)} of {'a row group' if len(groups) == 1 else 'it'} come to more than "
            f"{most / 2**20:,.0f} MiB, many times what they take on disk: write the shard anew with smaller row groups"
        )
    return pa.Table.from_batches(batches) if batches else file.read_row_groups(groups, columns=columns)


def _read(shard: Path, call: Any) -> Any:
    try:
        return call()
    except (OSError, ValueError) as e:  # pyarrow's errors are these as well
        raise UserError(f"{shard}: not readable as parquet ({str(e).splitlines()[0]}): download it again") from e


def _columns(shard: Path, file: Any, options: LayoutOptions) -> _Columns:
    """The image column and the label column.

    Raises:
        UserError: there are none, or several that could be meant.
    """
    import pyarrow as pa

    schema = file.schema_arrow
    pictures = [field.name for field in schema if _holds_bytes(field.type)]
    usual = _IMAGE_COLUMNS if len(pictures) != 1 else (*_IMAGE_COLUMNS, *pictures)
    image = _choose(shard, schema.names, options.image, usual, "image")
    label = _choose(shard, schema.names, options.label, _LABEL_COLUMNS, "label")
    kind = schema.field(image).type
    if pa.types.is_struct(kind) and "bytes" in (inside := {field.name for field in kind}):
        return _Columns(image, label, True, "path" in inside)
    if _is_binary(kind):
        return _Columns(image, label, False, False)
    raise UserError(f"{shard}: column {image} is {kind}: expected a struct of bytes and path, or bytes")


def _holds_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return _is_binary(kind) or bool(pa.types.is_struct(kind) and "bytes" in {field.name for field in kind})


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _choose(shard: Path, names: Sequence[str], wanted: str | None, usual: Sequence[str], what: str) -> str:
    if wanted is not None and wanted not in names:
        raise UserError(f"{shard}: columns are {_named(names)}: data.options.{what}={wanted} is none of them")
    found = wanted or next((name for name in usual if name in names), None)
    if found is None:
        raise UserError(
            f"{shard}: columns are {_named(names)}: expected image and label, or --set data.options.{what}=COLUMN"
        )
    return found


def _named(columns: Sequence[str]) -> str:
    """Columns for a message."""
    return ", ".join(name[:60] for name in columns[:20]) + (", …" if len(columns) > 20 else "")


def _other_labels(file: Any, taken: str) -> list[str]:
    """Columns that by their names could be labels too, such as CIFAR-100's ``coarse_label``."""
    return [name for name in file.schema_arrow.names if "label" in name.lower() and name != taken]


def _labels_and_paths(shard: Path, file: Any, columns: _Columns) -> tuple[list[Any], list[str | None]]:
    """Labels (numbers or texts, None where there is none) and paths, row by row.

    Raises:
        UserError: labels of another type, or several a row.
    """
    import pyarrow as pa

    wanted = [f"{columns.image}.path", columns.label] if columns.path else [columns.label]
    groups, most = list(range(file.num_row_groups)), _TEXT_SLACK + shard.stat().st_size
    table = _read(shard, lambda: _decoded(shard, file, wanted, groups, most))
    column = table.column(columns.label)
    labels = column.to_pylist()
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        several = next((row for row, label in enumerate(labels) if label is not None and len(label) > 1), None)
        if several is not None:
            raise UserError(
                f"{shard}: row {several} has {len(labels[several])} labels in column {columns.label}: classification wants "
                "one an image"
            )
        labels, kind = [label[0] if label else None for label in labels], kind.value_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise UserError(f"{shard}: column {columns.label} is {kind}: expected class indices or class names")
    paths: list[str | None] = [None] * len(labels)
    if columns.path:
        paths = table.column(columns.image).combine_chunks().field("path").to_pylist()
    return labels, paths


def _class_names(file: Any, label: str) -> list[str] | None:
    metadata = file.schema_arrow.metadata or {}
    try:
        about = metadata[b"huggingface"]
        feature = parse_json(about if len(about) <= JSON_LIMIT else b"")["info"]["features"][label]
        names = feature.get("names")
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
    return [str(name) for name in names] if names else None
