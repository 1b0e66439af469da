"""Batches of a run from a data loader, by the plan; which images a step was given, by name."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from torch.utils.data import DataLoader

from mae_bench.engine.sampler import BatchPlan, BatchSampler, SeededDataset
from mae_bench.engine.trainer import Trainer
from tasks.datasets.loading import CollateOrFail, begin_worker, in_time, raise_if_failed


def steps(trainer: Trainer, dataset: Any, start: int, stop: int) -> Generator[tuple[int, list[Any]], None, None]:
    """(step, its micro batches) from one loader over the whole run: workers start once and look ahead over epochs."""
    if start >= stop:
        return
    train = trainer.recipe.train
    workers = train.workers
    loader = DataLoader(
        SeededDataset(dataset),
        batch_sampler=BatchSampler(trainer.plan, start, stop),
        collate_fn=CollateOrFail(trainer.task.collate()),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=begin_worker,
        timeout=train.worker_timeout if workers else 0,
        pin_memory=trainer.accelerator.device.type == "cuda",
    )
    batches = in_time(loader)
    for step in range(start, stop):
        yield step, [raise_if_failed(next(batches)) for _ in range(trainer.plan.accumulation)]


def batch_names(plan: BatchPlan, dataset: Any, step: int) -> list[str]:
    """The images of a step, over all processes: paths where the data set knows them (a method ``name``), else numbers."""
    first = step % plan.steps_per_epoch * plan.batch_size
    indices = plan.epoch_order(step // plan.steps_per_epoch)[first : first + plan.batch_size].tolist()
    name = getattr(dataset, "name", None) or getattr(getattr(dataset, "images", None), "name", None)
    return [name(i) if callable(name) else f"image {i}" for i in indices]
