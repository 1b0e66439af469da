"""Meters of the loop: losses summed on the device, images per second, wall time. No printing."""

from __future__ import annotations

import math
import time

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor

from mae_bench.engine.progress import Progress
from mae_bench.engine.sampler import BatchPlan


class Meter:
    """Sums losses on the device and reads them once a logging interval."""

    def __init__(
        self,
        accelerator: Accelerator,
        optimizer: AcceleratedOptimizer,
        progress: Progress,
        total: int,
        plan: BatchPlan,
    ) -> None:
        self.accelerator, self.optimizer, self.progress = accelerator, optimizer, progress
        self.total, self.plan = total, plan
        self.sums: dict[str, Tensor] = {}
        self.count: Tensor | None = None  # steps in the sums
        self.since = (progress.images, progress.train_seconds)

    def add(self, losses: dict[str, Tensor], skipped: Tensor) -> None:
        """Losses of one step and whether it was skipped, which leaves them out; scalars on the device."""
        for name, value in losses.items():
            value = torch.where(skipped, 0.0, value)
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        taken = (~skipped).float()
        self.count = taken if self.count is None else self.count + taken

    def flush(self) -> dict[str, float]:
        """Mean losses over processes and steps since the last call, learning rate and images/s; empty when no step came.

        Without losses when all steps were skipped.
        """
        if self.count is None:
            return {}
        progress = self.progress
        stacked = torch.stack([*self.sums.values(), self.count])
        *sums, count = self.accelerator.reduce(stacked, "mean").tolist()
        values: dict[str, float] = {name: value / count for name, value in zip(self.sums, sums, strict=True) if count}
        images, seconds = self.since
        values["lr"] = max(group["lr"] for group in self.optimizer.param_groups)
        values["images_per_s"] = (progress.images - images) / max(1e-9, progress.train_seconds - seconds)
        progress.loss = values.get("loss", progress.loss)
        self.sums, self.count = {}, None
        self.since = (progress.images, progress.train_seconds)
        return values

    def seconds_left(self) -> float:
        """At the mean speed so far."""
        rate = self.progress.images / max(1e-9, self.progress.train_seconds)
        return (self.total - self.progress.step) * self.plan.batch_size / max(1e-9, rate)


class Clock:
    """Adds wall time to the progress and tells when a timed action is due."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.now = progress, time.monotonic()
        self.done: dict[str, float] = {"checkpoint": self.now}

    def tick(self, *, training: bool) -> None:
        """Counts the time since the last call as training, or as evaluation."""
        now = time.monotonic()
        self.progress.seconds += now - self.now
        if training:
            self.progress.train_seconds += now - self.now
        self.now = now

    def due(self, what: str, every: float) -> bool:
        """Whether `every` seconds have passed since this was last true for `what`."""
        now = time.monotonic()
        if now - self.done.get(what, -math.inf) < every:
            return False
        self.done[what] = now
        return True
