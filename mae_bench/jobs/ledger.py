"""What the disk tells of a run's jobs, without data or models: planned, begun, done, failed, queued.

``OUT/plan.json`` names all jobs; ``OUT/.plan/NAME.json`` says of a job what its own run directory cannot (it failed before
it had one, it waits, it never ran); ``OUT/NAME-XXXXXXXX/job.json`` is written by `run`.
"""

from __future__ import annotations

import traceback
from functools import lru_cache
from pathlib import Path
from typing import Any

from backbones.atomic import read_json, write_json, write_text
from backbones.files.tensor_files import sha256_file
from mae_bench.jobs.files import JOB_FILE, PLAN_FILE, note_file, planned_names
from mae_bench.jobs.job import JobPlan, PlannedJob
from mae_bench.recipes.load import recipe_hash
from mae_bench.records.record import FILE_NAME

_MODELS = ("model.safetensors", "encoder.safetensors")  # the first of them is what the next job starts from


def write_plan(out: Path, plan: JobPlan) -> None:
    """Adds these jobs' names to those of earlier runs into `out`, so that `status` knows what is left."""
    names = planned_names(out) + [job.name for job in plan.jobs]
    write_json(out / PLAN_FILE, {"jobs": list(dict.fromkeys(names))})


def write_note(out: Path, name: str, state: str, **fields: Any) -> None:
    """Says of a job that it is ``queued`` (with ``slurm``, its job's id), ``failed`` or ``not run`` (with ``error``)."""
    path = note_file(out, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"state": state, **fields})


def log_file(out: Path, name: str) -> Path:
    """What a job's process prints, where a launcher started one."""
    return note_file(out, name).with_suffix(".log")


def write_traceback(out: Path, name: str, run_dir: Path | None) -> Path:
    """The traceback of the error that is being handled, in the job's folder if it has one by now."""
    held = run_dir is not None and run_dir.is_dir()
    path = run_dir / "traceback.txt" if run_dir and held else note_file(out, name).with_suffix(".traceback.txt")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, traceback.format_exc())
    return path


def clear_note(out: Path, name: str) -> None:
    """Removes the note of a job that runs now. Its id in the queue stays."""
    if queue_id(out, name) is None:
        note_file(out, name).unlink(missing_ok=True)


def error_of(out: Path, name: str) -> str | None:
    """Why a job failed, if known."""
    note = read_json(note_file(out, name))
    return note.get("error") if isinstance(note, dict) and note.get("state") == "failed" else None


def queue_id(out: Path, name: str) -> str | None:
    """Slurm's id of a job that was submitted; `slurm_queue` knows whether the job is still there."""
    note = read_json(note_file(out, name))
    return note.get("slurm") if isinstance(note, dict) else None


def state(out: Path, plan: JobPlan, job: PlannedJob) -> str:
    """``done``, ``resumes`` or ``new``; the data's content is not looked at, only the job itself does that."""
    found = _runs(out, plan, job)
    return "done" if any((run / FILE_NAME).is_file() for run in found) else "resumes" if found else "new"


def done(out: Path, plan: JobPlan, job: PlannedJob) -> Path | None:
    """The run directory in which a job is done, the newest of several."""
    finished = [run for run in _runs(out, plan, job) if (run / FILE_NAME).is_file()]
    return max(finished, key=lambda run: (run / FILE_NAME).stat().st_mtime_ns, default=None)


def _runs(out: Path, plan: JobPlan, job: PlannedJob) -> list[Path]:
    """Run directories of this recipe, start and seed."""
    start = _start(out, plan, job)
    if start is None:
        return []
    wanted = (recipe_hash(job.recipe), start, job.recipe.seed)
    folder = out / job.name
    return [p.parent for p in sorted(folder.parent.glob(f"{folder.name}-*/{JOB_FILE}")) if _said(p.parent) == wanted]


def _start(out: Path, plan: JobPlan, job: PlannedJob) -> str | None:
    """Identity of what a job starts from, ``scratch``, or None while that is not there."""
    if job.checkpoint is not None:
        return job.checkpoint.identity
    if job.after is None:
        return "scratch"
    before = done(out, plan, plan[job.after])
    path = next((before / name for name in _MODELS if (before / name).is_file()), None) if before else None
    return _sha256(path, path.stat().st_mtime_ns) if path else None


@lru_cache(maxsize=256)
def _sha256(path: Path, _changed: int) -> str:
    return sha256_file(path)


def _said(run_dir: Path) -> tuple[Any, Any, Any] | None:
    """(recipe hash, start, seed) of a run directory."""
    job = read_json(run_dir / JOB_FILE)
    if isinstance(job, dict) and "start" in job:
        return job.get("recipe_hash"), job["start"], job.get("seed")
    record = read_json(run_dir / FILE_NAME)  # of a run that began before job.json said so
    init = record.get("init") if isinstance(record, dict) else None
    if isinstance(record, dict) and isinstance(init, dict):
        return record.get("recipe_hash"), init.get("sha256") or "scratch", record.get("seed")
    return None
