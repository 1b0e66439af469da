"""Which records count, and their figure: what every kind of table needs. Rows and columns are `build`'s and `ablation`'s."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from mae_bench.record import Record
from mae_bench.tables.data_sets import DataSet
from mae_bench.tables.model import Measured

# Readers of COCO leave out images without annotations: 1 % fewer is still the whole data set.
_WHOLE = 0.98


def is_whole(data: DataSet, record: Record) -> bool:
    """Whether a record is of the whole of the paper's data set, in training and in validation."""
    return (
        bare(record.data.name) == bare(data.name)
        and is_whole_count(data, record.data.train_count)
        and _WHOLE * data.val_count <= record.data.val_count <= data.val_count
    )


def bare(name: str) -> str:
    """A name's letters and figures, in small letters."""
    return "".join(char for char in name.casefold() if char.isalnum())


def is_whole_count(data: DataSet, images: int | None) -> bool:
    """Whether so many training images are the whole of the paper's data set; not when it is unknown."""
    return images is not None and _WHOLE * data.train_count <= images <= data.train_count


def once(records: Sequence[Record]) -> list[Record]:
    """One record a job, the latest: the same job in two folders is no second seed."""
    latest: dict[str, Record] = {}
    for record in sorted(records, key=lambda r: r.finished):
        latest[record.job_id] = record
    return sorted(latest.values(), key=lambda r: (r.started, r.seed, r.job_id))


def measured(group: Sequence[Record], metric: str, runs_dir: str | os.PathLike[str] | None) -> Measured | None:
    """The figure of runs that differ in nothing but the seed; None when none of them has the metric."""
    group = [record for record in group if metric in record.metrics.last]
    return measured_by(group, lambda record: record.metrics.last[metric], runs_dir) if group else None


def measured_by(
    group: Sequence[Record], figure: Callable[[Record], float | None], runs_dir: str | os.PathLike[str] | None
) -> Measured:
    """The figure that `figure` gives of each run; None stands for not-a-number."""
    values = [figure(record) for record in group]
    return Measured(
        values=tuple(math.nan if value is None else float(value) for value in values),
        records=tuple(place(record, runs_dir) for record in group),
        seeds=tuple(record.seed for record in group),
    )


def place(record: Record, runs_dir: str | os.PathLike[str] | None) -> str:
    """A record's path, relative to `runs_dir` where it lies below it."""
    if record.path is None:
        return record.name
    if runs_dir is not None and record.path.is_relative_to(Path(runs_dir)):
        return record.path.relative_to(Path(runs_dir)).as_posix()
    return record.path.as_posix()
