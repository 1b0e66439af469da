"""A job: one recipe, one start (scratch or a checkpoint), one seed, in one run directory; done once. Plans are in `plan`.

A job's identity is the hash of resolved recipe, checkpoint content, data fingerprint and seed: a finished one is not run
again, an interrupted one goes on, a changed one gets another folder.
"""

from __future__ import annotations

import datetime
import math
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from backbones.atomic import read_json
from backbones.encoders.preprocessing import Preprocessing
from backbones.encoders.timm_models import TimmModel
from backbones.errors import Interrupted, UserError
from backbones.files.tensor_files import save_tensors, sha256_file
from mae_bench.common.console import say
from mae_bench.common.disk import writing
from mae_bench.common.library_warnings import written_to
from mae_bench.common.rendezvous import lost_companions_explained
from mae_bench.common.signals import stop_signals
from mae_bench.common.text import plain
from mae_bench.engine.checkpoints import checkpoints
from mae_bench.engine.flops import step_flops_per_image
from mae_bench.engine.loop import FitResult, create_accelerator, fit
from mae_bench.engine.optimizer import check
from mae_bench.engine.seeding import seed_all
from mae_bench.jobs.files import JOB_FILE
from mae_bench.jobs.job import PlannedJob, job_id
from mae_bench.jobs.lock import RunLock
from mae_bench.jobs.run_folder import (
    damaged_exports,
    is_finished,
    notes,
    reopen,
    say_what_differs,
    say_where_data_changed,
    write_job,
)
from mae_bench.recipes.load import as_dict, recipe_hash
from mae_bench.records import provenance
from mae_bench.records.groups import shown_metrics
from mae_bench.records.record import FILE_NAME, Data, Init, Metrics, Record, read, write
from mae_bench.records.record import check as check_record
from mae_bench.records.status_file import write_status
from tasks import create_task
from tasks.base import Task
from tasks.datasets.loading import dead_workers_explained
from tasks.datasets.transforms import has_imagenet_colours

T = TypeVar("T")


def run_job(job: PlannedJob, place: Callable[[str], Path]) -> Record:
    """Runs a job unless it is done already.

    Args:
        place: run directory of a job id.

    Raises:
        UserError: bad input, or the run directory belongs to another job.
        Interrupted: a signal came; what was done is saved.
    """
    check(job.recipe)
    with ExitStack() as held, stop_signals(), lost_companions_explained():
        accelerator = create_accelerator(job.recipe)
        seed_all(job.recipe.seed, "init")
        task = create_task(job.recipe, job.checkpoint)
        identity = job_id(job, task.data.fingerprint)
        check_record(_draft(job, task, identity, accelerator))
        run_dir = place(identity)
        # One process looks and claims; the others find what it left.
        lock = _on_main(accelerator, lambda: _claim(run_dir, job, task, identity, held))
        if (run_dir / FILE_NAME).is_file():
            say(f"{job.name}: done already ({run_dir})")
            done = read(run_dir)
            say_what_differs(done.recipe, job)
            return done
        return _run(job, task, run_dir, identity, accelerator, lock.check if lock else lambda: None)


def _on_main(accelerator: Accelerator, do: Callable[[], T]) -> T | None:
    """`do`'s result on the main process, None on the others; its UserError is everybody's, so that none waits for ever."""
    result, said = None, ""
    if accelerator.is_main_process:
        try:
            result = do()
        except UserError as e:
            if accelerator.num_processes == 1:
                raise
            said = str(e)
    if accelerator.num_processes > 1:
        shared = [said]
        broadcast_object_list(shared)
        if shared[0]:
            raise UserError(shared[0])
    return result


_said: set[str] = set()


def _say_once(lines: list[str]) -> None:
    """Says what was seen of the data; the jobs of a run that share them, and so the lines, say it once."""
    if not _said.issuperset(lines):
        for line in lines:
            say(line)
    _said.update(lines)


def _run(
    job: PlannedJob,
    task: Task[Any],
    run_dir: Path,
    identity: str,
    accelerator: Accelerator,
    check_owner: Callable[[], None],
) -> Record:
    job = _with_counts(job, task)  # before the model is compiled or wrapped
    started = _now()
    try:
        _say_once(_on_main(accelerator, task.look_at_data) or [])
        # Twice: torch may report a worker's death just while the first is leaving for another error of the same death.
        with lost_companions_explained(), dead_workers_explained(), dead_workers_explained(), written_to(run_dir):
            result = fit(task, run_dir, name=job.name, accelerator=accelerator, check_owner=check_owner)
    except BaseException as e:
        if accelerator.is_main_process:
            state = "interrupted" if isinstance(e, (Interrupted, KeyboardInterrupt)) else "failed"
            write_status(run_dir, state, name=job.name, error=str(e) or type(e).__name__)
        raise
    record = _with_result(_draft(job, task, identity, accelerator), task, result, run_dir, started)
    if accelerator.is_main_process:
        for name, tensors in task.export(result.model).items():
            path = run_dir / f"{name}.safetensors"
            with writing(path):
                save_tensors(path, tensors, _export_metadata(job, task))
            record.exports[path.name] = sha256_file(path)
        _draw(task, result.model, run_dir / "predictions")
        write(record, run_dir)  # the last: what it vouches for is on the disk
        write_status(run_dir, "done", name=job.name, step=result.progress.step, total=result.progress.step)
    accelerator.wait_for_everyone()
    if result.stopped:
        raise Interrupted(f"{job.name} is done, what comes after it is not: the same command goes on")
    return record


def _draw(task: Task[Any], model: nn.Module, folder: Path) -> None:
    """Pictures of a finished run; no figure depends on them, so nothing that goes wrong in them fails the run."""
    try:
        folder.mkdir(exist_ok=True)
        task.draw(model, folder)
        with suppress(OSError):
            folder.rmdir()  # where nothing was drawn
    except Exception as error:
        say(f"no pictures in {folder}: {plain(str(error)) or type(error).__name__}")


def _with_counts(job: PlannedJob, task: Task[Any]) -> PlannedJob:
    """Adds to a pre-training's settings its number of images and the cost of a step, which the recipe does not know."""
    if job.pretraining is None:
        return job
    flops = step_flops_per_image(task.model, job.recipe.encoder.img_size)
    counts = {"images": task.data.train_count, "flops_per_image": flops}
    return replace(job, pretraining={**job.pretraining, **counts})


def _claim(run_dir: Path, job: PlannedJob, task: Task[Any], identity: str, held: ExitStack) -> RunLock | None:
    """Claims `run_dir` for this job and process until `held` ends; None if the finished job is there."""
    whole = isinstance(read_json(run_dir / JOB_FILE), dict)
    if is_finished(run_dir, identity) and whole and not damaged_exports(run_dir):
        return None
    make_folder(run_dir)
    lock = held.enter_context(RunLock(run_dir))
    if is_finished(run_dir, identity):  # while we waited for another process
        if damaged := damaged_exports(run_dir):
            reopen(run_dir, damaged)
        elif isinstance(read_json(run_dir / JOB_FILE), dict):
            return None
    if not (run_dir / JOB_FILE).exists():
        say_where_data_changed(run_dir, job, identity)
    with writing(run_dir / JOB_FILE):
        write_job(run_dir, job, identity, task.primary_metric)
    if (run_dir / FILE_NAME).is_file():
        return None
    write_status(run_dir, "running", name=job.name)
    return lock


def make_folder(path: Path) -> None:
    """`path` as a folder that can be written to, or a UserError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"--out {path}: cannot make this folder ({e.strerror}): give another one") from e
    if not os.access(path, os.W_OK):
        raise UserError(f"--out {path}: not writable: give another folder")


def _export_metadata(job: PlannedJob, task: Task[Any]) -> dict[str, Any]:
    """What a checkpoint of ours says of itself: the row of the tables that its encoder belongs to, the classes of its head."""
    method = "MAE" if job.recipe.task == "pretraining" else job.method
    said: dict[str, Any] = {"method": method, "arch": job.recipe.encoder.arch, "recipe": job.recipe_name}
    if task.data.class_names:
        said["classes"] = task.data.class_names
    if (preprocessing := _own_preprocessing(job, task)) is not None:
        said["preprocessing"] = preprocessing.as_dict()
    if job.checkpoint is not None and isinstance(job.checkpoint.architecture, TimmModel):
        said["timm"] = job.checkpoint.architecture.as_config(job.recipe.encoder.img_size)
    pretraining = job.known_pretraining()
    return said if pretraining is None else {**said, "pretraining": pretraining}


def _own_preprocessing(job: PlannedJob, task: Task[Any]) -> Preprocessing | None:
    """What the encoder goes on to expect, without the crop that the recipe alone asks for; None where it is MAE's."""
    used = task.preprocessing
    if job.checkpoint is None:
        return None if has_imagenet_colours(used) else used
    told = replace(job.checkpoint.preprocessing, mean=used.mean, std=used.std)
    return None if told.is_imagenet else told


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _draft(job: PlannedJob, task: Task[Any], identity: str, accelerator: Accelerator) -> Record:
    """The record as far as it is known before the first step; of the metrics only that there will be the primary one."""
    recipe, checkpoint = job.recipe, job.checkpoint
    now = _now()
    return Record(
        name=job.name,
        task=recipe.task,
        protocol=recipe.protocol,
        status="done",
        arch=recipe.encoder.arch,
        img_size=recipe.encoder.img_size,
        init=Init(
            method=job.method,
            checkpoint=checkpoint.source if checkpoint else None,
            sha256=checkpoint.sha256 if checkpoint else None,
            layout=checkpoint.layout if checkpoint else None,
            pretraining=job.known_pretraining(),
            sources=dict(checkpoint.sources) if checkpoint else {},
        ),
        metrics=Metrics(last={task.primary_metric: None} if task.primary_metric else {}, selection=task.selection),
        primary_metric=task.primary_metric,
        seed=recipe.seed,
        data=Data(**asdict(task.data)),
        recipe=as_dict(recipe),
        recipe_name=job.recipe_name,
        recipe_hash=recipe_hash(recipe),
        job_id=identity,
        software=provenance.software(),
        device=provenance.device(accelerator.device, accelerator.num_processes),
        precision=recipe.train.precision,
        started=now,
        finished=now,
        git=provenance.git(),
        preprocessing=task.preprocessing.as_dict(),
        variant=job.variant,
        command=provenance.command(),
        host=provenance.host(),
    )


def _with_result(draft: Record, task: Task[Any], result: FitResult, run_dir: Path, started: str) -> Record:
    """The record of the finished job."""
    progress = result.progress
    kind = next(result.model.parameters()).device
    return replace(
        draft,
        metrics=Metrics(
            last=_numbers(progress.last),
            best=_numbers(progress.best) or None,
            best_epoch=progress.best_epoch,
            selection=task.selection,
        ),
        device=provenance.device(kind, result.processes),
        started=started,
        finished=_now(),
        inference_s_per_image=progress.inference_s_per_image,
        images_per_s=progress.images / progress.train_seconds if progress.train_seconds else None,
        peak_memory_bytes=provenance.peak_memory_bytes(kind),
        device_hours=progress.seconds * result.processes / 3600,
        wall_time_s=progress.seconds,
        final_loss=progress.loss,
        recovered=dict(progress.recovered),
        warnings=([f"resumed {progress.starts - 1} times"] if progress.starts > 1 else [])
        + progress.notes
        + notes(run_dir),
        checkpoints=[str(p.name) for p in checkpoints(run_dir / "checkpoints")],
    )


def _numbers(metrics: dict[str, float]) -> dict[str, float | None]:
    return {k: None if math.isnan(v) else float(v) for k, v in metrics.items()}


def describe(record: Record) -> str:
    """One line with a job's result."""
    shown = "  ".join(shown_metrics(record.task, record.primary_metric, record.metrics.last))
    seconds = record.wall_time_s or 0.0
    return f"{record.name}: {shown or f'loss {record.final_loss:.4f}'}  ({seconds:.0f} s)"
