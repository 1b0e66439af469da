"""Distributed evaluation of a task: every image exactly once. The metrics are computed by the task's evaluator."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from torch import nn
from torch.utils.data import DataLoader

from backbones.errors import RunFailed
from mae_bench.common.console import say
from mae_bench.common.disk import writing
from mae_bench.engine.out_of_memory import is_out_of_memory, release
from mae_bench.engine.sampler import SeededDataset
from mae_bench.engine.seeding import derive
from tasks import metric, registry
from tasks.base import Evaluator, Task
from tasks.datasets.loading import (
    CollateOrFail,
    begin_worker,
    dead_workers_explained,
    in_time,
    raise_if_failed,
)

WARM_UP_BATCHES = 5  # compiled, cached and allocated in them; they do not count in the time an image takes


class Evaluation(NamedTuple):
    """The result of an evaluation, identical on all processes except for the time."""

    metrics: dict[str, float]
    inference_s_per_image: float | None = None  # of this process, without reading data; None after a single batch
    notes: Sequence[str] = ()  # what is wrong with them, for the record


class AfterBatch(Protocol):
    """Callback after every batch: its number, batches per process, images done here, images here."""

    def __call__(self, batch: int, batches_of_all: int, images: int, of: int, /) -> None:
        """May raise, which ends the evaluation."""


@torch.no_grad()
def evaluate(
    task: Task[Any],
    model: nn.Module,
    accelerator: Accelerator,
    folder: Path | None = None,
    *,
    after_batch: AfterBatch = lambda *_: None,
) -> Evaluation:
    """Metrics of `model` on the validation set.

    Process r takes images r, r + world, …: nothing is padded, so nothing counts twice (the official code pads). On one
    process, batches that do not fit into the device's memory are halved and the evaluation begins again.

    Args:
        folder: where the main process writes predictions and pictures; None writes none.

    Raises:
        RunFailed: a data worker died, or one image does not fit into the device's memory.
    """
    dataset: Any = task.val_dataset()
    if dataset is None:
        return Evaluation({})
    size = task.recipe.train.eval_batch_size
    while (found := _predict(task, dataset, model, accelerator, size, after_batch)) is None:
        release()
        if size == 1 or accelerator.num_processes > 1:
            raise RunFailed(
                f"out of memory in the evaluation with train.eval_batch_size={size}: set a smaller one, or a smaller "
                "encoder.img_size; the run is saved"
            )
        size //= 2
        say(f"out of memory in the evaluation: again in batches of {size}", style="yellow")
    evaluator, timer = found
    results = evaluator.results()
    if accelerator.num_processes > 1:
        results = gather_object(results)
    metrics, notes = settle(evaluator.metrics(results), task.recipe.task, task.primary_metric)
    if folder is not None and accelerator.is_main_process:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            evaluator.write(results, folder)
            if not any(folder.iterdir()):
                folder.rmdir()
    return Evaluation(metrics, timer.seconds_per_image(), notes)


def settle(raw: Mapping[str, Any], task: str, primary: str) -> tuple[dict[str, float], list[str]]:
    """What an evaluator gave as figures that a record holds, and what had to be said of them.

    Training is over by now, so nothing is refused: a figure that cannot be is not-a-number, and a note says so.
    """
    metrics: dict[str, float] = {}
    notes = []
    for key, value in raw.items():
        try:
            metrics[key] = value if isinstance(value, int) else float(value)
        except (TypeError, ValueError):
            notes.append(f"metric {key} is left out: {type(value).__name__} is no number")
            continue
        if metric(task, key).out_of_range(metrics[key]):
            notes.append(f"metric {key} is not-a-number: {metrics[key]:g} is no percentage")
            metrics[key] = math.nan
    if primary not in metrics:
        notes.append(f"metric {primary} is not-a-number: the evaluation gave none")
        metrics[primary] = math.nan
    declared = registry()[task].declared
    if strangers := [key for key in metrics if declared(key) is None]:
        notes.append(f"task {task} does not declare its metrics {', '.join(strangers)}: no figure of theirs is judged")
    return metrics, notes


def _predict(
    task: Task[Any], dataset: Any, model: nn.Module, accelerator: Accelerator, size: int, after_batch: AfterBatch
) -> tuple[Evaluator, _Timer] | None:
    """Runs this process's share through the model; None if the device ran out of memory."""
    rank, world = accelerator.process_index, accelerator.num_processes
    mine = range(rank, len(dataset), world)
    of_all = math.ceil(len(dataset) // world / size)
    evaluator, timer = task.evaluator(), _Timer(accelerator.device)
    model.eval()
    try:
        with accelerator.autocast(), dead_workers_explained(), timer.forward_passes(model):
            for i, batch in enumerate(in_time(_loader(task, dataset, mine, size, accelerator))):
                done = min(len(mine), (i + 1) * size)
                on_device = send_to_device(raise_if_failed(batch), accelerator.device)
                with timer.batch(done - i * size):
                    evaluator.update(model, on_device)
                after_batch(i, of_all, done, len(mine))
    except (RuntimeError, MemoryError) as e:
        if not is_out_of_memory(e):
            raise
        return None
    return evaluator, timer


def _loader(task: Task[Any], dataset: Any, mine: range, size: int, accelerator: Accelerator) -> DataLoader[Any]:
    train = task.recipe.train
    return DataLoader(
        SeededDataset(dataset),
        batch_size=size,
        sampler=[(i, derive(task.recipe.seed, "evaluation", i)) for i in mine],
        collate_fn=CollateOrFail(task.collate()),
        num_workers=train.workers,
        worker_init_fn=begin_worker,
        timeout=train.worker_timeout if train.workers else 0,
        pin_memory=accelerator.device.type == "cuda",
    )


class _Timer:
    """Time and images a batch, the device's work in it: of the model's forward passes, where the evaluator calls the model.

    As ViTDet's README times (detectron2's `inference_on_dataset`, pure compute time): what an evaluator makes of predictions,
    such as run lengths of masks, is not in it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.batches: list[tuple[float, int]] = []
        self._began = self._forward = 0.0

    @contextmanager
    def forward_passes(self, model: nn.Module) -> Iterator[None]:
        """Times the model's forward passes within the block."""
        before = model.register_forward_pre_hook(lambda *_: self._start())
        after = model.register_forward_hook(lambda *_: self._stop())
        try:
            yield
        finally:
            before.remove()
            after.remove()

    def _start(self) -> None:
        self._wait()
        self._began = time.perf_counter()

    def _stop(self) -> None:
        self._wait()
        self._forward += time.perf_counter() - self._began

    @contextmanager
    def batch(self, images: int) -> Iterator[None]:
        self._forward = 0.0
        self._wait()
        began = time.perf_counter()
        yield
        self._wait()
        self.batches.append((self._forward or time.perf_counter() - began, images))

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds_per_image(self) -> float | None:
        """Mean over the batches after the warm-up (with few batches: the last one alone); None for a single batch."""
        counted = self.batches[min(WARM_UP_BATCHES, len(self.batches) - 1) :] if len(self.batches) > 1 else []
        images = sum(n for _, n in counted)
        return sum(seconds for seconds, _ in counted) / images if images else None
