"""What a run's folder says of the job in it: whose it is, whether it is done and whole, what has changed since it began.

``job.json`` names the job; ``config.yaml`` holds its resolved recipe and, in a comment, the job's id again, from which a torn
``job.json`` is made anew. `run` asks here before it trains.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from backbones.atomic import read_json, sweep, write_json, write_text
from backbones.errors import UserError
from backbones.files.tensor_files import sha256_file
from backbones.plain_files import JSON_LIMIT, read_plain
from mae_bench.common.console import say
from mae_bench.jobs.files import JOB_FILE
from mae_bench.jobs.job import PlannedJob, identity_facts
from mae_bench.recipes.load import as_dict, read_yaml
from mae_bench.records.provenance import device
from mae_bench.records.record import FILE_NAME

_CONFIG = "config.yaml"
# Keys that a job goes on with under the same identity, and what another value of them changes.
_CHANGE_BITS = {
    "train.micro_batch_size": "which mask an image gets, and so the weights",
    "train.log_every_steps": "over which steps final_loss is a mean",
}
_SURROUNDINGS = "surroundings"


def is_finished(run_dir: Path, identity: str) -> bool:
    """Whether the job is done there.

    Raises:
        UserError: the folder is not this job's to use.
    """
    found = read_json(run_dir / JOB_FILE)
    if isinstance(found, dict) and found.get("id") != identity:
        raise UserError(
            f"{run_dir} belongs to another recipe, checkpoint, data set or seed ({found.get('name')}): "
            "give another --out, or delete that folder"
        )
    # Names with a dot are locks and half-written files of a process that was killed, or is, before it wrote anything else.
    holds_more = run_dir.is_dir() and any(not path.name.startswith(".") for path in run_dir.iterdir())
    if not isinstance(found, dict) and holds_more:
        if not (run_dir / JOB_FILE).exists() and not (run_dir / _CONFIG).exists():
            raise UserError(f"{run_dir} is not empty and holds no run: give another --out")
        if identity not in (_id_in_config(run_dir), _id_in_record(run_dir)):
            raise UserError(
                f"{run_dir}: {JOB_FILE} is torn and {_CONFIG} does not say that the run is this job's: "
                "give another --out, or delete that folder"
            )
    return (run_dir / FILE_NAME).is_file()


def _id_in_config(run_dir: Path) -> str | None:
    try:
        text = read_plain(run_dir / _CONFIG, JSON_LIMIT).decode()
    except (OSError, ValueError):
        return None
    found = re.search(r"^# job ([0-9a-f]{64})$", text, re.MULTILINE)
    return found[1] if found else None


def _id_in_record(run_dir: Path) -> str | None:
    record = read_json(run_dir / FILE_NAME)
    return record.get("job_id") if isinstance(record, dict) else None


def damaged_exports(run_dir: Path) -> list[str]:
    """Files of a finished run that are not what its record says by their sha256."""
    record = read_json(run_dir / FILE_NAME)
    exports = record.get("exports") if isinstance(record, dict) else None
    if not isinstance(exports, dict):
        return []  # a record of before there were checksums
    return [name for name, sha256 in exports.items() if not _is(run_dir / Path(name).name, sha256)]


def _is(path: Path, sha256: object) -> bool:
    return path.is_file() and sha256_file(path) == sha256


def reopen(run_dir: Path, damaged: list[str]) -> None:
    """Makes a finished run an unfinished one, whose last checkpoint writes its files again."""
    say(f"{run_dir}: {', '.join(damaged)} does not match its checksum: made again", style="yellow")
    os.replace(run_dir / FILE_NAME, run_dir / f"damaged_{FILE_NAME}")


def write_job(run_dir: Path, job: PlannedJob, identity: str, primary_metric: str) -> None:
    """Notes whose the folder is, on the disk before anything else of the run; and what has changed since an earlier start."""
    sweep(run_dir)
    before = read_json(run_dir / JOB_FILE)
    if not isinstance(before, dict) and (run_dir / JOB_FILE).exists():
        say(f"{run_dir}: {JOB_FILE} is torn: made anew", style="yellow")
    told = before.get("changed") if isinstance(before, dict) else None
    changed = [line for line in told if isinstance(line, str)] if isinstance(told, list) else []
    surroundings = _surroundings()
    if any((run_dir / "checkpoints").glob("step_*")):
        new = _changes(_old_recipe(run_dir), job) + _moved(before, surroundings, job)
        changed += [line for line in new if line not in changed]
    about = {"id": identity, "name": job.name, "recipe": job.recipe_name, "task": job.recipe.task}
    content = {**about, "primary_metric": primary_metric, **identity_facts(job), _SURROUNDINGS: surroundings}
    recipe = yaml.safe_dump(as_dict(job.recipe), sort_keys=False)
    write_text(run_dir / _CONFIG, f"# {job.recipe_name}, resolved\n# job {identity}\n{recipe}", durable=True)
    write_json(run_dir / JOB_FILE, {**content, **({"changed": changed} if changed else {})}, durable=True)


def _surroundings() -> dict[str, Any]:
    """What sums are rounded by, beside the recipe."""
    kind = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    threads = {} if kind.type == "cuda" else {"threads": torch.get_num_threads()}
    return {"torch": torch.__version__, "device": device(kind, 1).name, **threads}


def _moved(before: object, surroundings: Mapping[str, Any], job: PlannedJob) -> list[str]:
    """What of the surroundings is not what it was at the start before."""
    old = before.get(_SURROUNDINGS) if isinstance(before, dict) else None
    lines = []
    for key, now in surroundings.items():
        if isinstance(old, dict) and key in old and old[key] != now:
            lines.append(f"{key} was {str(old[key])[:80]}, from a later start on {now}: the last bits may differ")
            say(f"{job.name}: {lines[-1]}", style="yellow")
    return lines


def notes(run_dir: Path) -> list[str]:
    """What has changed between a run's starts and counts for its figures, for the record."""
    job = read_json(run_dir / JOB_FILE)
    return [str(line) for line in job.get("changed", [])] if isinstance(job, dict) else []


def say_what_differs(recipe: Mapping[str, Any], job: PlannedJob) -> None:
    """Of a finished run: what it was done with, where that is not what is asked for now."""
    for line in _changes(recipe, job, when="was done with", now="asked for now"):
        say(f"{job.name}: {line}", style="yellow")


def _old_recipe(run_dir: Path) -> Mapping[str, Any]:
    try:
        return read_yaml(run_dir / _CONFIG)
    except UserError:
        return {}


def _changes(
    old: Mapping[str, Any], job: PlannedJob, when: str = "was", now: str = "from a later start on"
) -> list[str]:
    new = as_dict(job.recipe)
    lines = []
    for key, effect in _CHANGE_BITS.items():
        section, _, name = key.partition(".")
        part = old.get(section)
        if isinstance(part, Mapping) and name in part and part[name] != new[section][name]:
            lines.append(f"{key} {when} {part[name]}, {now} {new[section][name]}: it changes {effect}")
            if when == "was":
                say(f"{job.name}: {lines[-1]}", style="yellow")
    return lines


def say_where_data_changed(run_dir: Path, job: PlannedJob, identity: str) -> None:
    """Of a job that begins anew though one of the same recipe, start and seed is there: on other data, it is another job."""
    for other in _siblings(run_dir):
        found = read_json(other / JOB_FILE)
        if isinstance(found, dict) and found.get("id") != identity and identity_facts(job).items() <= found.items():
            say(f"{job.name}: the data are not those of {other}: begins anew in {run_dir}", style="yellow")


def _siblings(run_dir: Path) -> Iterator[Path]:
    stem = run_dir.name.rpartition("-")[0]
    if stem and run_dir.parent.is_dir():
        for other in sorted(run_dir.parent.iterdir()):
            if other.name.startswith(f"{stem}-") and other != run_dir:
                yield other
