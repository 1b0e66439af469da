"""What a table's definition is made of. The tables themselves are in `definitions` and `protocol_definitions`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mae_bench.record import Record
from mae_bench.tables.data_sets import DataSet
from mae_bench.tables.model import Chart


@dataclass(frozen=True)
class Metric:
    """A figure of `Record.metrics`; `label` goes before the architecture where a table has several."""

    key: str
    label: str = ""


@dataclass(frozen=True)
class PaperColumn:
    """A column of the paper; `published`: its key there, if it has figures; no `arch` where our records never fill it."""

    heading: str
    published: str | None
    metric: str
    arch: str | None = None
    img_size: int | None = None  # pixels


@dataclass(frozen=True)
class Method:
    """A row: `published` is its name in the published table, None where the paper has no such row."""

    label: str
    published: str | None = None


@dataclass(frozen=True)
class Subject:
    """What a group of rows is about. None for `metric` and `data`: the column's, the table's."""

    label: str
    key: Any  # what `Subjects.of` says of its records
    published: str | None = None
    metric: str | None = None
    data: DataSet | None = None
    lower_is_better: bool = False


@dataclass(frozen=True)
class Subjects:
    """How a table tells its records' subjects.

    `of` gives a record's key; None leaves the record out of the table. A subject that is not `known` makes rows of its own,
    labelled by `label`, or is left out where that is None. A record fills all known subjects of its key that have its metrics.
    """

    heading: str
    of: Callable[[Record], Any]
    known: tuple[Subject, ...]
    label: Callable[[Any], str] | None = None


@dataclass(frozen=True)
class Published:
    """Where figures are: a key in `published.yaml`, and what its rows and columns are ("subject", "method", "column").

    `method`: whose figures they all are, where it does not name methods. `long`: (column, value) keys, if it has a row a cell.
    """

    table: str
    row: str = "method"
    column: str = "column"
    method: str | None = None
    long: tuple[str, str] | None = None


ONE = (Subject("", ""),)
"""The subject of a table that is about one thing."""


@dataclass(frozen=True)
class Definition:
    """A table of methods. With a `chart`, subjects are its rows and points on x, methods its columns."""

    name: str
    title: str
    task: str
    protocols: tuple[str, ...]
    data: DataSet
    metrics: tuple[Metric, ...]
    columns: tuple[PaperColumn, ...]
    methods: tuple[Method, ...]
    published: tuple[Published, ...] = ()
    subjects: Subjects = Subjects("", lambda record: "", ONE)
    instead: tuple[str, ...] = ()  # protocols that fill only what no record of `protocols` fills
    # What tells our own columns apart beside architecture and size: "data", "val" the validation images alone, "" neither.
    apart: str = "data"
    notes: tuple[str, ...] = ()
    chart: Chart | None = None
