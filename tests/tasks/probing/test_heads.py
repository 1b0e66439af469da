"""Heads trained together are the heads trained alone; the best is chosen on the validation set, and said to be."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones.errors import UserError
from mae_bench.engine.loop import fit
from tasks import create_task
from tasks.probing.config import FeaturesConfig, ProbeConfig, ProbingRecipe
from tasks.probing.linear_grid import GridEvaluator, Head, ProbeHeads
from tasks.probing.task import ProbingTask
from tasks.recipe import DataConfig, EncoderConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from tests.tasks.pictures import make_folders

GRID = [Head(lr, pool, layer, f"{pool}{layer}") for lr in (0.1, 0.2) for pool in ("token", "avg") for layer in (2, 3)]


def heads(grid: list[Head] = GRID, **changes: Any) -> Any:
    options: dict[str, Any] = {"batch_norm": True, "init_std": 0.01, "criterion": nn.CrossEntropyLoss(), "seed": 0}
    return ProbeHeads(grid, {head.feature: 6 for head in grid}, 3, **{**options, **changes})


def batch(count: int = 10) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, 6, generator=generator).half() for _ in range(4)], torch.arange(count) % 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folders(tmp_path_factory.mktemp("data") / "set", train=6, val=4)


def recipe(data: Path, **sections: Any) -> ProbingRecipe:
    defaults: dict[str, Any] = {
        "method": "probe",
        "encoder": EncoderConfig(arch="vit_micro_patch8", img_size=16),
        "data": DataConfig(name="mine", root=str(data)),
        "features": FeaturesConfig(pools=["token", "avg"], layers=[1, -1]),
        "probe": ProbeConfig(lrs=[0.5, 0.25, 1.0]),
        "optimizer": OptimizerConfig(name="lars", lr=1.0, weight_decay=0.0),
        "schedule": ScheduleConfig(epochs=3, warmup_epochs=1),
        "train": TrainConfig(batch_size=6, workers=0, log_every_steps=3),
    }
    return ProbingRecipe(**{**defaults, **sections})


def trained(recipe_: ProbingRecipe, out: Path) -> dict[str, Tensor]:
    torch.manual_seed(0)  # the encoder, which is kept features' key
    task = ProbingTask(recipe_)
    return task.export(fit(task, out).model)["heads"]


@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw"])
def test_a_head_of_the_grid_is_the_head_trained_alone(data: Path, tmp_path: Path, optimizer: str) -> None:
    """Scales are powers of two, which rounding does not touch: equality is exact."""
    config = OptimizerConfig(name=optimizer, lr=1.0, weight_decay=0.0)
    together = trained(recipe(data, optimizer=config), tmp_path / "grid")
    assert len({name.rsplit(".", 1)[0].removesuffix(".norm") for name in together}) == 12
    alone = trained(
        recipe(
            data,
            features=FeaturesConfig(pools=["avg"], layers=[1]),
            probe=ProbeConfig(lrs=[0.25]),
            optimizer=OptimizerConfig(name=optimizer, lr=0.25, weight_decay=0.0),
        ),
        tmp_path / "alone",
    )
    assert {name.split("l1.")[1] for name in alone} >= {"weight", "bias", "norm.running_mean"}
    for name, tensor in alone.items():
        assert torch.equal(together[name], tensor), name
    start = dict(ProbingTask(recipe(data)).model.tensors())  # type: ignore[operator]
    assert not torch.equal(start["lr0.25_avg_l1.weight"], together["lr0.25_avg_l1.weight"])
    assert not torch.allclose(together["lr0.5_avg_l1.weight"], together["lr0.25_avg_l1.weight"])


def test_logits_are_normalised_features_times_weights() -> None:
    model = heads().eval()
    for each in model.norms:
        each.running_mean.copy_(torch.randn(6))
        each.running_var.copy_(torch.rand(6) + 0.5)
    features, targets = batch()
    logits = model((features, targets))
    assert logits.shape == (8, 10, 3)
    for i, head in enumerate(GRID):
        norm: Any = model.norms[["token2", "token3", "avg2", "avg3"].index(head.feature)]
        x = (features[model.features.index(head.feature)].float() - norm.running_mean) / (
            norm.running_var + 1e-6
        ).sqrt()
        linear: Any = model.heads[i]
        torch.testing.assert_close(logits[i], x @ linear.weight.T + linear.bias)


def test_the_loss_is_the_sum_over_heads_and_each_head_sees_its_own() -> None:
    model = heads().train()
    total = model(batch())["loss"]
    single = heads([GRID[5]]).train()
    features, targets = batch()
    loss = single(([features[model.features.index(GRID[5].feature)]], targets))["loss"]
    total.backward()
    loss.backward()
    assert torch.equal(model.heads[5].weight.grad, single.heads[0].weight.grad)
    assert total > loss


def test_a_head_that_diverges_does_not_touch_the_others() -> None:
    broken, whole = heads().train(), heads().train()
    with torch.no_grad():
        broken.heads[0].weight.fill_(math.inf)
    for model in (broken, whole):
        loss = model(batch())["loss"]
        assert loss.isfinite()
        loss.backward()
    for mine, other in zip(broken.heads[1:], whole.heads[1:], strict=True):
        assert torch.equal(mine.weight.grad, other.weight.grad)


def test_a_grid_with_a_rate_that_is_far_too_high_is_trained_to_the_end(data: Path, tmp_path: Path) -> None:
    wild = recipe(
        data, probe=ProbeConfig(lrs=[0.5, 1e38]), optimizer=OptimizerConfig(name="sgd", lr=1.0, weight_decay=0)
    )
    torch.manual_seed(0)
    result = fit(ProbingTask(wild), tmp_path)
    assert math.isnan(result.progress.last["top1_lr1e+38_avg_l3"])
    assert not math.isnan(result.progress.last["top1_lr0.5_avg_l3"])
    assert not math.isnan(result.progress.last["top1_best_on_val"])


def test_autocast_of_the_caller_does_not_round_the_heads() -> None:
    model = heads().eval()
    expected = model(batch())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(batch()), expected)


class Fixed(nn.Module):
    """Gives logits that the test has written down."""

    def forward(self, given: Any) -> Tensor:
        logits: Tensor = given[0]
        return logits


def test_metrics_by_hand_over_two_processes() -> None:
    """Six classes, so that top-5 can be missed; three heads: one right twice of three, one right once, one that diverged."""
    grid = [Head(0.1, "avg", 11, "a"), Head(0.2, "avg", 11, "a"), Head(0.1, "token", 11, "b")]
    targets = torch.tensor([0, 1, 5])
    good, poor = torch.zeros(3, 6), torch.zeros(3, 6)
    good[0, 0] = good[1, 1] = 1
    good[2] = torch.tensor([9.0, 8, 7, 6, 5, 0])  # the class 5 comes sixth
    poor[0, 0] = poor[1, 0] = poor[2, 0] = 1
    poor[2, 5] = 0.5
    logits = torch.stack([good, poor, torch.full((3, 6), math.nan)])
    shares = []
    for rows in ([0, 2], [1]):
        evaluator = GridEvaluator(grid, 6)
        evaluator.update(Fixed(), (logits[:, rows], targets[rows]))
        shares += evaluator.results()
    found = GridEvaluator(grid, 6).metrics(shares)
    third = 100 / 3
    assert found["images"] == 3
    assert found["top1_lr0.1_avg_l11"] == pytest.approx(2 * third)
    assert found["top5_lr0.1_avg_l11"] == pytest.approx(2 * third)
    assert found["top1_lr0.2_avg_l11"] == pytest.approx(third)
    assert math.isnan(found["top1_lr0.1_token_l11"])
    assert found["top1_best_on_val"] == found["top1_lr0.1_avg_l11"]
    assert found["top5_best_on_val"] == found["top5_lr0.1_avg_l11"]


def test_held_out_images_choose_the_head_and_count_for_nothing_else() -> None:
    grid = [Head(0.1, "avg", 11, "a"), Head(0.2, "avg", 11, "a")]
    targets = torch.tensor([0, 0, 1, 1])
    right, wrong = nn.functional.one_hot(targets, 2).float(), nn.functional.one_hot(1 - targets, 2).float()
    held_out = torch.tensor([False, False, True, True])
    first = torch.where(held_out[:, None], wrong, right)  # right where it is looked at, wrong where it is chosen
    second = torch.where(held_out[:, None] | (torch.arange(4) == 0)[:, None], right, wrong)
    evaluator = GridEvaluator(grid, 2)
    evaluator.update(Fixed(), (torch.stack([first, second]), targets, held_out))
    found = evaluator.metrics(evaluator.results())
    assert (found["top1_lr0.1_avg_l11"], found["top1_lr0.2_avg_l11"], found["images"]) == (100, 50, 2)
    assert (found["held_out_top1_lr0.1_avg_l11"], found["held_out_top1_lr0.2_avg_l11"]) == (0, 100)
    assert found["top1_best_on_train_split"] == 50
    assert "top1_best_on_val" not in found


def test_where_all_heads_diverge_there_is_no_best() -> None:
    evaluator = GridEvaluator([Head(0.1, "avg", 11, "a")], 2)
    evaluator.update(Fixed(), (torch.full((1, 3, 2), math.nan), torch.tensor([0, 1, 0])))
    assert math.isnan(evaluator.metrics(evaluator.results())["top1_best_on_val"])


def test_each_learning_rate_is_a_group_in_the_unit_of_the_optimiser(data: Path) -> None:
    groups = ProbingTask(recipe(data, optimizer=OptimizerConfig(blr=0.5))).param_groups()
    assert [group["lr_scale"] for group in groups] == [1.0, 0.5, 2.0]
    assert all(len(group["params"]) == 8 for group in groups)  # two poolings, two layers, weight and bias


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"method": "prob"}, ['"prob"', '"probe"']),
        ({"features": FeaturesConfig(pools=["tokne"])}, ['"tokne"', '"token"', "features.pools"]),
        ({"features": FeaturesConfig(layers=[4])}, ["features.layers=4", "0 to 3"]),
        ({"features": FeaturesConfig(layers=[])}, ["features.layers=[]", "at least 1"]),
        ({"features": FeaturesConfig(norm="al")}, ['"al"', '"all"']),
        ({"features": FeaturesConfig(store="fp8")}, ['"fp8"', "features.store"]),
        ({"probe": ProbeConfig(lrs=[])}, ["probe.lrs=[]"]),
        ({"probe": ProbeConfig(lrs=[0.1, -1.0])}, ["probe.lrs=[0.1, -1.0]"]),
        ({"optimizer": OptimizerConfig(lr=1.0, clip_grad=1.0)}, ["optimizer.clip_grad"]),
        ({"method": "knn", "schedule": ScheduleConfig(iterations=0)}, ["one feature", "are 4"]),
        ({"method": "knn", "features": FeaturesConfig()}, ["schedule.iterations=0"]),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(data: Path, sections: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as refusal:
        create_task(recipe(data, **sections))
    for word in words:
        assert word in str(refusal.value)
    assert "\n" not in str(refusal.value)
