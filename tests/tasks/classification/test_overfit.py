"""The classifier learns 64 images by heart: head, loss, loop and evaluator are joined up right."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mae_bench.engine.loop import fit
from mae_bench.engine.seeding import seed_all
from mae_bench.recipes.load import load_recipe
from tasks import create_task
from tasks.datasets.embedded import EmbeddedConfig, prepare


@pytest.mark.slow
def test_64_embedded_images_are_classified_without_a_mistake(tmp_path: Path) -> None:
    data = prepare(
        EmbeddedConfig(pretrain_count=10, train_count=70, val_count=10, scene_train_count=1, scene_val_count=1)
    )
    for split in ("train", "val"):
        shutil.copytree(data / "imagenet" / "train", tmp_path / "data" / split)
    recipe = load_recipe(
        "finetune/vit_micro_patch8_embedded",
        [
            *(f"data.root={tmp_path / 'data'}", "data.limit_train=64", "data.limit_val=64", "train.batch_size=32"),
            *("schedule.epochs=80", "augmentation.scale=[1,1]", "head.label_smoothing=0", "optimizer.weight_decay=0"),
        ],
    )
    seed_all(0, "init")
    result = fit(create_task(recipe), tmp_path)
    assert result.progress.last["top1"] == 100
    assert result.progress.last["images"] == 64
