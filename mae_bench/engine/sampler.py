"""Random numbers as a function of what is being computed, so that nothing has to be restored on resume.

Before each step the global generators are seeded from (seed, step, process), before each training sample from (seed, epoch,
index). The order of the data and every augmentation are thus the same with any number of workers or processes, and after an
interruption.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import Sampler

from backbones.errors import UserError
from mae_bench.engine.seeding import derive, seed_sample
from tasks.datasets.loading import SampleOrFailed


@dataclass(frozen=True)
class BatchPlan:
    """How the data set is divided among optimiser steps, processes and accumulation.

    Each epoch is a permutation of all images, its incomplete last batch dropped (as the official loaders do); a data set that
    is smaller than a batch is repeated within it. From every step in `reshuffled` on, the rest of its epoch is in another
    order: a run that went back there meets other batches.
    """

    images: int
    batch_size: int  # effective
    micro_batch_size: int
    accumulation: int
    rank: int
    world: int
    seed: int
    reshuffled: tuple[int, ...] = ()

    @staticmethod
    def make(images: int, batch_size: int, micro: int | None, rank: int, world: int, seed: int) -> BatchPlan:
        """The plan with the largest micro batch up to `micro` that divides a process's share."""
        if not images:  # nothing is trained, so there is no batch that has to be shared
            batch_size = world * -(-batch_size // world)
        if batch_size % world:
            raise UserError(
                f"train.batch_size={batch_size} cannot be shared by {world} processes: give a multiple of {world}"
            )
        share = batch_size // world
        size = next(m for m in range(min(micro or share, share), 0, -1) if share % m == 0)
        return BatchPlan(images, batch_size, size, share // size, rank, world, seed)

    def with_micro_batch(self, micro: int | None) -> BatchPlan:
        """The same steps in micro batches of up to `micro` images."""
        new = BatchPlan.make(self.images, self.batch_size, micro, self.rank, self.world, self.seed)
        return replace(self, micro_batch_size=new.micro_batch_size, accumulation=new.accumulation)

    def reshuffled_at(self, steps: Iterable[int]) -> BatchPlan:
        """The same plan, with other orders from each of `steps` on."""
        return replace(self, reshuffled=tuple(steps))

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self.images // self.batch_size)

    def epoch_order(self, epoch: int) -> torch.Tensor:
        """Image indices of an epoch, ``steps_per_epoch * batch_size`` of them."""
        generator = torch.Generator().manual_seed(derive(self.seed, "order", epoch))
        order = torch.randperm(self.images, generator=generator)
        wanted = self.steps_per_epoch * self.batch_size
        order = order.repeat(-(-wanted // self.images))[:wanted]
        for number, step in enumerate(self.reshuffled):
            if step // self.steps_per_epoch == epoch:
                generator.manual_seed(derive(self.seed, "reshuffled", number, step))
                rest = order[step % self.steps_per_epoch * self.batch_size :]
                rest.copy_(rest[torch.randperm(len(rest), generator=generator)])
        return order


class BatchSampler(Sampler[list[tuple[int, int]]]):
    """Batch sampler: for each micro batch from `start` on, this process's (image index, sample seed) pairs."""

    def __init__(self, plan: BatchPlan, start: int, stop: int) -> None:
        self.plan, self.start, self.stop = plan, start, stop

    def __len__(self) -> int:
        return max(0, self.stop - self.start) * self.plan.accumulation

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        plan, epoch, order = self.plan, -1, torch.empty(0)
        share, micro = plan.batch_size // plan.world, plan.micro_batch_size
        for step in range(self.start, self.stop):
            if step // plan.steps_per_epoch != epoch:
                epoch = step // plan.steps_per_epoch
                order = plan.epoch_order(epoch)
            first = (step % plan.steps_per_epoch) * plan.batch_size + plan.rank * share
            for i in range(first, first + share, micro):
                yield [(k, derive(plan.seed, epoch, n, k)) for n, k in enumerate(order[i : i + micro].tolist(), i)]


class SeededDataset(SampleOrFailed):
    """Seeds the generators before each sample of `dataset`, and turns UserErrors into `FailedSample`."""

    def __getitem__(self, key: tuple[int, int]) -> Any:
        index, seed = key
        seed_sample(seed)
        return super().__getitem__(index)

    def __getitems__(self, keys: list[tuple[int, int]]) -> Any:
        """A batch: from the data set's ``take`` in one go where it has one (and draws nothing), else sample by sample."""
        take = getattr(self.dataset, "take", None)
        return [self[key] for key in keys] if take is None else take([index for index, _ in keys])
