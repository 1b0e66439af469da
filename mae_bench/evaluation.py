"""Evaluation of a task on all processes, every image once; metrics themselves are the task's evaluator's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from torch import nn
from torch.utils.data import DataLoader

from mae_bench.seeding import SeededDataset, derive
from tasks.base import Task
from tasks.loading import CollateOrFail, leave_signals_to_parent, raise_if_failed


@torch.no_grad()
def evaluate(
    task: Task[Any], model: nn.Module, accelerator: Accelerator, folder: Path | None = None
) -> dict[str, float]:
    """Metrics of `model` on the validation set, the same on all processes.

    Process r takes images r, r + world, …: nothing is padded, so nothing counts twice (the official code pads).

    Args:
        folder: where the main process writes predictions and pictures; None writes none.
    """
    dataset: Any = task.val_dataset()
    if dataset is None:
        return {}
    train = task.recipe.train
    mine = range(accelerator.process_index, len(dataset), accelerator.num_processes)
    loader = DataLoader(
        SeededDataset(dataset),
        batch_size=train.eval_batch_size,
        sampler=[(i, derive(task.recipe.seed, "evaluation", i)) for i in mine],
        collate_fn=CollateOrFail(task.collate()),
        num_workers=train.workers,
        worker_init_fn=leave_signals_to_parent,
        pin_memory=accelerator.device.type == "cuda",
    )
    evaluator = task.evaluator()
    model.eval()
    with accelerator.autocast():
        for batch in loader:
            evaluator.update(model, send_to_device(raise_if_failed(batch), accelerator.device))
    results = evaluator.results()
    if accelerator.num_processes > 1:
        results = gather_object(results)
    metrics = evaluator.metrics(results)
    if folder is not None and accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        evaluator.write(results, folder)
    return metrics
