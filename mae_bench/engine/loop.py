"""`fit`: sets up, resumes, and for every step draws a batch, takes a step, logs, and at its time evaluates and saves.

Runs in one process or under torchrun, on CPU (gloo) and GPU, through Accelerate. `_train` is the run as it should go;
`_train_through_faults` around it goes on after what can be made good.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, is_initialized
from torch import nn

from backbones.errors import Interrupted, UserError, unknown
from mae_bench.common.console import processes
from mae_bench.common.signals import StopSignals, stop_signals
from mae_bench.engine.batches import steps
from mae_bench.engine.checkpoints import clean
from mae_bench.engine.evaluate import evaluate
from mae_bench.engine.faults import (
    Diverged,
    check_finite,
    halve_micro_batch,
    leave_with_dead_worker,
    resume,
    return_to_good,
)
from mae_bench.engine.meters import Clock, Meter
from mae_bench.engine.out_of_memory import MicroBatchLimit, OutOfMemory
from mae_bench.engine.progress import Progress
from mae_bench.engine.run_log import RunLog
from mae_bench.engine.sampler import BatchPlan
from mae_bench.engine.seeding import seed_all
from mae_bench.engine.sharding import check_parallel
from mae_bench.engine.trainer import Trainer
from mae_bench.records.status_file import write_status
from tasks.base import Task
from tasks.datasets.loading import WORKER_DEATH_ERRORS
from tasks.recipe import Recipe

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
_STATUS_SECONDS = 5.0


@dataclass(frozen=True)
class FitResult:
    """The result of training; `progress` holds last and best metrics, times and counts."""

    progress: Progress
    model: nn.Module  # unwrapped; the moving average when there is one
    processes: int
    resumed_from: int
    stopped: bool  # a signal came after the last step: this run is whole, the next should not begin


@dataclass(frozen=True)
class Run:
    """What the parts of a run share."""

    trainer: Trainer
    dataset: Any
    folder: Path
    log: RunLog
    stop: StopSignals


def create_accelerator(recipe: Recipe) -> Accelerator:
    """Accelerate set up for a recipe's precision and accumulation-free stepping (the loop accumulates by its plan)."""
    precision = recipe.train.precision
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS, where="train.precision")
    if precision == "fp16" and not torch.cuda.is_available():
        raise UserError("train.precision=fp16 needs a GPU: use bf16 or fp32 on a CPU")
    check_parallel(
        recipe, processes().num_processes
    )  # which waits for the others, and keeps Accelerate's variables out
    if is_initialized():
        # One process runs jobs of different precisions one after the other.
        AcceleratorState._reset_state()
    return Accelerator(mixed_precision=PRECISIONS[precision], cpu=not torch.cuda.is_available())


def fit(
    task: Task[Any],
    run_dir: Path,
    *,
    name: str = "",
    accelerator: Accelerator | None = None,
    check_owner: Callable[[], None] = lambda: None,
) -> FitResult:
    """Trains `task` by its recipe in `run_dir`, resuming from the newest intact checkpoint there.

    Writes ``log.jsonl``, ``tensorboard/``, ``checkpoints/`` and ``status.json``; the record is the caller's.

    Args:
        check_owner: asked before every checkpoint, raises when `run_dir` is no longer this process's.

    Raises:
        UserError: a sample cannot be read.
        RunFailed: the disk is full, a data worker died, the loss stays not finite, memory is too small for one image.
        Interrupted: a stop signal came; everything is saved.
    """
    recipe = task.recipe
    accelerator = accelerator or create_accelerator(recipe)
    with stop_signals() as stop:
        seed_all(recipe.seed, "setup")
        _check_batch_norm(task, accelerator.num_processes)
        began = time.monotonic()
        task.prepare()
        preparing = time.monotonic() - began
        # A schedule of no iterations only evaluates and needs no training set.
        dataset: Any = [] if recipe.evaluate_only else task.train_dataset()
        rank, world = accelerator.process_index, accelerator.num_processes
        plan = BatchPlan.make(len(dataset), recipe.train.batch_size, None, rank, world, recipe.seed)
        run_dir.mkdir(parents=True, exist_ok=True)
        plan = MicroBatchLimit.read(run_dir).plan(plan, recipe.train.micro_batch_size)
        trainer = Trainer(task, plan, accelerator, check_owner)
        if accelerator.is_main_process:
            clean(run_dir)
        start = resume(trainer, run_dir, name)
        trainer.progress.seconds += preparing
        log = RunLog(run_dir, name or recipe.task, trainer.total, trainer.progress, active=accelerator.is_main_process)
        try:
            with stop.deferred():
                _train_through_faults(Run(trainer, dataset, run_dir, log, stop))
        finally:
            log.close()
    return FitResult(trainer.progress, trainer.eval_model(), world, start, stop.is_set())


def _check_batch_norm(task: Task[Any], world: int) -> None:
    """Refuses micro batches of one image for a model that normalises over them, before hours go into features."""
    train = task.recipe.train
    if task.recipe.evaluate_only:
        return
    plan = BatchPlan.make(1, train.batch_size, train.micro_batch_size, 0, world, 0)
    if plan.micro_batch_size == 1 and any(isinstance(m, nn.BatchNorm1d) for m in task.model.modules()):
        raise UserError(
            f"train.batch_size={train.batch_size} on {world} process{'es' if world > 1 else ''} with "
            f"train.micro_batch_size={train.micro_batch_size} makes micro batches of one image, which BatchNorm cannot "
            "normalise: give sizes that leave two or more, or another head (head.batch_norm=false, probe.batch_norm=false)"
        )


def _train_through_faults(run: Run) -> None:
    while True:
        try:
            return _train(run)
        except OutOfMemory:
            halve_micro_batch(run.trainer, run.folder)
        except Diverged as fault:
            return_to_good(run.trainer, run.dataset, run.folder, run.log, fault)
        except WORKER_DEATH_ERRORS as e:
            leave_with_dead_worker(run.trainer, run.folder, e)
            raise


def _train(run: Run) -> None:
    trainer, log = run.trainer, run.log
    progress, total, every = trainer.progress, trainer.total, trainer.recipe.train.log_every_steps
    clock = Clock(progress)
    meter = Meter(trainer.accelerator, trainer.optimizer, progress, total, trainer.plan)
    with closing(steps(trainer, run.dataset, progress.step, total)) as batches_of_steps:
        for step, batches in batches_of_steps:
            _evaluate_if_due(run, clock, meter)
            with trainer.taking_a_step():
                meter.add(*trainer.step(step, batches))
                progress.step = step + 1
                progress.images += trainer.plan.batch_size
            log.step(progress.step)
            if progress.step % every == 0 or progress.step == total:
                _read_losses(run, clock, meter)
            if _save_due(run, clock):
                _read_losses(run, clock, meter)
                stopping = trainer.any_process(run.stop.is_set())
                if trainer.last_step_finite or stopping:
                    trainer.save(run.folder)
                if stopping and progress.step < total:
                    raise Interrupted(f"stopped at step {progress.step} of {total}: the same command resumes there")
    _evaluate_if_due(run, clock, meter)


def _read_losses(run: Run, clock: Clock, meter: Meter) -> None:
    """The one place where the loop waits for the device."""
    trainer = run.trainer
    clock.tick(training=True)
    values = meter.flush()
    if not values:
        return
    progress = trainer.progress
    run.log.train(progress.step, trainer.epoch(), values, meter.seconds_left())
    check_finite(trainer, run.dataset)
    if trainer.main and clock.due("status", _STATUS_SECONDS):
        fields = {
            "step": progress.step,
            "total": trainer.total,
            "seconds_left": meter.seconds_left(),
            **values,
        }
        write_status(run.folder, "running", **fields, last_metrics=progress.last)


def _save_due(run: Run, clock: Clock) -> bool:
    """Whether to save after this step: by step count, by time, at the end, or on a stop signal.

    Several processes agree on it, which waits for all of them; so they ask only at logging steps.
    """
    trainer = run.trainer
    train, step = trainer.recipe.train, trainer.progress.step
    if step == trainer.total:
        return True
    if train.checkpoint_every_steps is not None and step % train.checkpoint_every_steps == 0:
        return True
    if trainer.plan.world > 1 and step % train.log_every_steps:
        return False
    by_time = train.checkpoint_every_steps is None and clock.due("checkpoint", train.checkpoint_every_seconds)
    return trainer.any_process(by_time or run.stop.is_set())


def _evaluate_if_due(run: Run, clock: Clock, meter: Meter) -> None:
    """Evaluates at the recipe's interval and at the end, once a step: also when a run is resumed just before it."""
    trainer = run.trainer
    progress, every = trainer.progress, trainer.recipe.train.eval_every_epochs
    if not trainer.task.primary_metric or progress.evaluated_at == progress.step:
        return
    interval = max(1, round(every * trainer.plan.steps_per_epoch)) if every else None
    if progress.step != trainer.total and (not progress.step or interval is None or progress.step % interval):
        return
    if trainer.total:
        _read_losses(run, clock, meter)
        trainer.save(run.folder)
    clock.tick(training=True)
    # Predictions and pictures are of the last evaluation only: of the model that the record is about.
    folder = run.folder / "predictions" if progress.step == trainer.total else None
    found = evaluate(
        trainer.task, trainer.eval_model(), trainer.accelerator, folder, after_batch=lambda *at: _watch(run, *at)
    )
    clock.tick(training=False)
    trainer.note_metrics(found.metrics, found.notes)
    progress.inference_s_per_image = found.inference_s_per_image
    run.log.evaluation(progress.step, trainer.epoch(), found.metrics)
    trainer.save(run.folder)


def _watch(run: Run, batch: int, batches_of_all: int, images: int, of: int) -> None:
    """Between batches of an evaluation: updates the bar, and stops on a signal (the run was saved before).

    Args:
        batches_of_all: as many batches every process has; among several, they agree on leaving at every eighth of them.
    """
    run.log.evaluating(images, of)
    world = run.trainer.plan.world
    if world > 1 and (batch % 8 or batch >= batches_of_all):
        return
    if run.trainer.any_process(run.stop.is_set()):
        step, total = run.trainer.progress.step, run.trainer.total
        raise Interrupted(f"stopped in the evaluation at step {step} of {total}: the same command resumes before it")
