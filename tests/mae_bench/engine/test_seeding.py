"""The plan of a run: who sees which image when is a function of (seed, step), whatever the processes and interruptions."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from backbones.errors import UserError
from mae_bench.engine.sampler import BatchPlan, BatchSampler, SeededDataset
from mae_bench.engine.seeding import derive, seed_all
from tasks.datasets.loading import CollateOrFail, FailedSample, raise_if_failed

Sample = tuple[int, int]


def batches(plan: BatchPlan, start: int, stop: int) -> list[list[Sample]]:
    return list(BatchSampler(plan, start, stop))


def by_step(images: int, batch: int, micro: int | None, world: int, steps: int, seed: int) -> list[list[Sample]]:
    """Samples of each step over all processes and micro batches, in the order of the processes."""
    plans = [BatchPlan.make(images, batch, micro, rank, world, seed) for rank in range(world)]
    merged: list[list[Sample]] = [[] for _ in range(steps)]
    for plan in plans:
        for i, micro_batch in enumerate(batches(plan, 0, steps)):
            merged[i // plan.accumulation] += micro_batch
    return merged


shapes = st.tuples(st.integers(1, 60), st.integers(1, 6), st.sampled_from([1, 2, 3]), st.integers(0, 5))


@given(shapes)
@settings(max_examples=60)
def test_an_epoch_over_all_processes_has_no_image_twice(shape: tuple[int, int, int, int]) -> None:
    images, share, world, seed = shape
    batch = share * world
    assume(images >= batch)
    plan = BatchPlan.make(images, batch, None, 0, world, seed)
    steps = plan.steps_per_epoch
    merged = by_step(images, batch, None, world, 3 * steps, seed)
    for epoch in range(3):
        seen = [image for step in merged[epoch * steps : (epoch + 1) * steps] for image, _ in step]
        assert len(seen) == len(set(seen)) == images // batch * batch
        assert set(seen) <= set(range(images))


@given(shapes, st.one_of(st.none(), st.integers(1, 6)))
@settings(max_examples=60)
def test_processes_and_accumulation_change_nothing(shape: tuple[int, int, int, int], micro: int | None) -> None:
    images, share, world, seed = shape
    batch = share * world
    alone = by_step(images, batch, None, 1, 7, seed)
    together = by_step(images, batch, micro, world, 7, seed)
    assert together == alone  # images, sample seeds and their order
    assert all(len(step) == batch for step in together)


@given(shapes, st.integers(0, 12), st.integers(0, 12), st.one_of(st.none(), st.integers(1, 6)))
@settings(max_examples=60)
def test_a_plan_begun_later_goes_on_as_the_whole_one(
    shape: tuple[int, int, int, int], start: int, length: int, micro: int | None
) -> None:
    images, share, world, seed = shape
    plan = BatchPlan.make(images, share * world, micro, world - 1, world, seed)
    whole, rest = batches(plan, 0, start + length), batches(plan, start, start + length)
    assert rest == whole[start * plan.accumulation :]
    assert len(rest) == len(BatchSampler(plan, start, start + length)) == length * plan.accumulation


@given(shapes, st.one_of(st.none(), st.integers(1, 8)))
@settings(max_examples=60)
def test_micro_batch_is_the_largest_allowed_that_divides_the_share(
    shape: tuple[int, int, int, int], micro: int | None
) -> None:
    images, share, world, seed = shape
    plan = BatchPlan.make(images, share * world, micro, 0, world, seed)
    allowed = [m for m in range(1, share + 1) if share % m == 0 and m <= (micro or share)]
    assert plan.micro_batch_size == max(allowed)
    assert plan.micro_batch_size * plan.accumulation == share


def test_every_image_is_seen_over_the_epochs() -> None:
    plan = BatchPlan.make(10, 4, None, 0, 1, 0)
    seen = {image for batch in batches(plan, 0, 40) for image, _ in batch}
    assert seen == set(range(10))


def test_epochs_and_seeds_differ_in_order_and_sample_seed() -> None:
    first, second = BatchPlan.make(50, 10, None, 0, 1, 0), BatchPlan.make(50, 10, None, 0, 1, 1)
    assert not torch.equal(first.epoch_order(0), first.epoch_order(1))
    assert not torch.equal(first.epoch_order(0), second.epoch_order(0))
    seeds = [s for batch in batches(first, 0, 10) for _, s in batch]
    assert len(set(seeds)) == 100


def test_a_data_set_smaller_than_a_batch_is_repeated_within_it() -> None:
    plan = BatchPlan.make(3, 8, None, 0, 1, 0)
    assert plan.steps_per_epoch == 1
    (batch,) = batches(plan, 0, 1)
    counts = np.bincount([image for image, _ in batch], minlength=3)
    assert counts.tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])
    assert len({seed for _, seed in batch}) == 8  # augmented anew each time


def test_batch_size_must_be_a_multiple_of_the_processes() -> None:
    with pytest.raises(UserError, match=r"batch_size=10 cannot be shared by 4 processes"):
        BatchPlan.make(100, 10, None, 0, 4, 0)
    assert BatchPlan.make(0, 10, None, 0, 4, 0).steps_per_epoch == 1  # an evaluation trains on no batch


def test_seeds_are_a_function_of_the_key_alone() -> None:
    # Fixed for good: another value would break the resumption of runs begun before.
    assert derive(0, "order", 0) == 4188667365335418757
    assert len({derive(0, i) for i in range(1000)} | {derive(i, 0) for i in range(1, 1000)}) == 1999


def test_all_generators_are_seeded() -> None:
    def draw() -> tuple[float, float, float]:
        return torch.rand(1).item(), float(np.random.rand()), random.random()

    seed_all(3, "step", 5)
    first = draw()
    other = draw()
    seed_all(3, "step", 5)
    assert draw() == first != other
    seed_all(3, "step", 6)
    assert draw() != first


class Draws(Dataset[list[float]]):
    """Samples that are nothing but random numbers; sample 13 cannot be read."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> list[float]:
        if index == 13:
            raise UserError("13.jpg: unreadable image")
        return [torch.rand(1).item(), float(np.random.rand()), random.random()]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_samples_numbers_do_not_depend_on_workers_or_place(workers: int) -> None:
    keys = [(2, 101), (5, 102), (7, 101), (2, 103)]
    loader = DataLoader(
        SeededDataset(Draws()), batch_sampler=[keys[:2], keys[2:]], num_workers=workers, collate_fn=list
    )
    a, b, same_seed, c = [sample for batch in loader for sample in batch]
    assert a == same_seed
    assert len({tuple(s) for s in (a, b, c)}) == 3
    assert a == SeededDataset(Draws())[(19, 101)]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_sample_comes_out_of_the_loader_as_its_one_line(workers: int) -> None:
    loader = DataLoader(
        SeededDataset(Draws()),
        batch_sampler=[[(1, 0)], [(1, 0), (13, 0)]],
        num_workers=workers,
        collate_fn=CollateOrFail(torch.utils.data.default_collate),
    )
    good, bad = list(loader)
    assert raise_if_failed(good) is good
    assert bad == FailedSample("13.jpg: unreadable image")
    with pytest.raises(UserError, match=r"^13\.jpg: unreadable image$"):
        raise_if_failed(bad)


def test_a_reshuffled_epoch_keeps_its_images_and_what_came_before() -> None:
    plan = BatchPlan.make(40, 4, None, 0, 1, seed=0)
    again = plan.reshuffled_at([13])
    assert torch.equal(plan.epoch_order(0), again.epoch_order(0))
    assert torch.equal(plan.epoch_order(2), again.epoch_order(2))
    before, after = plan.epoch_order(1), again.epoch_order(1)
    assert torch.equal(before[:12], after[:12])
    assert not torch.equal(before[12:16], after[12:16])
    assert sorted(before.tolist()) == sorted(after.tolist())
    assert not torch.equal(after, plan.reshuffled_at([13, 13]).epoch_order(1))
