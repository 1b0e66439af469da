"""The shipped detection recipes: detectron2's configurations, Li et al. 2021; what a batch size makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from mae_bench.engine.optimizer import create_schedule
from mae_bench.recipes.load import load_recipe, recipe_names
from tasks.detection.task import DetectionTask

from .conftest import small_recipe

# (iterations, the two milestones, lr, layer decay, drop path, decay of norms and positions): projects/ViTDet/configs
VITDET = {
    "detection/vit_base_patch16_coco": (184375, (163889, 177546), 1e-4, 0.7, 0.1, False),
    "detection/vit_large_patch16_coco": (184375, (163889, 177546), 1e-4, 0.8, 0.4, False),
    "detection/vit_huge_patch14_coco": (138281, (122916, 133159), 1e-4, 0.9, 0.5, True),
    "lvis/vit_base_patch16_lvis": (156250, (138889, 150463), 2e-4, 0.7, 0.1, False),
    "lvis/vit_large_patch16_lvis": (156250, (138889, 150463), 2e-4, 0.8, 0.4, False),
    "lvis/vit_huge_patch14_lvis": (156250, (138889, 150463), 1e-4, 0.9, 0.4, True),
}
# (epochs, lr, weight decay, drop path): Li et al. 2021, App. A
LI = {
    "vit_base_patch16_coco": (100, 8e-5, 0.1, 0.1),
    "vit_base_patch16_coco_50ep": (50, 8e-5, 0.1, 0.1),
    "vit_base_patch16_coco_25ep": (25, 8e-5, 0.1, 0.1),
    "vit_base_patch16_coco_scratch": (400, 1.6e-4, 0.2, 0.1),
    "vit_large_patch16_coco": (100, 8e-5, 0.1, 0.3),
    "vit_large_patch16_coco_50ep": (50, 8e-5, 0.1, 0.3),
    "vit_large_patch16_coco_25ep": (25, 8e-5, 0.1, 0.3),
    "vit_large_patch16_coco_scratch": (400, 1.6e-4, 0.2, 0.3),
}


def rates(recipe: Any, *steps: int) -> list[float]:
    """Learning rate at each step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=recipe.optimizer.lr)
    schedule = create_schedule(recipe, optimizer, steps_per_epoch=1832)
    found = []
    for step in steps:
        schedule.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("suffix", ["", "_cascade"])
@pytest.mark.parametrize("name", VITDET)
def test_vitdet_trains_by_the_published_configuration(name: str, suffix: str) -> None:
    recipe: Any = load_recipe(name + suffix)
    iterations, milestones, lr, layer_decay, drop_path, decay_all = VITDET[name]
    assert recipe.detection.cascade == bool(suffix)
    assert recipe.schedule.iterations == iterations
    assert (recipe.optimizer.lr, recipe.optimizer.layer_decay, recipe.encoder.drop_path) == (lr, layer_decay, drop_path)
    assert recipe.detection.decay_all == decay_all
    assert (recipe.train.batch_size, recipe.optimizer.weight_decay, recipe.train.precision) == (64, 0.1, "fp16")
    first, second = milestones
    found = rates(recipe, first - 1, first, second - 1, second)
    assert found == pytest.approx([lr, lr / 10, lr / 10, lr / 100], rel=1e-6)
    assert rates(recipe, 0, 125 * recipe.schedule.warmup_iterations // 250) == pytest.approx(
        [lr / 1000, lr * 0.5005], rel=1e-2
    )
    assert recipe.protocol == name.split("/")[0]


@pytest.mark.parametrize("name", LI)
def test_the_detector_of_table_4_trains_as_li_et_al_say(name: str) -> None:
    recipe: Any = load_recipe(f"detection_fpn/{name}")
    epochs, lr, weight_decay, drop_path = LI[name]
    assert (recipe.schedule.epochs, recipe.schedule.name, recipe.schedule.warmup_epochs) == (epochs, "cosine", 0.25)
    assert (recipe.optimizer.lr, recipe.optimizer.weight_decay, recipe.encoder.drop_path) == (
        lr,
        weight_decay,
        drop_path,
    )
    assert recipe.optimizer.layer_decay is None
    assert (recipe.detection.pyramid, recipe.detection.window_size, recipe.train.batch_size) == ("fpn", 14, 64)
    assert recipe.protocol == "detection_fpn"


def test_figures_are_of_one_recipe_each() -> None:
    """No recipe hands the figure of its base on."""
    names = [n for n in recipe_names() if n.split("/")[0] in ("detection", "detection_fpn", "lvis")]
    figures = [figure for n in names if (figure := load_recipe(n).published)]
    assert len(figures) == len(set(figures)) == 18


def test_four_gpus_take_a_sixteenth_of_the_rate_for_sixteen_times_the_steps() -> None:
    recipe: Any = load_recipe("detection/vit_base_patch16_coco", ["train.batch_size=4"])
    assert recipe.optimizer.lr == pytest.approx(1e-4 / 16)
    assert (recipe.schedule.iterations, recipe.schedule.warmup_iterations) == (184375 * 16, 4000)
    assert rates(recipe, 163889 * 16)[0] == pytest.approx(1e-5 / 16)


@pytest.mark.parametrize("folder", ["detection", "detection_fpn"])
@pytest.mark.parametrize("data", ["embedded", "coco256"])
def test_small_machines_have_both_detectors(folder: str, data: str) -> None:
    assert load_recipe(f"{folder}/vit_micro_patch8_{data}").protocol == folder


def decays(coco: Path, **changes: Any) -> dict[str, float]:
    task = DetectionTask(small_recipe(coco, **changes))
    names = {id(p): name for name, p in task.model.named_parameters()}
    return {names[id(p)]: group["weight_decay"] for group in task.param_groups() for p in group["params"]}


def test_shared_bias_tables_positions_and_batch_norm_do_not_decay(coco: Path) -> None:
    found = decays(coco, pyramid="fpn")
    kept = {name for name, decay in found.items() if not decay}
    assert {"backbone.bottom_up.dense.bias_tables.window", "backbone.bottom_up.dense.encoder.pos_embed"} < kept
    assert {"roi_heads.box_head.conv1.norm.weight", "backbone.fpn_lateral1.norm.bias"} < kept
    assert found["roi_heads.box_head.conv1.weight"] > 0


def test_with_decay_all_everything_decays(coco: Path) -> None:
    assert min(decays(coco, decay_all=True).values()) > 0
    assert min(decays(coco).values()) == 0
