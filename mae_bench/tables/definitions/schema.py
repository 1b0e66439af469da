"""What a definition of a table is made of. The tables themselves are in the files beside this one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mae_bench.records.record import Record
from mae_bench.tables.definitions.data_sets import DataSet
from mae_bench.tables.table import Chart
from tasks import registry, task_of_protocol
from tasks.recipe import Recipe
from tasks.spec import Metric, undeclared

ANY = ""  # in place of an architecture: the table's subjects are architectures


@dataclass(frozen=True)
class TableMetric:
    """A figure of `Record.metrics`; `label` goes before the architecture where a table has several.

    `kind`: the only kind of records (`Definition.kind`) that have it, where kinds differ in that.
    """

    key: str
    label: str = ""
    kind: str = ""


@dataclass(frozen=True)
class PaperColumn:
    """A column of the paper; `published`: its key there, if it has figures; no `arch` where our records never fill it."""

    heading: str
    published: str | None
    metric: str
    arch: str | None = None
    img_size: int | None = None  # pixels
    kind: str = ""


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


@dataclass(frozen=True)
class Subjects:
    """How a table tells its records' subjects.

    `of` gives a record's key; None leaves the record out of the table. A subject that is not `known` makes rows of its own,
    labelled by `label`, or is left out where that is None: among the known ones by their keys' order where keys are numbers,
    else after them. A record fills all known subjects of its key that have its metrics.
    """

    heading: str
    of: Callable[[Record], Any]
    known: tuple[Subject, ...]
    label: Callable[[Any], str] | None = None


@dataclass(frozen=True)
class Published:
    """Where figures are: a key in `published.yaml`, and what its rows and columns are ("subject", "method", "column").

    `method`: whose figures they all are, where it does not name methods. `long`: (column, value) keys, if it has a row a cell.
    `cells`: where that is no answer, the place of each: (subject, method, column as we head it) -> (row, column).
    """

    table: str
    row: str = "method"
    column: str = "column"
    method: str | None = None
    long: tuple[str, str] | None = None
    cells: Mapping[tuple[str, str, str], tuple[str, str]] | None = None


@dataclass(frozen=True)
class Delta:
    """A last row: the figures of row `minuend` less those of row `subtrahend`, in the same columns."""

    method: Method
    minuend: str
    subtrahend: str


ONE = (Subject("", ""),)
"""The subject of a table that is about one thing."""


def _method(record: Record) -> str | None:
    return record.init.method


@dataclass(frozen=True)
class Definition:
    """A table of methods. With a `chart`, subjects are its rows and points on x, methods its columns."""

    name: str
    title: str
    task: str
    protocols: tuple[str, ...]
    data: DataSet
    metrics: tuple[TableMetric, ...]
    columns: tuple[PaperColumn, ...]
    methods: tuple[Method, ...]
    published: tuple[Published, ...] = ()
    subjects: Subjects = Subjects("", lambda record: "", ONE)
    fallback_protocols: tuple[str, ...] = ()  # protocols that fill only what no record of `protocols` fills
    fallback_note: str = ""  # said where they do
    # What tells our own columns apart beside architecture and size: "data", "val" the validation images alone, "" neither.
    own_columns_by: str = "data"
    notes: tuple[str, ...] = ()
    chart: Chart | None = None
    # Which row a record belongs to; None leaves it out.
    method: Callable[[Record], str | None] = _method
    # What tells columns apart beside architecture and input size, such as the detector; its data set where they differ.
    kind: Callable[[Record], str] = lambda record: ""
    data_of: Mapping[str, DataSet] = field(default_factory=dict)
    # Which recipes' runs `mae-bench run` shows here rather than in the first table of their task that has their protocol.
    recipes: Callable[[Recipe], bool] | None = None
    # Row -> why its records are never set against the published figures.
    never_compared: Mapping[str, str] = field(default_factory=dict)
    delta: Delta | None = None
    # The shipped recipe that a record's cell of the paper stands for; None where any recipe of the protocol may fill it.
    recipe_of: Callable[[Record], str | None] = lambda record: None
    recipe_leaves_open: tuple[str, ...] = ()  # keys of it that may be otherwise

    @property
    def by_arch(self) -> bool:
        """Whether the table's subjects are architectures, so that its columns are not."""
        return any(column.arch == ANY for column in self.columns)

    def declared(self, key: str) -> Metric:
        """What the tasks of this table's records declare of a figure."""
        tasks = [self.task, *map(task_of_protocol, (*self.protocols, *self.fallback_protocols))]
        known = [metric for task in tasks if task in registry() and (metric := registry()[task].declared(key))]
        return known[0] if known else undeclared(key)

    def paper_data(self, kind: str) -> DataSet:
        """The paper's data set for records of this kind."""
        return self.data_of.get(kind, self.data)
