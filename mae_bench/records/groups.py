"""Records as cells: runs that differ in nothing but the seed, under a name that is the same on every machine and every day.

A cell's name says protocol and recipe, method, encoder and data set, and neither folder nor checkpoint: the encoder of
tonight's run is another file than last night's.
"""

from __future__ import annotations

import math
import os
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mae_bench.recipes.load import short_name
from mae_bench.records.record import Record
from tasks import metric, registry
from tasks.spec import Metric, in_decimals

SPEEDS = ("images_per_s", "inference_s_per_image", "peak_memory_bytes")
"""Fields of a record that depend on the hardware; like metrics, but held on the same device only."""
LOSS = "final_loss"
"""The field that stands for a run where nothing is evaluated, as in pre-training."""
_FIELDS = (
    Metric(LOSS, unit="", better="lower", decimals=4),
    Metric("images_per_s", unit="images/s", decimals=None),
    Metric("inference_s_per_image", unit="s", better="lower", decimals=None),
    Metric("peak_memory_bytes", unit="bytes", better="lower", decimals=None),
)


def declared(task: str | None, key: str) -> Metric:
    """What is known of a figure of a record: of a field of every record, or of a metric of its task."""
    return next((field for field in _FIELDS if field.key == key), None) or metric(task, key)


def gain(record: Record) -> float:
    """By how much the primary metric of the best epoch is better than the last one's; 0 where either is unknown."""
    best = (record.metrics.best or {}).get(record.primary_metric)
    last = record.metrics.last.get(record.primary_metric)
    if best is None or last is None:
        return 0.0
    return last - best if metric(record.task, record.primary_metric).better == "lower" else best - last


def shown_metrics(task: str | None, primary: str | None, metrics: Mapping[str, float | None]) -> list[str]:
    """``["box_ap 51.6", "mask_ap 45.9"]``: of a run's metrics the primary one, and those that its task counts as much."""
    known = {key: declared(task, key) for key in metrics}
    return [
        f"{key} {in_decimals(math.nan if value is None else value, known[key].decimals)}"
        for key, value in metrics.items()
        if key == primary or known[key].headline
    ]


@dataclass(frozen=True)
class GroupValue:
    """A metric over a cell's seeds: mean (nan as soon as one is), and sample standard deviation; None of one seed."""

    value: float
    std: float | None
    n: int


@dataclass(frozen=True)
class RunGroup:
    """The finished runs of one name. `problem` says why they make no figure, such as runs of two recipes."""

    name: str
    records: tuple[Record, ...]

    @property
    def seeds(self) -> list[int]:
        return sorted(record.seed for record in self.records)

    @property
    def problem(self) -> str | None:
        for what, kinds in (
            ("settings of the recipe", {r.recipe_hash for r in self.records}),
            ("data", {r.data.fingerprint for r in self.records}),
        ):
            if len(kinds) > 1:
                return f"runs of {len(kinds)} different {what} under --runs: give a folder that holds one of them"
        twice = next((s for s in self.seeds if self.seeds.count(s) > 1), None)
        if twice is not None:
            return f"several runs of seed {twice}, from different checkpoints: give a folder that holds one of them"
        return None

    @property
    def device(self) -> str:
        """Hardware, for speeds: "2 x NVIDIA H100, bf16"; on CPUs with torch's threads, where the record says them."""
        return ", ".join(sorted({_device(record) for record in self.records}))

    @property
    def data(self) -> str:
        """The fingerprint's beginning, of each of its parts."""
        return "+".join(part[:12] for part in self.records[0].data.fingerprint.split("+"))

    @property
    def recipe(self) -> str:
        return self.records[0].recipe_hash[:12]

    @property
    def primary(self) -> str:
        """The metric that says how good it is; the loss where nothing is evaluated, as in pre-training."""
        return self.records[0].primary_metric or LOSS

    @property
    def headlines(self) -> tuple[str, ...]:
        """The primary metric, and those that its task counts as much."""
        each = registry().get(self.records[0].task)
        return tuple(dict.fromkeys([self.primary, *(each.headlines if each else ())]))

    def declared(self, key: str) -> Metric:
        """What is known of one of its figures."""
        return declared(self.records[0].task, key)

    def figure(self, metric: str) -> GroupValue | None:
        """None when none of the runs has the metric."""
        found = [v for v in (_value(record, metric) for record in self.records) if v is not None]
        if not found:
            return None
        mean = statistics.fmean(found)
        several = len(found) > 1 and math.isfinite(mean)
        return GroupValue(mean, statistics.stdev(found) if several else None, len(found))


def group_runs(records: Iterable[Record]) -> dict[str, RunGroup]:
    """Finished runs by the name of their cell, in the order of the names; the same job in two folders counts once."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in once([record for record in records if record.status == "done"]):
        groups[name_of(record)].append(record)
    return {name: RunGroup(name, _by_seed(groups[name])) for name in sorted(groups)}


def name_of(record: Record) -> str:
    """``finetune/vit_micro_patch8_embedded, MAE, vit_micro_patch8 48 px, embedded``, plus a variant where there is one."""
    recipe = f"{record.protocol}/{short_name(record.recipe_name)}"
    method = f"{record.init.method} {record.variant}" if record.variant else record.init.method
    return f"{recipe}, {method}, {record.arch} {record.img_size} px, {record.data.name}"


def _by_seed(records: Sequence[Record]) -> tuple[Record, ...]:
    return tuple(sorted(records, key=lambda r: (r.seed, r.job_id)))


def _device(record: Record) -> str:
    n = record.host.threads if record.host and record.device.type == "cpu" else None
    threads = "" if n is None else f", {n} thread{'' if n == 1 else 's'}"
    return f"{record.device.count} x {record.device.name}{threads}, {record.precision}"


def _value(record: Record, metric: str) -> float | None:
    """A metric, or a speed, of a record; nan where it was measured and was not a number, None where it was not measured."""
    if metric in SPEEDS or metric == LOSS:
        value = getattr(record, metric)
        return float(value) if value else None  # a run that trained nothing has no speed of training
    if metric not in record.metrics.last:
        return None
    value = record.metrics.last[metric]
    return math.nan if value is None else float(value)


def once(records: Sequence[Record]) -> list[Record]:
    """One record a job, the latest: the same job in two folders is no second seed."""
    latest: dict[str, Record] = {}
    for record in sorted(records, key=lambda r: r.finished):
        latest[record.job_id] = record
    return sorted(latest.values(), key=lambda r: (r.started, r.seed, r.job_id))


def place(record: Record, runs_dir: str | os.PathLike[str] | None) -> str:
    """A record's path, relative to `runs_dir` where it lies below it."""
    if record.path is None:
        return record.name
    if runs_dir is not None and record.path.is_relative_to(Path(runs_dir)):
        return record.path.relative_to(Path(runs_dir)).as_posix()
    return record.path.as_posix()
