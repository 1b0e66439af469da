"""The record of a run (`record.json`): its fields, its schema, reading and writing. Tables read nothing else.

How the facts are found out (versions, device, memory) is in `mae_bench.records.provenance`; what older versions of
the schema lack, in
`mae_bench.records.versions`; what tables make of records, in `mae_bench.tables`.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema

from backbones.atomic import write_json
from backbones.errors import UserError
from backbones.plain_files import JSON_LIMIT, parse_json, read_plain
from mae_bench.common.disk import writing
from mae_bench.records.versions import SCHEMA_VERSION, upgrade
from tasks import metric, task_of_protocol

FILE_NAME = "record.json"
log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Init:
    """What the encoder started from; `method` names the row of the tables ("scratch", "MAE", ...)."""

    method: str
    checkpoint: str | None = None
    sha256: str | None = None
    layout: str | None = None
    pretraining: dict[str, Any] | None = (
        None  # settings and changed keys (`mae_bench.recipes.pretraining`); None when unknown
    )
    sources: dict[str, str] = field(default_factory=dict)  # where the architecture is known from (`Checkpoint.sources`)


@dataclass(kw_only=True)
class Metrics:
    """Figures as papers print them, under the keys that the task's `TaskSpec` declares.

    None stands for not-a-number, such as the AP of a size range without objects.
    """

    last: dict[str, float | None]
    best: dict[str, float | None] | None = None  # chosen by the primary metric on the validation set itself
    selection: str = "last epoch"
    best_epoch: float | None = None


@dataclass(kw_only=True)
class Data:
    """The data set; the same fields as `tasks.base.DataInfo`."""

    name: str
    root: str
    train_count: int
    val_count: int
    classes: int
    fingerprint: str
    split: str = "val"
    notes: list[str] = field(default_factory=list)
    account: dict[str, Any] = field(default_factory=dict)  # by split: `tasks.datasets.account`
    looked: list[str] = field(default_factory=list)
    class_names: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Git:
    """The source checkout; `dirty` when tracked files differ from the commit."""

    commit: str
    dirty: bool


@dataclass(kw_only=True)
class Device:
    """What the run computed on: `count` devices (one a process) of `type` ("cpu", "cuda")."""

    name: str
    count: int
    type: str


@dataclass(kw_only=True)
class Command:
    """What the user called, and the folder that relative paths in it are of."""

    argv: list[str]
    folder: str


@dataclass(kw_only=True)
class Host:
    """The machine, and what decides on it how the same program computes."""

    name: str
    system: str
    cpus: int  # that this process may use
    threads: int  # of torch, a process
    environment: dict[str, str]  # variables of `provenance.VARIABLES` that were set


@dataclass(kw_only=True)
class Record:
    """One run: what it measured, from what, how, on what. `record.schema.json` says what each field may hold.

    Runs that differ in the seed alone share `recipe_hash`, `init.sha256` and `data.fingerprint`: tables give
    their mean. Runs of the same job share `job_id`: tables count them once.
    """

    name: str
    task: str
    protocol: str
    status: str
    arch: str
    img_size: int
    init: Init
    metrics: Metrics
    primary_metric: str
    seed: int
    data: Data
    recipe: dict[str, Any]
    recipe_name: str
    recipe_hash: str
    job_id: str
    software: dict[str, str]
    device: Device
    precision: str
    started: str
    finished: str
    git: Git | None = None
    # What images went through before the encoder, and where that is known from (`backbones.encoders.preprocessing`).
    preprocessing: dict[str, Any] | None = None
    variant: str = ""  # which pre-training the checkpoint is of, where a suite has several
    command: Command | None = None
    host: Host | None = None
    images_per_s: float | None = None
    inference_s_per_image: float | None = None
    peak_memory_bytes: int | None = None
    device_hours: float | None = None
    wall_time_s: float | None = None
    final_loss: float | None = None
    recovered: dict[str, int] = field(default_factory=dict)  # what went wrong and was made good: how often
    warnings: list[str] = field(default_factory=list)
    checkpoints: list[str] = field(default_factory=list)
    exports: dict[str, str] = field(default_factory=dict)  # file of the run's folder -> sha256
    error: str | None = None
    schema_version: int = SCHEMA_VERSION
    path: Path | None = field(default=None, compare=False, repr=False)  # where it was read from; not in the file

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the file: plain JSON values, not-a-number and infinity as None."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self) if f.name != "path"}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Record:
        """The record of a dictionary that `schema` holds valid."""
        nested: dict[str, Any] = {
            "init": Init(**raw["init"]),
            "metrics": Metrics(**raw["metrics"]),
            "data": Data(**raw["data"]),
            "git": None if raw["git"] is None else Git(**raw["git"]),
            "device": Device(**raw["device"]),
            "command": None if raw["command"] is None else Command(**raw["command"]),
            "host": None if raw["host"] is None else Host(**raw["host"]),
        }
        return cls(**{**raw, **nested})


@lru_cache(maxsize=1)
def schema() -> dict[str, Any]:
    """The JSON Schema that records keep to, on writing and on reading."""
    text = resources.files("mae_bench.records").joinpath("record.schema.json").read_text("utf-8")
    return dict(json.loads(text))


def write(record: Record, run_dir: str | os.PathLike[str]) -> Path:
    """Write `run_dir`/record.json in one go: a reader sees the old file or the new one, never a part.

    Raises:
        ValueError: the record does not keep to the schema (our mistake, not the user's); nothing is written.
        RunFailed: the folder is missing, full or not writable.
    """
    raw = record.to_dict()
    if problem := _problem(raw):
        raise ValueError(f"record of {record.name}: {problem}")
    target = Path(run_dir) / FILE_NAME
    with writing(target):
        write_json(target, raw, indent=2, durable=True)
    return target


def check(record: Record) -> None:
    """Refuses a record that could not be written, as long as nothing was spent on what it is of.

    Raises:
        UserError: the field, and what is wrong with it.
    """
    if problem := _problem(record.to_dict()):
        raise UserError(f"{record.name}: its record would not be valid: {problem}")


def read(path: str | os.PathLike[str]) -> Record:
    """The record of a file, or of the run folder that holds it; one of an older version as the newest would have it.

    Raises:
        UserError: the file cannot be read, is torn, is no record, or was written by a newer version.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE_NAME
    try:
        raw = parse_json(read_plain(path, JSON_LIMIT).decode("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # not UTF-8, not JSON, or cut off
        raise UserError(f"{path}: not a whole JSON file ({error}); remove it and run the job again") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise UserError(f"{path}: not a record of mae-bench (no schema_version)")
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path}: record of schema version {version}, newer than {SCHEMA_VERSION}, the newest that this"
            " mae-bench reads: upgrade mae-bench"
        )
    raw = upgrade(raw)
    if problem := _problem(raw):
        raise UserError(f"{path}: not a valid record: {problem}")
    record = Record.from_dict(raw)
    record.path = path
    return record


def find(runs_dir: str | os.PathLike[str]) -> list[Record]:
    """All records below a folder, in the order of their paths; what is no record is logged as a warning.

    Raises:
        UserError: there is no such folder.
    """
    root = Path(runs_dir)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder (--runs takes the folder that `run --out` wrote)")
    records = []
    for path in sorted(root.rglob(FILE_NAME)):
        try:
            records.append(read(path))
        except UserError as error:
            log.warning("left out: %s", error)
    return records


def _problem(raw: Any) -> str | None:
    """What is wrong with a record, in one line that names the field; None when it is valid."""
    validator = jsonschema.Draft202012Validator(schema())
    error = jsonschema.exceptions.best_match(validator.iter_errors(raw))
    if error is not None:
        place = ".".join(str(part) for part in error.absolute_path) or "record"
        message = " ".join(error.message.split())
        return f"{place}: {message if len(message) <= 200 else message[:200] + ' ...'}"
    if (owner := task_of_protocol(raw["protocol"])) not in (None, raw["task"]):
        return f"protocol: {raw['protocol']} is of task {owner}, not of {raw['task']}"
    for part in ("last", "best"):
        for key, value in (raw["metrics"][part] or {}).items():
            if metric(raw["task"], key).out_of_range(value):
                return f"metrics.{part}.{key}: {value} is no percentage"
    primary = raw["primary_metric"]
    if raw["status"] == "done" and primary and primary not in raw["metrics"]["last"]:
        return f'metrics.last: the primary metric "{primary}" is missing'
    return None


def _plain(value: Any) -> Any:
    """JSON values of whatever a run hands over: dataclasses, paths, numpy and torch scalars."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if hasattr(value, "item"):
        return _plain(value.item())
    raise TypeError(f"{type(value).__name__} has no place in a record: {value!r}")
