"""The baseline file: YAML that people read, comment and edit. Tolerances and comments are theirs, figures are `update`'s.

A tolerance is as wide as the widest of what it gives: ``absolute`` (in the metric's unit), ``relative`` (a share of the
baseline's figure), ``stds`` (so many standard deviations of the baseline's seeds). A cell may have one of its own.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from backbones import atomic
from backbones.errors import UserError
from backbones.plain_files import JSON_LIMIT, read_plain
from mae_bench.common.yaml_file import check_size
from mae_bench.records.groups import LOSS, SPEEDS, RunGroup, declared
from tasks import task_of_protocol
from tasks.spec import PERCENT, Metric

VERSION = 1
_HEADER = """\
What `mae-bench check` holds runs against. With --update it replaces the figures (value, std), device, data, recipe and seeds;
tolerances, comments and further metrics that you write by hand stay.
metrics: what is held in every cell that has it, and how far it may move: absolute, relative (0.05 is 5 %) or stds (times the
standard deviation of the baseline's seeds), the widest counts; better: higher | lower; with two_sided: true an improvement
beyond it is refused, too. A metric of a cell may have a tolerance of its own: top1: {value: 68.6, absolute: 2}.
Speeds are held where metrics asks for them (images_per_s: {relative: 0.25}); on shared machines they move by more than that."""
_WIDTHS = {"absolute", "relative", "stds"}

_TOLERANCE: dict[str, Any] = {
    "absolute": {"type": "number", "minimum": 0},
    "relative": {"type": "number", "minimum": 0},
    "stds": {"type": "number", "minimum": 0},
    "better": {"enum": ["higher", "lower"]},
    "two_sided": {"type": "boolean"},
}
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["schema_version", "metrics", "cells"],
    "properties": {
        "schema_version": {"const": VERSION},
        "metrics": {
            "type": "object",
            "additionalProperties": {"type": "object", "additionalProperties": False, "properties": _TOLERANCE},
        },
        "cells": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["metrics"],
                "properties": {
                    "device": {"type": "string"},
                    "data": {"type": "string"},
                    "recipe": {"type": "string"},
                    "seeds": {"type": "array", "items": {"type": "integer"}},
                    "metrics": {
                        "type": "object",
                        "additionalProperties": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {
                                **_TOLERANCE,
                                "value": {"type": ["number", "null"]},  # null stands for not-a-number, as in records
                                "std": {"type": ["number", "null"], "minimum": 0},
                            },
                        },
                    },
                },
            },
        },
    },
}


@dataclass(frozen=True)
class BaselineMetric:
    """A figure of the baseline with its tolerance; `value` nan where the metric was not a number, None where not yet known."""

    metric: str
    value: float | None
    std: float | None  # over the seeds
    absolute: float | None
    relative: float | None
    stds: float | None
    better: str
    two_sided: bool
    line: int  # of the file, from 1

    @property
    def allowed(self) -> float | None:
        """How far the figure may move; None when that cannot be said (a multiple of a spread that one seed has not)."""
        if self.value is None:
            return None
        widths = [
            self.absolute,
            None if self.relative is None else self.relative * abs(self.value),
            None if self.stds is None or self.std is None else self.stds * self.std,
        ]
        known = [width for width in widths if width is not None]
        return max(known) if known else None


@dataclass(frozen=True)
class BaselineGroup:
    """What the baseline says of one cell."""

    name: str
    figures: tuple[BaselineMetric, ...]
    device: str | None
    data: str | None
    recipe: str | None
    seeds: tuple[int, ...]
    line: int


@dataclass(frozen=True)
class Baseline:
    """The file as it was read; `document` keeps its comments for `update`."""

    path: Path
    cells: dict[str, BaselineGroup]
    document: CommentedMap = field(repr=False, compare=False)


def load(path: Path) -> Baseline:
    """Reads and checks a baseline.

    Raises:
        UserError: no such file, no YAML, or a key or value that has no place there.
    """
    try:
        content = read_plain(path, JSON_LIMIT).decode("utf-8")
        check_size(content, f"--baseline {path}")
        document = _yaml().load(content)
    except FileNotFoundError:
        raise UserError(f"--baseline {path}: no such file: --update writes it from these runs") from None
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"--baseline {path}: cannot be read ({getattr(e, 'strerror', None) or e})") from e
    except (YAMLError, ValueError, RecursionError) as e:
        raise UserError(f"--baseline {path}: not readable as YAML: {' '.join(str(e).split())}") from e
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(_SCHEMA).iter_errors(document))
    if error is not None:
        place = " > ".join(str(part) for part in error.absolute_path) or "the file"
        raise UserError(f"--baseline {path}: {place}: {' '.join(error.message.split())[:200]}")
    general = document["metrics"]
    cells = {
        str(name): _cell(str(name), cell, general, document["cells"].lc.key(name)[0] + 1)
        for name, cell in document["cells"].items()
    }
    return Baseline(path, cells, document)


def update(path: Path, cells: Mapping[str, RunGroup]) -> Baseline:
    """Writes these cells' figures into the baseline at `path`, which need not be there yet; what people wrote stays.

    Cells that the runs have not keep their figures.

    Raises:
        UserError: a cell's runs do not make one figure, or the file cannot be read or written.
    """
    for cell in cells.values():
        if cell.problem:
            raise UserError(f"{cell.name}: {cell.problem}")
    document = load(path).document if path.exists() else _empty(cells.values())
    for cell in cells.values():
        _put(document, cell)
    text = io.StringIO()
    _yaml().dump(document, text)
    try:
        atomic.write_text(path, text.getvalue())
    except OSError as e:
        raise UserError(f"--baseline {path}: cannot be written ({e.strerror or e})") from e
    return load(path)


def _cell(name: str, raw: Any, general: Any, line: int) -> BaselineGroup:
    task = task_of_protocol(name.partition("/")[0])  # as `groups.name_of` begins
    figures = tuple(
        _held(task, metric, own, general.get(metric, {}), raw["metrics"].lc.key(metric)[0] + 1)
        for metric, own in raw["metrics"].items()
    )
    seeds = tuple(raw.get("seeds", ()))
    return BaselineGroup(name, figures, raw.get("device"), raw.get("data"), raw.get("recipe"), seeds, line)


def _default(metric: Metric) -> dict[str, Any]:
    """The tolerance of a figure that the file gives none: a point of a percentage, a share of what has another unit.

    What is better neither way, or nobody declared, may move neither way.
    """
    width = {"absolute": 1.0, "stds": 2.0} if metric.unit == PERCENT else {"relative": 0.02, "stds": 2.0}
    if metric.key in SPEEDS:
        width = {"relative": 0.25}
    if metric.key == LOSS:
        width = {"relative": 0.02}
    return {**width, **({"better": metric.better} if metric.better else {"two_sided": True})}


def _held(
    task: str | None, metric: str, own: Mapping[str, Any], general: Mapping[str, Any], line: int
) -> BaselineMetric:
    """A tolerance of the cell's own takes the place of the general one, which else would widen it."""
    widths = own if _WIDTHS & own.keys() else general
    default = _default(declared(task, metric))
    if not _WIDTHS & widths.keys():
        widths = default
    value = own.get("value")
    better = own.get("better") or general.get("better") or default.get("better")
    return BaselineMetric(
        metric=metric,
        value=(math.nan if value is None else float(value)) if "value" in own else None,
        std=own.get("std"),
        absolute=widths.get("absolute"),
        relative=widths.get("relative"),
        stds=widths.get("stds"),
        better=better or "higher",
        two_sided=bool(own.get("two_sided", general.get("two_sided", not better))),
        line=line,
    )


def _empty(cells: Iterable[RunGroup]) -> CommentedMap:
    """A new baseline: of every cell the primary metric and those that count as much. No speeds: machines differ."""
    metrics: dict[str, Any] = {}
    for cell in cells:
        for metric in cell.headlines:
            if cell.figure(metric) is not None:
                metrics.setdefault(metric, _flow(_default(cell.declared(metric))))
    document = CommentedMap({"schema_version": VERSION, "metrics": CommentedMap(metrics), "cells": CommentedMap()})
    document.yaml_set_start_comment(_HEADER)
    return document


def _put(document: CommentedMap, cell: RunGroup) -> None:
    """A cell's figures: of the metrics that the file holds in general, the cell's primary one, and those it lists itself."""
    general, held = document["metrics"], document["cells"]
    raw = held.setdefault(cell.name, CommentedMap())
    for key, value in (("device", cell.device), ("data", cell.data), ("recipe", cell.recipe)):
        raw[key] = value
    raw["seeds"] = _flow_list(cell.seeds)
    figures = raw.setdefault("metrics", CommentedMap())
    if not figures and cell.primary not in general:
        general[cell.primary] = _flow(_default(cell.declared(cell.primary)))
    # The loss says how good a run is only where nothing else does.
    wanted = [metric for metric in general if metric != LOSS or cell.primary == LOSS]
    wanted.sort(key=lambda metric: metric != cell.primary)
    for metric in dict.fromkeys([*figures, *wanted]):
        found = cell.figure(metric)
        if found is None:
            continue
        own = figures.setdefault(metric, _flow(_against(general.get(metric, {}), cell.declared(metric))))
        own["value"] = _short(found.value)
        own.pop("std", None)
        if found.std is not None:
            own.insert(1, "std", _short(found.std))


def _against(general: Mapping[str, Any], metric: Metric) -> dict[str, Any]:
    """A cell's own tolerance where the general one is of another task's metric of that name, which is better the other way."""
    return _default(metric) if metric.better and general.get("better", metric.better) != metric.better else {}


def _short(value: float) -> float | None:
    """Six figures are more than any tolerance sees, and keep differences of the file short."""
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.6g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) >= 1e6 else rounded


def _flow(content: Mapping[str, Any]) -> CommentedMap:
    made = CommentedMap(content)
    made.fa.set_flow_style()
    return made


def _flow_list(items: list[int]) -> CommentedSeq:
    made = CommentedSeq(items)
    made.fa.set_flow_style()
    return made


class _Representer(RoundTripRepresenter):
    """Text that holds line separators or control characters is written with escapes.

    In single quotes ruamel.yaml folds U+0085 into white space: the name would be another one when it is read.
    """

    def represent_str(self, data: str) -> ScalarNode:
        style = None if data.isprintable() else '"'
        node: ScalarNode = self.represent_scalar("tag:yaml.org,2002:str", data, style=style)
        return node


_Representer.add_representer(str, _Representer.represent_str)


def _yaml() -> YAML:
    """Reads and writes with comments; its round-trip loader makes plain values only, as the safe one does."""
    yaml = YAML(typ="rt")
    yaml.Representer = _Representer
    yaml.width = 10_000  # a metric stays on a line, whatever its comment
    yaml.allow_duplicate_keys = False
    return yaml
