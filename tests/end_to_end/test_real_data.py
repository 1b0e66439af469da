"""Real files in the layouts that people have, through the command line; budgets are tiny, figures are not results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Result, data_folder

Cli = Callable[..., Result]
pytestmark = pytest.mark.slow


def record(result: Result) -> dict[str, Any]:
    assert result.code == 0, result.err
    content = json.loads(result.out)
    last: dict[str, Any] = content[0] if isinstance(content, list) else content
    return last


def test_cifar10_tars_are_pre_trained_on_and_probed(cli: Cli, tmp_path: Path) -> None:
    data = data_folder("cifar10")
    small = ["--set", "data.limit_train=256", "--set", "train.batch_size=64", "--set", "schedule.epochs=1"]
    pretrain = cli(
        *("pretrain", "pretrain/vit_micro_patch4_cifar10", "--data", data, "--out", tmp_path / "mae", "--json", *small)
    )
    assert record(pretrain)["data"]["train_count"] == 256
    probe = cli(
        *("run", "--checkpoint", tmp_path / "mae", "--tasks", "linear", "--data", f"cifar10={data}"),
        *("--out", tmp_path / "runs", "--json", *small, "--set", "data.limit_val=100"),
    )
    got = record(probe)
    assert got["data"]["classes"] == 10
    assert got["metrics"]["last"]["images"] == 100
    assert got["init"]["method"] == "MAE"


def test_coco_gives_box_and_mask_ap(cli: Cli, tmp_path: Path) -> None:
    data = data_folder("coco-subset")
    command = ["run", "--scratch", "vit_micro_patch8", "--tasks", "detection", "--data", f"coco={data}", "--json"]
    short = ["--set", "schedule.iterations=2", "--set", "data.limit_val=6", "--set", "train.workers=0"]
    got = record(cli(*command, *short, "--out", tmp_path))
    assert got["data"]["classes"] == 80
    assert got["data"]["val_count"] == 6
    assert 0 <= got["metrics"]["last"]["box_ap"] <= 100
    assert 0 <= got["metrics"]["last"]["mask_ap"] <= 100


def test_semantic_maps_of_coco_give_miou(cli: Cli, tmp_path: Path) -> None:
    data = data_folder("coco-subset")
    command = ["run", "--scratch", "vit_micro_patch8", "--tasks", "segmentation/vit_micro_patch8_cocosubset", "--json"]
    short = ["--set", "schedule.iterations=2", "--set", "data.limit_val=4", "--set", "train.workers=0"]
    got = record(cli(*command, "--data", f"cocosubset={data}", *short, "--out", tmp_path))
    assert got["data"]["classes"] == 80
    metrics = got["metrics"]["last"]
    # Two steps may well hit nothing; what counts is that the classes of these four maps were judged, and no others.
    assert 0 <= metrics["mIoU"] < 100
    assert 1 < sum(name.startswith("IoU.") for name in metrics) < 80
    assert 0 < got["final_loss"] < 20


def test_ade20k_is_evaluated_without_a_training_set(cli: Cli, tmp_path: Path) -> None:
    data = data_folder("ade20k-sample")
    command = ["run", "--scratch", "vit_micro_patch8", "--tasks", "segmentation/vit_base_patch16_ade20k", "--json"]
    small = [
        *("--set", "encoder.arch=vit_micro_patch8", "--set", "segmentation.out_blocks=[0,1,2,3]"),
        *("--set", "encoder.img_size=128", "--set", "segmentation.inference=whole", "--set", "train.precision=fp32"),
        *("--set", "schedule.iterations=0", "--set", "train.workers=0", "--set", "train.batch_size=2"),
        *("--set", "segmentation.resize_scale=[256,128]", "--set", "train.eval_batch_size=1"),
        *("--set", "segmentation.channels=32", "--set", "segmentation.aux_channels=32"),
    ]
    got = record(cli(*command, *small, "--data", f"ade20k={data}", "--out", tmp_path))
    assert got["data"]["classes"] == 150
    assert got["data"]["val_count"] == 3
    assert 0 <= got["metrics"]["last"]["mIoU"] < 20
