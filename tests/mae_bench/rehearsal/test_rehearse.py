"""`mae-bench rehearse`: what it says of recipes, and what it stops at."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mae_bench.jobs.job import PlannedJob
from mae_bench.recipes.load import load_recipe
from mae_bench.rehearsal import show
from mae_bench.rehearsal.devices import find
from mae_bench.rehearsal.hours import Cluster, hours
from mae_bench.rehearsal.rehearse import Rehearsals, Step
from tasks.classification.task import ClassificationTask
from tests.conftest import REPO

SMALL = ["pretrain/vit_micro_patch4_cifar10", "finetune/vit_micro_patch4_cifar10", "knn/vit_micro_patch4_cifar10"]


def test_small_recipes_start_and_say_what_they_take(cli: Callable[..., Any]) -> None:
    said = cli("rehearse", *SMALL, "--json")
    assert said.code == 0, said.err
    pretraining, tuning, neighbours = json.loads(said.out)["jobs"]
    model = sum(p.numel() for p in _model("pretrain/vit_micro_patch4_cifar10").parameters())
    assert pretraining["step"]["parameters"] == model
    # AdamW keeps two numbers a parameter; tensors are rounded up to 512 bytes.
    assert pretraining["step"]["optimizer"] == pytest.approx(8 * tuning["step"]["trained"], rel=0.5)
    assert pretraining["peak"] > pretraining["step"]["weights"] + pretraining["step"]["optimizer"]
    assert neighbours["step"]["trained"] == 0
    assert neighbours["step"]["evaluation"] > 0
    assert pretraining["hours"] is None  # nobody counted CIFAR-10 for the paper's tables


def _model(name: str) -> nn.Module:
    from tasks.pretraining.task import create_model

    return create_model(load_recipe(name))  # type: ignore[arg-type]


def test_a_memory_too_small_for_one_image_is_an_error_of_one_line(cli: Callable[..., Any]) -> None:
    said = cli("rehearse", SMALL[1], "--memory", "1MB")
    assert said.code == 1
    assert "not one image fits into 0.001 GB: a step of one takes 0.0" in said.out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "give one of RECIPE, --suite and --all"),
        ([SMALL[0], "--device", "h10"], "--device: unknown device"),
        ([SMALL[0], "--memory", "80"], "--memory 80: give a number with its unit, such as 80GiB"),
        ([SMALL[0], "--nodes", "2"], "--nodes 2: give --gpus"),
        ([SMALL[0], "--gpus", "0"], "--gpus 0: give at least 1"),
        ([SMALL[0], "--share", "2"], "--share 2: give a share"),
    ],
)
def test_bad_input_is_one_line(cli: Callable[..., Any], arguments: list[str], line: str) -> None:
    said = cli("rehearse", *arguments)
    assert said.code == 2
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert line.split(":")[0] in said.err


def test_a_value_read_from_the_device_and_a_tensor_left_on_the_cpu_stop_it(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reads(self: Any, batch: Any) -> Any:
        losses = self.model(batch)
        return {"loss": losses["loss"] * losses["loss"].item()}

    monkeypatch.setattr(ClassificationTask, "rehearse_losses", reads)
    assert "waits for the device to read a value" in cli("rehearse", SMALL[1]).out

    def leaves(self: Any, batch: Any) -> Any:
        return {"loss": (self.model(batch)["loss"] + torch.ones(3)).sum()}

    monkeypatch.setattr(ClassificationTask, "rehearse_losses", leaves)
    assert "leaves a tensor on the CPU" in cli("rehearse", SMALL[1]).out


def test_side_by_side_gives_what_one_after_the_other_does(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = load_recipe(SMALL[1], ["encoder.img_size=30"])
    recipes = [*map(load_recipe, SMALL), load_recipe(SMALL[0], ["optimizer.lr=1e-5"]), broken]
    jobs = [PlannedJob(recipe.title, recipe, start="scratch") for recipe in recipes]
    alone = show.reports(jobs, show.Asked())
    monkeypatch.setattr(show, "_MANY", len(jobs))
    monkeypatch.setattr(show, "usable_cpus", lambda: 2)
    assert show.reports(jobs, show.Asked()) == alone
    assert [report.error is None for report in alone] == [True, True, True, True, False]


def test_jobs_that_differ_in_the_learning_rate_share_a_rehearsal() -> None:
    rehearsals = Rehearsals()
    for rate in (1e-3, 2e-3):
        recipe = load_recipe(SMALL[0], [f"optimizer.lr={rate}"])
        rehearsals.step(PlannedJob(SMALL[0], recipe))
    assert len(rehearsals.done) == 1


@pytest.fixture
def without_images(tmp_path: Path) -> Path:
    """Annotations whose images are not there."""
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
    image = {"id": 1, "file_name": "a.jpg", "width": 64, "height": 64}
    content = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (tmp_path / "coco" / f"{split}2017").mkdir()
        (tmp_path / "coco" / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return tmp_path / "coco"


def test_a_plain_dry_run_finds_what_would_not_start(
    cli: Callable[..., Any], tmp_path: Path, without_images: Path
) -> None:
    pytest.importorskip("detectron2")
    jobs = ["run", "--scratch", "vit_base_patch16", "--tasks", "detection/vit_base_patch16_coco,linear", "--dry-run"]
    folders = ["--data", f"coco={without_images}", "--data", f"imagenet={tmp_path}"]
    said = cli(*jobs, *folders, "--out", tmp_path / "runs")
    assert said.code == 1
    lines = [line for line in said.out.splitlines() if line.startswith("does not start: ")]
    assert len(lines) == 2
    assert "a.jpg: no such image in" in lines[0]
    assert "no train split there" in lines[1]
    unfit = ["run", "--scratch", "vit_micro_patch8", "--tasks", "knn,segmentation", "--dry-run", "--json"]
    told = cli(*unfit, "--set", "segmentation:encoder.img_size=50", "--out", tmp_path / "runs")
    assert told.code == 1
    (line,) = json.loads(told.out)["does_not_start"].values()
    assert "image size 50x50 is not a multiple of the patch size" in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("launcher", ["local", "cpus"])
def test_a_real_start_says_it_before_the_first_job(cli: Callable[..., Any], tmp_path: Path, launcher: str) -> None:
    (tmp_path / "empty" / "train" / "a").mkdir(parents=True)
    jobs = ["run", "--scratch", "vit_base_patch16", "--tasks", "linear,knn", "--data", f"imagenet={tmp_path / 'empty'}"]
    said = cli(*jobs, "--launcher", launcher, "--out", tmp_path / "runs")
    assert said.code == 1
    lines = said.err.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["will not start", "will not start"]
    assert "no images found" in lines[0]


_PARENT = """
import sys
from mae_bench.jobs.job import PlannedJob
from mae_bench.recipes.load import load_recipe
from mae_bench.rehearsal.starts import obstacles, obstacles_seen_from_a_child
name = "segmentation/vit_micro_patch8_embedded"
jobs = [PlannedJob(name, load_recipe(name, ["encoder.img_size=50"]), start="scratch")]
seen, loaded = obstacles_seen_from_a_child(jobs), set(sys.modules)
assert seen and seen == obstacles(jobs), seen
assert loaded < set(sys.modules)
print(*loaded & {"mmseg", "mmengine", "detectron2"})
"""


def test_a_parent_of_jobs_keeps_no_packages_of_theirs(tmp_path: Path) -> None:
    pytest.importorskip("mmseg")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", _PARENT], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("name", "operations", "evaluation"),
    [  # docs/rehearsal.md's count; V100 for MAE's, A100 for ViTDet's
        ("finetune/vit_base_patch16_imagenet", 105.9e9, 35.1e9),
        ("finetune/vit_large_patch16_imagenet", 370.9e9, 123.1e9),
        ("finetune/vit_huge_patch14_imagenet", 1008.8e9, 334.7e9),
        ("pretrain/vit_large_patch16_imagenet", 124.1e9, 0.0),
        ("detection/vit_base_patch16_coco", 6253e9, 1800e9),
        ("detection/vit_large_patch16_coco", 12696e9, 3900e9),
    ],
)
def test_estimated_hours_are_within_twice_the_published_ones(name: str, operations: float, evaluation: float) -> None:
    recipe = load_recipe(name)
    step = Step(1, 0, 0, gradients=0, operations=operations, evaluation=evaluation, train_count=1, val_count=1)
    device = next(each for each in ("v100", "a100") if each.upper() in recipe.cost.source)
    ours = hours(recipe, step, Cluster(find(device), recipe.gpus))
    assert ours is not None
    assert 0.5 < ours * recipe.gpus / recipe.cost.gpu_hours < 2


@pytest.mark.slow
def test_detection_with_patch_14_starts_only_with_its_embedding_resampled(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("detectron2")
    import tasks.detection.model as model

    recipe = "detection/vit_huge_patch14_coco"
    assert cli("rehearse", recipe).code == 0
    monkeypatch.setattr(model, "set_patch_size", lambda *_: None)
    said = cli("rehearse", recipe)
    assert said.code == 1
    assert "detection needs a patch size that is a power of 2" in said.out


# `make rehearse`, a job of its own in CI, takes all recipes; detection at 1,024 px is above.
PAPER_SIZED = [
    "pretrain/vit_large_patch16_imagenet",
    "finetune/vit_huge_patch14_imagenet_448",
    "knn/vit_large_patch16_imagenet",
]


@pytest.mark.slow
def test_recipes_of_the_papers_size_start_and_fit(cli: Callable[..., Any]) -> None:
    said = cli("rehearse", *PAPER_SIZED, "--device", "h100", "--json")
    assert said.code == 0, said.out + said.err
    jobs = json.loads(said.out)["jobs"]
    assert [job["job"] for job in jobs] == PAPER_SIZED
    assert not [job for job in jobs if job["peak"] > 80e9 or any("graph break" in note for note in job["notes"])]


@pytest.mark.slow
def test_segmentation_sends_its_batches_to_the_models_device(cli: Callable[..., Any]) -> None:
    pytest.importorskip("mmseg")
    recipes = ["segmentation/vit_micro_patch8_embedded", "segmentation/vit_large_patch16_ade20k"]
    assert cli("rehearse", *recipes).code == 0


def test_a_value_that_one_of_several_tasks_cannot_take_is_found_before_the_first_starts(
    cli: Callable[..., Any], tmp_path: Path
) -> None:
    jobs = ["run", "--scratch", "vit_micro_patch8", "--tasks", "linear,knn", "--out", tmp_path / "runs"]
    for override, line in (
        ("schedule.epochs=1", "give one of epochs and iterations"),
        ("knn:schedule.iterations=5", "k-NN trains"),
    ):
        said = cli(*jobs, "--set", override)
        assert said.code == 2
        assert "knn/vit_micro_patch8_embedded-scratch-s0" in said.err
        assert line in said.err
        assert not (tmp_path / "runs").exists()


def test_a_dry_run_rehearses_too(cli: Callable[..., Any], tmp_path: Path) -> None:
    jobs = ["run", "--scratch", "vit_micro_patch8", "--tasks", "knn", "--out", tmp_path / "runs"]
    said = cli(*jobs, "--dry-run", "--rehearse", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["rehearsal"]["jobs"][0]["fits"]
    assert cli(*jobs, "--rehearse").code == 2


@pytest.mark.parametrize(
    "overrides",
    [
        ["mae.mask_sampling=block"],
        ["mae.target=pca", "mae.pca_components=24"],
        ["mae.target=tokens"],
        ["train.ema=0.99"],
        ["train.compile=true"],
    ],
)
def test_every_switch_of_pretraining_is_rehearsed(overrides: list[str]) -> None:
    step = Rehearsals().step(PlannedJob(SMALL[0], load_recipe(SMALL[0], overrides)))
    assert step.peak > 0
    assert (step.ema > 0) == ("train.ema=0.99" in overrides)
    assert not [note for note in step.notes if "graph break" in note]


def test_a_broken_graph_is_a_note() -> None:
    recipe = load_recipe(
        SMALL[0], ["train.compile=true", "mae.mask_sampling=block"]
    )  # blocks are drawn outside the graph
    assert any("graph break" in note for note in Rehearsals().step(PlannedJob(SMALL[0], recipe)).notes)
