"""Optimisers and learning-rate curves are the official ones, and stay within their bounds for any schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from backbones.errors import UserError
from mae_bench.engine.optimizer import create_optimizer, create_schedule, learning_rate, total_steps
from mae_bench.recipes.scaling import at_batch_size
from tasks.recipe import OptimizerConfig, Recipe, ScheduleConfig, TrainConfig, check_ranges
from tests.golden.figures import arrays, figures, tensor


def parameter_groups() -> list[dict[str, Any]]:
    return [
        {"params": [nn.Parameter(torch.zeros(1))], "weight_decay": 0.0, "lr_scale": 1.0},
        {"params": [nn.Parameter(torch.zeros(1))], "weight_decay": 0.0, "lr_scale": 0.5},
    ]


def curve(schedule: ScheduleConfig, lr: float, steps_per_epoch: int) -> list[list[float]]:
    """Learning rates of both groups at every step."""
    recipe = Recipe(optimizer=OptimizerConfig(lr=lr), schedule=schedule)
    optimizer = create_optimizer(recipe, parameter_groups())
    scheduler = create_schedule(recipe, optimizer, steps_per_epoch)
    rates = []
    for step in range(total_steps(schedule, steps_per_epoch)):
        scheduler.step_update(step)
        rates.append([group["lr"] for group in optimizer.param_groups])
    return rates


@pytest.mark.parametrize("golden", figures("schedules"), ids=lambda g: f"{g['epochs']} epochs")
def test_cosine_with_warmup_equals_official_at_every_step(golden: dict[str, Any]) -> None:
    schedule = ScheduleConfig(epochs=golden["epochs"], warmup_epochs=golden["warmup_epochs"], min_lr=golden["min_lr"])
    ours = torch.tensor(curve(schedule, golden["lr"], golden["steps_per_epoch"]), dtype=torch.float64)
    torch.testing.assert_close(ours, torch.tensor(golden["curve"], dtype=torch.float64), rtol=1e-9, atol=1e-15)


@given(
    name=st.sampled_from(["cosine", "poly", "multistep"]),
    iterations=st.integers(1, 60),
    warmup=st.integers(0, 70),
    factor=st.floats(0, 1),
    min_lr=st.floats(0, 1e-4),
)
@settings(max_examples=80)
def test_rate_stays_in_bounds_grows_in_warmup_and_falls_after_it(
    name: str, iterations: int, warmup: int, factor: float, min_lr: float
) -> None:
    schedule = ScheduleConfig(
        name=name,
        iterations=iterations,
        warmup_iterations=warmup,
        warmup_factor=factor,
        min_lr=min_lr,
        milestones=[0.6, 0.9],
    )
    rates = [full for full, _ in curve(schedule, 1e-3, 1)]
    low = min(min_lr if name != "multistep" else 1e-5, factor * 1e-3)
    assert all(low - 1e-12 <= rate <= 1e-3 + 1e-12 for rate in rates)
    rising, falling = rates[:warmup], rates[warmup:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    if rising:
        assert rising[0] == pytest.approx(factor * 1e-3)
    if falling and name != "multistep":
        assert falling[0] == pytest.approx(1e-3)


def test_rate_of_a_step_does_not_depend_on_the_steps_before() -> None:
    schedule = ScheduleConfig(epochs=4, warmup_epochs=1)
    recipe = Recipe(optimizer=OptimizerConfig(lr=1e-3), schedule=schedule)
    optimizer = create_optimizer(recipe, parameter_groups())
    resumed = create_schedule(recipe, optimizer, 5)
    resumed.step_update(13)
    assert [g["lr"] for g in optimizer.param_groups] == curve(schedule, 1e-3, 5)[13]


def test_multistep_decays_from_the_milestone_on() -> None:
    rates = [full for full, _ in curve(ScheduleConfig(name="multistep", iterations=10, milestones=[0.5, 0.8]), 1.0, 1)]
    assert rates == pytest.approx([1.0] * 5 + [0.1] * 3 + [0.01] * 2)


def test_multistep_warms_up_from_the_given_share() -> None:
    schedule = ScheduleConfig(name="multistep", iterations=6, milestones=[1.0], warmup_iterations=4, warmup_factor=0.2)
    assert [full for full, _ in curve(schedule, 1.0, 1)][:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_poly_falls_linearly_to_its_minimum() -> None:
    rates = [full for full, _ in curve(ScheduleConfig(name="poly", iterations=5, warmup_iterations=0), 1.0, 1)]
    assert rates == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_base_rate_is_scaled_by_the_effective_batch_size() -> None:
    # Table 8: blr 1.5e-4 at batch size 4096 is a learning rate of 2.4e-3.
    assert learning_rate(OptimizerConfig(blr=1.5e-4), 4096) == pytest.approx(2.4e-3)
    assert learning_rate(OptimizerConfig(lr=1e-3), 4096) == 1e-3


@pytest.mark.parametrize("config", [OptimizerConfig(), OptimizerConfig(lr=1.0, blr=1.0)])
def test_one_of_lr_and_blr_must_be_given(config: OptimizerConfig) -> None:
    with pytest.raises(UserError, match="one of lr"):
        learning_rate(config, 256)


@pytest.mark.parametrize("config", [ScheduleConfig(), ScheduleConfig(epochs=1, iterations=1)])
def test_one_of_epochs_and_iterations_must_be_given(config: ScheduleConfig) -> None:
    with pytest.raises(UserError, match="one of epochs and iterations"):
        total_steps(config, 10)


def test_length_in_steps() -> None:
    assert total_steps(ScheduleConfig(epochs=2.5), 10) == 25
    assert total_steps(ScheduleConfig(iterations=7), 10) == 7


@pytest.mark.parametrize(
    ("recipe", "nearest"),
    [
        (Recipe(optimizer=OptimizerConfig(name="adamv", lr=1.0), schedule=ScheduleConfig(epochs=1)), "adamw"),
        (Recipe(optimizer=OptimizerConfig(lr=1.0), schedule=ScheduleConfig(name="cosin", epochs=1)), "cosine"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(recipe: Recipe, nearest: str) -> None:
    with pytest.raises(UserError, match=f'did you mean "{nearest}"'):
        check_ranges(recipe)


def test_lars_equals_official_after_three_steps() -> None:
    weight, bias = nn.Parameter(tensor("lars.weight", (5, 7))), nn.Parameter(tensor("lars.bias", (5,)))
    recipe = Recipe(optimizer=OptimizerConfig(name="lars", lr=0.4, momentum=0.9))
    # One group for both, as a task that knows nothing of LARS would give it.
    optimizer = create_optimizer(recipe, [{"params": [weight, bias], "weight_decay": 0.0}])
    for step in range(3):
        weight.grad, bias.grad = tensor(f"lars.weight.grad{step}", (5, 7)), tensor(f"lars.bias.grad{step}", (5,))
        optimizer.step()
    golden = arrays("lars")
    for name, ours in (("weight", weight), ("bias", bias)):
        torch.testing.assert_close(ours.detach(), torch.from_numpy(golden[name]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_groups_keep_their_weight_decay_and_scale(name: str) -> None:
    weight, bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    groups = [
        {"params": [weight], "weight_decay": 0.3, "lr_scale": 0.5},
        {"params": [bias], "weight_decay": 0.0, "lr_scale": 1.0},
    ]
    optimizer = create_optimizer(Recipe(optimizer=OptimizerConfig(name=name, lr=0.1)), groups)
    found = {id(g["params"][0]): (g["weight_decay"], g["lr_scale"]) for g in optimizer.param_groups}
    assert found == {id(weight): (0.3, 0.5), id(bias): (0.0, 1.0)}


def detection_like(batch_size: int, reference: int | None) -> Recipe:
    return Recipe(
        task="detection",
        optimizer=OptimizerConfig(lr=1e-4),
        schedule=ScheduleConfig(iterations=90_000, warmup_iterations=250, milestones=[0.9]),
        train=TrainConfig(batch_size=batch_size, reference_batch_size=reference),
    )


def test_another_batch_size_than_the_reference_scales_rate_and_lengths_as_detectron2_does() -> None:
    """The example of detectron2's `auto_scale_workers`, the other way round: a quarter of the batch, four times the steps."""
    scaled = at_batch_size(detection_like(16, 64))
    assert scaled.optimizer.lr == pytest.approx(2.5e-5)
    assert (scaled.schedule.iterations, scaled.schedule.warmup_iterations) == (360_000, 1000)
    assert scaled.schedule.milestones == [0.9]
    assert scaled.train.batch_size == 16


def test_images_seen_do_not_depend_on_the_batch_size() -> None:
    for batch_size in (1, 8, 64, 128):
        assert batch_size * (at_batch_size(detection_like(batch_size, 64)).schedule.iterations or 0) == 64 * 90_000


@pytest.mark.parametrize("reference", [None, 64])
def test_without_or_at_the_reference_nothing_is_scaled(reference: int | None) -> None:
    assert at_batch_size(detection_like(64, reference)) == detection_like(64, reference)


def test_scaling_twice_is_scaling_once() -> None:
    """A written configuration is read again on resuming."""
    once = at_batch_size(detection_like(24, 64))
    assert at_batch_size(once) == once


def test_what_follows_the_batch_size_by_itself_is_left() -> None:
    recipe = detection_like(16, 64)
    recipe.optimizer = OptimizerConfig(blr=1e-3)
    recipe.schedule = ScheduleConfig(epochs=25, warmup_epochs=0.25)
    scaled = at_batch_size(recipe)
    assert (scaled.optimizer, scaled.schedule) == (recipe.optimizer, recipe.schedule)


def test_a_reference_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"train.reference_batch_size=0"):
        at_batch_size(detection_like(16, 0))
