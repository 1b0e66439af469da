"""The only training loop: pre-training and every task go through `fit`. It drives; tasks declare (`tasks.base`).

Read top to bottom: `fit` sets up, resumes, and for every step draws a batch, takes a step, logs, and at its time evaluates and
saves. Runs in one process or under torchrun, on CPU (gloo) and GPU, through Accelerate.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, is_initialized
from accelerate.utils import send_to_device
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader

from backbones.attention import choose_attention
from backbones.errors import UserError, unknown
from mae_bench.evaluation import evaluate
from mae_bench.logs import RunLog
from mae_bench.meters import Clock, Meter
from mae_bench.optim import create_optimizer, create_schedule, total_steps
from mae_bench.run_state import Progress, load_newest, save_checkpoint, write_status
from mae_bench.seeding import Plan, PlanSampler, SeededDataset, seed_all
from tasks.base import Task
from tasks.loading import CollateOrFail, leave_signals_to_parent, raise_if_failed
from tasks.recipe import Recipe

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
_STATUS_SECONDS = 5.0


class Interrupted(Exception):
    """A signal asked to stop; the run was saved and the same command goes on from there."""


@dataclass(frozen=True)
class FitResult:
    """What training came to; `progress` holds last and best metrics, times and counts."""

    progress: Progress
    model: nn.Module  # unwrapped; the moving average when there is one
    processes: int
    resumed_from: int
    stopped: bool  # a signal came after the last step: this run is whole, the next should not begin


def create_accelerator(recipe: Recipe) -> Accelerator:
    """Accelerate set up for a recipe's precision and accumulation-free stepping (the loop accumulates by its plan)."""
    precision = recipe.train.precision
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS, where="train.precision")
    if precision == "fp16" and not torch.cuda.is_available():
        raise UserError("train.precision=fp16 needs a GPU: use bf16 or fp32 on a CPU")
    if is_initialized():
        # One process runs jobs of different precisions one after the other.
        AcceleratorState._reset_state()
    return Accelerator(mixed_precision=PRECISIONS[precision], cpu=not torch.cuda.is_available())


def fit(task: Task[Any], run_dir: Path, *, name: str = "", accelerator: Accelerator | None = None) -> FitResult:
    """Trains `task` by its recipe in `run_dir`, going on from the newest checkpoint there.

    Writes ``log.jsonl``, ``tensorboard/``, ``checkpoints/`` and ``status.json``; the record is the caller's.

    Raises:
        UserError: a sample cannot be read, or the loss is not finite.
        Interrupted: SIGINT or SIGTERM came; everything is saved.
    """
    recipe = task.recipe
    accelerator = accelerator or create_accelerator(recipe)
    seed_all(recipe.seed, "setup")
    began = time.monotonic()
    task.prepare()
    preparing = time.monotonic() - began
    # A schedule of no iterations only evaluates and needs no training set.
    dataset: Any = [] if recipe.schedule.iterations == 0 else task.train_dataset()
    plan = Plan.make(
        len(dataset),
        recipe.train.batch_size,
        recipe.train.micro_batch_size,
        accelerator.process_index,
        accelerator.num_processes,
        recipe.seed,
    )
    trainer = Trainer(task, plan, accelerator)
    run_dir.mkdir(parents=True, exist_ok=True)
    saved = load_newest(run_dir / "checkpoints")
    if saved is not None:
        trainer.load_state(saved)
    start = trainer.progress.step
    trainer.progress.starts += 1
    trainer.progress.seconds += preparing
    log = RunLog(run_dir, name or recipe.task, trainer.total, start, active=accelerator.is_main_process)
    if start:
        log.message(f"{name}: resuming at step {start} of {trainer.total}")
    try:
        with stop_signals() as stop:
            _train(trainer, dataset, run_dir, log, stop)
    finally:
        log.close()
    return FitResult(trainer.progress, trainer.eval_model(), accelerator.num_processes, start, stop.is_set())


def _train(trainer: Trainer, dataset: Any, run_dir: Path, log: RunLog, stop: threading.Event) -> None:
    progress, total, every = trainer.progress, trainer.total, trainer.recipe.train.log_every_steps
    clock = Clock(progress)
    meter = Meter(trainer.accelerator, trainer.optimizer, progress, total, trainer.plan)
    for step, batches in _steps(trainer, dataset, progress.step, total):
        _evaluate_if_due(trainer, run_dir, log, clock)
        meter.add(trainer.step(step, batches))
        progress.step = step + 1
        progress.images += trainer.plan.batch_size
        log.step(progress.step)
        if progress.step % every == 0 or progress.step == total:
            _read_losses(trainer, run_dir, log, clock, meter)
        if _save_due(trainer, clock, stop):
            _read_losses(trainer, run_dir, log, clock, meter)
            trainer.save(run_dir)
            if trainer.any_process(stop.is_set()) and progress.step < total:
                raise Interrupted(f"stopped at step {progress.step} of {total}: the same command resumes there")
    _evaluate_if_due(trainer, run_dir, log, clock)


def _read_losses(trainer: Trainer, run_dir: Path, log: RunLog, clock: Clock, meter: Meter) -> None:
    """The one place where the loop waits for the device."""
    clock.tick(training=True)
    values = meter.flush()
    if not values:
        return
    progress = trainer.progress
    if not math.isfinite(values["loss"]):
        raise UserError(
            f"the loss is {values['loss']} near step {progress.step}: lower the learning rate, set optimizer.clip_grad, or "
            "use train.precision=fp32; earlier checkpoints are kept"
        )
    log.train(progress.step, trainer.epoch(), values, meter.seconds_left())
    if trainer.main and clock.due("status", _STATUS_SECONDS):
        fields = {
            "step": progress.step,
            "total": trainer.total,
            "seconds_left": meter.seconds_left(),
            **values,
        }
        write_status(run_dir, "running", **fields, last_metrics=progress.last)


def _save_due(trainer: Trainer, clock: Clock, stop: threading.Event) -> bool:
    """Whether to save after this step: by step count, by time, at the end, or because a signal came.

    Several processes agree on it, which waits for all of them; so they ask only at logging steps.
    """
    train, step = trainer.recipe.train, trainer.progress.step
    if step == trainer.total:
        return True
    if train.checkpoint_every_steps is not None and step % train.checkpoint_every_steps == 0:
        return True
    if trainer.plan.world > 1 and step % train.log_every_steps:
        return False
    by_time = train.checkpoint_every_steps is None and clock.due("checkpoint", train.checkpoint_every_seconds)
    return trainer.any_process(by_time or stop.is_set())


def _evaluate_if_due(trainer: Trainer, run_dir: Path, log: RunLog, clock: Clock) -> None:
    """Evaluates at the recipe's interval and at the end, once a step: also when a run is resumed just before it."""
    progress, every = trainer.progress, trainer.recipe.train.eval_every_epochs
    if not trainer.task.primary_metric or progress.evaluated_at == progress.step:
        return
    interval = max(1, round(every * trainer.plan.steps_per_epoch)) if every else None
    if progress.step != trainer.total and (not progress.step or interval is None or progress.step % interval):
        return
    if trainer.total:
        trainer.save(run_dir)
    clock.tick(training=True)
    folder = run_dir / "predictions" if progress.step == trainer.total else None
    metrics = evaluate(trainer.task, trainer.eval_model(), trainer.accelerator, folder)
    clock.tick(training=False)
    trainer.note_metrics(metrics)
    log.evaluation(progress.step, trainer.epoch(), metrics)
    trainer.save(run_dir)


def _steps(trainer: Trainer, dataset: Any, start: int, stop: int) -> Iterator[tuple[int, list[Any]]]:
    """(step, its micro batches) from one loader over the whole run: workers start once and look ahead over epochs."""
    if start >= stop:
        return
    train = trainer.recipe.train
    workers = train.workers
    loader = DataLoader(
        SeededDataset(dataset),
        batch_sampler=PlanSampler(trainer.plan, start, stop),
        collate_fn=CollateOrFail(trainer.task.collate()),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=leave_signals_to_parent,
        pin_memory=trainer.accelerator.device.type == "cuda",
    )
    batches = iter(loader)
    for step in range(start, stop):
        yield step, [raise_if_failed(next(batches)) for _ in range(trainer.plan.accumulation)]


class Trainer:
    """Model, optimiser and schedule of a run, and how a step is taken."""

    def __init__(self, task: Task[Any], plan: Plan, accelerator: Accelerator) -> None:
        self.task, self.plan, self.accelerator = task, plan, accelerator
        self.recipe: Recipe = task.recipe
        self.main = accelerator.is_main_process
        self.progress = Progress()
        self.total = total_steps(self.recipe.schedule, plan.steps_per_epoch)
        optimizer = create_optimizer(self.recipe, task.param_groups())
        self.schedule = create_schedule(self.recipe, optimizer, plan.steps_per_epoch)
        model = task.model.to(accelerator.device)
        choose_attention(model, accelerator.device, bf16=self.recipe.train.precision == "bf16")
        decay = self.recipe.train.ema
        self.ema = ModelEmaV3(model, decay=decay) if decay is not None else None
        if self.recipe.train.compile:
            model.compile()
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self._clip = self.recipe.optimizer.clip_grad

    def step(self, step: int, batches: list[Any]) -> dict[str, Tensor]:
        """One optimiser step; returns the losses averaged over micro batches, on the device (no sync)."""
        self.model.train()
        self.schedule.step_update(step)
        mean: dict[str, Tensor] = {}
        for i, batch in enumerate(batches):
            seed_all(self.recipe.seed, step, i, self.accelerator.process_index)
            last = i == len(batches) - 1
            with self.accelerator.no_sync(self.model) if not last else nullcontext():
                losses = self._losses(self.task.prepare_batch(send_to_device(batch, self.accelerator.device)))
                total = torch.stack(list(losses.values())).sum() / len(batches)
                self.accelerator.backward(total)
            for name, value in {**losses, "loss": total * len(batches)}.items():
                mean[name] = mean.get(name, 0.0) + value.detach().float() / len(batches)
        if self._clip is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self._clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.accelerator.unwrap_model(self.model))
        return mean

    def _losses(self, batch: Any) -> dict[str, Tensor]:
        losses = self.model(batch)
        return losses if isinstance(losses, dict) else {"loss": losses}

    def eval_model(self) -> nn.Module:
        """What is evaluated and exported: the moving average when there is one."""
        model: nn.Module = self.ema.module if self.ema is not None else self.accelerator.unwrap_model(self.model)
        return model

    def epoch(self) -> float:
        return self.progress.step / self.plan.steps_per_epoch

    def any_process(self, flag: bool) -> bool:
        """Whether any process says so; all of them must call it."""
        if self.accelerator.num_processes == 1:
            return flag
        flags = torch.tensor([float(flag)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(flags, "sum").item() > 0)

    def note_metrics(self, metrics: dict[str, float]) -> None:
        """Keeps the last and the best evaluation apart."""
        progress, key = self.progress, self.task.primary_metric
        progress.last, progress.evaluated_at = metrics, progress.step
        if not progress.best or metrics[key] > progress.best[key] or math.isnan(progress.best[key]):
            progress.best, progress.best_epoch = metrics, self.epoch()

    def save(self, run_dir: Path) -> None:
        model = self.accelerator.get_state_dict(self.model)
        if self.main:
            scaler = self.accelerator.scaler
            state = {
                "model": model,
                "optimizer": self.optimizer.state_dict(),
                "ema": self.ema.module.state_dict() if self.ema is not None else None,
                "scaler": scaler.state_dict() if scaler is not None else None,
                "progress": asdict(self.progress),
            }
            save_checkpoint(run_dir / "checkpoints", self.progress.step, state, self.recipe.train.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def load_state(self, state: dict[str, Any]) -> None:
        self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """SIGINT and SIGTERM set the event, so that the loop saves and leaves; a second SIGINT stops at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handler(number: int, _: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for s, old in before.items():
            signal.signal(s, old)
