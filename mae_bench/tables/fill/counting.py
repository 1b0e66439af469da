"""Which records count, and their figure: what every kind of table needs. Rows and columns are `methods`' and `ablations`'."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence

from mae_bench.records.groups import place
from mae_bench.records.record import Record
from mae_bench.tables.table import Measured


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
