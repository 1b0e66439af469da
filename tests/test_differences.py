"""The numbers of docs/recipes.md, "Where we differ from the originals": each computed here, from our code and theirs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from backbones.vit.encoder import create_encoder
from backbones.vit.param_groups import param_groups
from mae_bench.engine.optimizer import create_schedule, learning_rate, total_steps
from mae_bench.recipes.load import load_recipe
from tasks.classification.model import Classifier
from tests.encoders import of_vit

PAGE = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
ROWS = {
    line.split("|")[1].strip(): line for line in PAGE.partition("## Where we differ")[2].splitlines() if "|" in line
}


def rates(name: str, steps_per_epoch: int = 1) -> list[float]:
    """The learning rate of every step, as a share of the recipe's."""
    recipe = load_recipe(name)
    full = learning_rate(recipe.optimizer, recipe.train.batch_size)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=full)
    schedule = create_schedule(recipe, optimizer, steps_per_epoch)
    found = []
    for step in range(total_steps(recipe.schedule, steps_per_epoch)):
        schedule.step_update(step)
        found.append(optimizer.param_groups[0]["lr"] / full)
    return found


def farthest(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def test_length_on_ade20k() -> None:
    recipe = load_recipe("segmentation/vit_base_patch16_ade20k")
    steps, images = recipe.schedule.iterations, 20_210
    assert steps is not None
    row = ROWS["ADE20K's length"]
    paper = 100 * images / recipe.train.batch_size
    assert f"{int(paper):,} steps" in row
    assert f"{steps * recipe.train.batch_size / images:.1f} epochs" in row
    assert f"{steps / paper - 1:.0%}".replace("%", " %") in row


def test_weight_decay_of_positions_and_class_token() -> None:
    recipe = load_recipe("segmentation/vit_base_patch16_ade20k")
    encoder = create_encoder("vit_micro_patch8", img_size=32)
    groups = param_groups(encoder, weight_decay=recipe.optimizer.weight_decay, depth=4)
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert not {id(encoder.pos_embed), id(encoder.cls_token)} & decayed
    layer = recipe.optimizer.layer_decay**13  # of the embeddings of 12 blocks
    moved = sum(rates("segmentation/vit_base_patch16_ade20k")) * learning_rate(recipe.optimizer, 16) * layer
    lost = 1 - math.exp(-moved * recipe.optimizer.weight_decay)
    assert f"{100 * lost:.2f} %" in ROWS["weight decay of `pos_embed`, `cls_token` in segmentation"]


def test_last_step_of_warm_up_in_segmentation() -> None:
    optim = pytest.importorskip("mmengine.optim")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedules = [
        optim.LinearLR(optimizer, start_factor=1e-6, by_epoch=False, begin=0, end=1500),
        optim.PolyLR(optimizer, eta_min=0.0, power=1.0, begin=1500, end=160_000, by_epoch=False),
    ]
    theirs: list[float] = []
    for _ in range(1_600):  # from then on both fall in a line, mmengine's to 0 at the last step
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for schedule in schedules:
            schedule.step()
    ours = rates("segmentation/vit_base_patch16_ade20k")
    assert theirs[1499] == pytest.approx(1)
    assert ours[1499] < ours[1500] == 1
    row = ROWS["warm-up's last step in segmentation"]
    assert f"{100 * farthest(ours[:1_600], theirs):.3f} %" in row
    assert f"{100 * ours[-1]:.4f} %" in row


def test_classifications_schedule_is_the_originals() -> None:
    recipe, steps = load_recipe("finetune/vit_base_patch16_imagenet"), 125
    least = recipe.schedule.min_lr / learning_rate(recipe.optimizer, recipe.train.batch_size)

    def official(epoch: float) -> float:
        if epoch < 5:
            return epoch / 5
        return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * (epoch - 5) / 95))

    theirs = [official(step / steps) for step in range(100 * steps)]
    assert farthest(rates("finetune/vit_base_patch16_imagenet", steps), theirs) < 1e-15


@pytest.mark.slow
@pytest.mark.parametrize("name", ["detection/vit_base_patch16_coco", "detection_fpn/vit_base_patch16_coco"])
def test_schedules_of_detection_beside_detectron2s(name: str) -> None:
    fvcore = pytest.importorskip("fvcore.common.param_scheduler")
    solver = pytest.importorskip("detectron2.solver")
    recipe, steps = load_recipe(name), 117_266 // 64
    ours = rates(name, steps)
    warmup = recipe.schedule.warmup_iterations or round(0.25 * steps)
    rest: Any = fvcore.CosineParamScheduler(1, 0)
    if "fpn" not in name:
        rest = fvcore.MultiStepParamScheduler([1, 0.1, 0.01], milestones=[163_889, 177_546], num_updates=len(ours))
    schedule = solver.WarmupParamScheduler(rest, 0.001, warmup / len(ours), "linear")
    apart = farthest(ours, [schedule(step / len(ours)) for step in range(len(ours))])
    if "fpn" in name:
        assert f"{100 * apart:.2f} %" in ROWS["cosine in `detection_fpn`"]
    else:
        assert apart < 1e-15


def test_deconvolutions_at_first() -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(768, 768, 2, 2)
    ours, lecun = layer.weight.std().item(), math.sqrt(1 / (768 * 4))
    row = ROWS["deconvolutions of `detection_fpn`'s pyramid"]
    assert f"{ours:.4f} against {lecun:.4f}" in row
    assert ours / lecun == pytest.approx(1 / math.sqrt(3), rel=0.01)


def test_no_block_trains_the_head_alone() -> None:
    recipe: Any = load_recipe("partial/vit_large_patch16_imagenet_0")

    def trained(**head: Any) -> list[str]:
        config = type(recipe.head)(**{**vars(recipe.head), **head})
        model = Classifier(of_vit(create_encoder("vit_micro_patch8", img_size=32)), 7, config, nn.CrossEntropyLoss())
        return [name for name, parameter in model.named_parameters() if parameter.requires_grad]

    assert trained() == ["head.1.weight", "head.1.bias"]
    assert trained(frozen_encoder=False, batch_norm=False, pool="avg") == [
        *("encoder.fc_norm.weight", "encoder.fc_norm.bias"),
        *("head.1.weight", "head.1.bias"),
    ]
    assert f"{1024 * 1000 + 1000:,} parameters" in ROWS["`partial` with no block"]
