"""Proof that heads learn and evaluators are joined up right: 4 embedded images, learnt by heart through the one loop."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from mae_bench.engine.loop import fit
from tasks.datasets.embedded import EmbeddedConfig, prepare
from tasks.detection.task import DetectionTask

from .conftest import small_recipe


def four_images(folder: Path) -> Path:
    """A COCO-layout folder whose validation set is its training set."""
    config = EmbeddedConfig(pretrain_count=1, train_count=1, val_count=1, scene_train_count=4, scene_val_count=1)
    root = prepare(config, folder) / "coco"
    shutil.rmtree(root / "val2017")
    shutil.copytree(root / "train2017", root / "val2017")
    shutil.copy(root / "annotations" / "instances_train2017.json", root / "annotations" / "instances_val2017.json")
    return root


@pytest.mark.slow
def test_four_images_are_learnt_by_heart(tmp_path: Path) -> None:
    """Every step sees all four. From the first step's 0 AP; what is left to learn after 80 steps is the last pixel of boxes."""
    recipe = small_recipe(
        four_images(tmp_path),
        img_size=96,
        scale_range=[1.0, 1.0],
        flip=False,
        channels=32,
        box_convs=1,
        mask_convs=2,
        box_fc=256,
        anchor_sizes=[8, 16, 32, 64, 96],
        roi_batch_per_image=32,
        rpn_pre_nms_topk=[200, 100],
        rpn_post_nms_topk=[100, 50],
    )
    recipe.optimizer.lr, recipe.optimizer.clip_grad = 3e-3, 1.0
    recipe.schedule.iterations, recipe.schedule.warmup_iterations = 80, 8
    recipe.train.batch_size = 4
    recipe.train.cache_images = True
    (tmp_path / "run").mkdir()
    metrics = fit(DetectionTask(recipe), tmp_path / "run").progress.last
    assert metrics["box_ap50"] > 80
    assert metrics["mask_ap50"] > 80
    assert metrics["box_ap"] > 40
    assert metrics["mask_ap"] > 25
