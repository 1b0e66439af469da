"""The task as the engine sees it: what it declares, what it refuses, and that it learns."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmseg")

from backbones.checkpoints.checkpoint import load_checkpoint
from backbones.errors import UserError
from backbones.files.tensor_files import save_tensors
from backbones.vit.encoder import create_encoder
from mae_bench.engine.evaluate import evaluate
from mae_bench.engine.loop import FitResult, create_accelerator, fit
from mae_bench.engine.seeding import seed_all
from mae_bench.recipes.load import load_recipe
from tasks.segmentation.config import SegmentationRecipe
from tasks.segmentation.mm import IoUMetric
from tasks.segmentation.model import ENCODER_PREFIX
from tasks.segmentation.task import SegmentationTask

RecipeMaker = Callable[..., SegmentationRecipe]


def test_what_is_known_of_the_data(ade: Path, recipe: RecipeMaker) -> None:
    task = SegmentationTask(recipe(ade))
    info = task.data
    assert (info.name, info.root, info.split) == ("small", str(ade), "images/validation")
    assert (info.train_count, info.val_count, info.classes) == (5, 3, 3)
    assert task.class_names == ["sky", "sea", "sand"]
    assert info.notes == []


def test_the_fingerprint_covers_images_and_maps(ade: Path, recipe: RecipeMaker) -> None:
    before = SegmentationTask(recipe(ade)).data.fingerprint
    assert SegmentationTask(recipe(ade)).data.fingerprint == before
    changed = ade / "annotations" / "training" / "training_0.png"
    changed.write_bytes(changed.read_bytes() + b"\0")
    assert SegmentationTask(recipe(ade)).data.fingerprint != before


def test_limits_take_the_first_images(ade: Path, recipe: RecipeMaker) -> None:
    task = SegmentationTask(recipe(ade, "data.limit_train=2", "data.limit_val=1"))
    assert (task.data.train_count, task.data.val_count) == (2, 1)
    assert (len(task.train_dataset()), len(task.val_dataset())) == (2, 1)
    with pytest.raises(UserError, match="limit_val"):
        SegmentationTask(recipe(ade, "data.limit_val=0"))


def test_broken_images_are_left_out_and_counted_when_asked_for(ade: Path, recipe: RecipeMaker) -> None:
    (ade / "images" / "training" / "training_1.jpg").write_bytes(b"no image")
    assert SegmentationTask(recipe(ade)).data.train_count == 5
    skipping = SegmentationTask(recipe(ade, "data.skip_broken=true")).data
    assert skipping.train_count == 4
    assert skipping.notes == ["1 of 5 training images left out: image or map unreadable"]


def test_a_broken_image_stops_training_by_name(ade: Path, recipe: RecipeMaker, tmp_path: Path) -> None:
    for i in range(5):
        (ade / "images" / "training" / f"training_{i}.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"training_\d.jpg: unreadable image.*skip_broken"):
        fit(SegmentationTask(recipe(ade)), tmp_path)


def test_evaluation_alone_needs_no_training_folders(ade: Path, recipe: RecipeMaker) -> None:
    (ade / "images" / "training").rename(ade / "gone")
    with pytest.raises(UserError, match="images/training: no such folder"):
        SegmentationTask(recipe(ade))
    task = SegmentationTask(recipe(ade, "schedule.iterations=0"))
    assert (task.data.train_count, task.data.val_count) == (0, 3)


def test_other_folder_names_are_a_matter_of_the_recipe(ade: Path, recipe: RecipeMaker) -> None:
    for old, new in {"images/training": "photos", "annotations/training": "maps"}.items():
        (ade / old).rename(ade / new)
    keys = ("segmentation.train_images=photos", "segmentation.train_maps=maps")
    assert SegmentationTask(recipe(ade, *keys)).data.train_count == 5


def test_every_parameter_is_in_one_group_with_its_decay_and_rate(ade: Path, recipe: RecipeMaker) -> None:
    keys = ("optimizer.layer_decay=0.5", "optimizer.weight_decay=0.05")
    task = SegmentationTask(recipe(ade, *keys))
    group_of = {id(p): group for group in task.param_groups() for p in group["params"]}
    names = dict(task.model.named_parameters())
    assert set(group_of) == {id(p) for p in names.values()}
    assert sum(len(group["params"]) for group in task.param_groups()) == len(names)

    def settings(name: str) -> tuple[float, float]:
        group = group_of[id(names[name])]
        return group["lr_scale"], group["weight_decay"]

    assert settings(f"{ENCODER_PREFIX}pos_embed") == (0.5**5, 0)
    assert settings(f"{ENCODER_PREFIX}cls_token") == (0.5**5, 0)
    assert settings(f"{ENCODER_PREFIX}patch_embed.proj.weight") == (0.5**5, 0.05)
    assert settings(f"{ENCODER_PREFIX}blocks.0.attn.qkv.weight") == (0.5**4, 0.05)
    assert settings(f"{ENCODER_PREFIX}blocks.3.norm1.weight") == (0.5, 0)
    assert settings("net.decode_head.conv_seg.weight") == (1, 0.05)
    assert settings("net.decode_head.conv_seg.bias") == (1, 0)


def test_the_encoder_comes_from_the_checkpoint(ade: Path, recipe: RecipeMaker, tmp_path: Path) -> None:
    torch.manual_seed(5)
    encoder = create_encoder("vit_micro_patch8", img_size=48)
    save_tensors(tmp_path / "encoder.safetensors", encoder.state_dict())
    task = SegmentationTask(recipe(ade), load_checkpoint(tmp_path / "encoder.safetensors"))
    state = task.model.state_dict()
    for name, tensor in encoder.blocks.state_dict().items():
        assert torch.equal(state[f"{ENCODER_PREFIX}blocks.{name}"], tensor)
    assert state[f"{ENCODER_PREFIX}pos_embed"].shape == (1, 1 + 4 * 4, 128)


def test_options_of_the_embedded_set_are_checked(recipe: RecipeMaker) -> None:
    with pytest.raises(UserError, match="no_such_option"):
        SegmentationTask(recipe(None, "data.options.no_such_option=1"))


def test_a_run_ends_with_metrics_of_all_kinds(ade: Path, recipe: RecipeMaker, tmp_path: Path) -> None:
    result = fit(SegmentationTask(recipe(ade, "data.limit_val=2")), tmp_path)
    assert {"mIoU", "aAcc", "mAcc", "IoU.sky", "IoU.sea", "IoU.sand"} == set(result.progress.last)
    assert all(0 <= value <= 100 for value in result.progress.last.values())


def test_reading_the_recipe_imports_no_mmseg_and_the_task_prints_nothing() -> None:
    """stdout carries results; mmengine would write its log there."""
    code = """
import sys
from mae_bench.recipes.load import load_recipe
load_recipe("segmentation/vit_base_patch16_ade20k")
assert not {"mmseg", "mmcv", "mmengine"} & sys.modules.keys()
from tasks.segmentation.config import SegmentationConfig
from tasks.segmentation.model import build_segmenter
from backbones.checkpoints.checkpoint import open_encoder
from tasks.recipe import EncoderConfig
build_segmenter(open_encoder(EncoderConfig("vit_micro_patch8", 32), None), SegmentationConfig(out_blocks=[0, 1, 2, 3],
    channels=8, aux_channels=8, slide_stride=32), 32, 3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_paper_recipe_builds_on_the_ade20k_sample(shared_data: Path) -> None:
    root = shared_data / "ade20k-sample"
    keys = [f"data.root={root}", "schedule.iterations=0", "encoder.arch=vit_tiny_patch16"]
    loaded = load_recipe("segmentation/vit_base_patch16_ade20k", [*keys, "segmentation.channels=16"])
    assert isinstance(loaded, SegmentationRecipe)
    task = SegmentationTask(loaded)
    assert (task.data.train_count, task.data.val_count, task.data.classes) == (0, 3, 150)
    sample = task.val_dataset()[0]
    labels = sample["data_samples"].gt_sem_seg.data
    assert min(sample["inputs"].shape[1:]) == 512
    assert labels[labels != 255].max() < 150


@pytest.mark.slow
def test_real_maps_give_real_figures(shared_data: Path) -> None:
    root = shared_data / "coco-subset"
    loaded = load_recipe(
        "segmentation/vit_micro_patch8_cocosubset", [f"data.root={root}", "data.limit_val=4", "train.workers=0"]
    )
    assert isinstance(loaded, SegmentationRecipe)
    task = SegmentationTask(loaded)
    assert (task.data.train_count, task.data.val_count, task.data.classes) == (300, 4, 80)
    metrics = evaluate(task, task.model, create_accelerator(loaded)).metrics
    assert 0 <= metrics["mIoU"] < 20
    assert len(metrics) > 3


def overfit(run_dir: Path, steps: int) -> FitResult:
    """Trains on eight embedded scenes without augmentation and evaluates on the same."""
    counts = ("pretrain_count", "train_count", "val_count", "scene_train_count", "scene_val_count")
    keys = [f"data.options.{count}=8" for count in counts]
    keys += ["segmentation.val_images=images/training", "segmentation.val_maps=annotations/training"]
    keys += ["data.allow=[val_in_train]"]
    keys += ["train.batch_size=4"]
    keys += [
        "train.workers=0",
        "train.cache_images=true",
        f"schedule.iterations={steps}",
        "schedule.warmup_iterations=10",
    ]
    keys += ["optimizer.lr=8e-3", "optimizer.weight_decay=0", "optimizer.layer_decay=null"]
    keys += ["segmentation.resize_scale=[64,64]", "segmentation.resize_ratio=[1,1]", "segmentation.dropout=0"]
    loaded = load_recipe("segmentation/vit_micro_patch8_embedded", keys)
    assert isinstance(loaded, SegmentationRecipe)
    seed_all(0)
    return fit(SegmentationTask(loaded), run_dir)


@pytest.mark.slow
def test_eight_images_are_learnt_by_heart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads learn and the evaluator is joined up right: nothing but the right classes in the right places gets there."""
    monkeypatch.setenv("MAE_BENCH_CACHE", str(tmp_path / "cache"))
    assert overfit(tmp_path, steps=100).progress.last["mIoU"] > 50


def test_images_are_known_by_name_for_messages(ade: Path, recipe: RecipeMaker) -> None:
    dataset = SegmentationTask(recipe(ade)).train_dataset()
    assert dataset.name(0) == str(ade / "images" / "training" / "training_0.jpg")  # type: ignore[attr-defined]


def test_figures_of_a_models_predictions_are_those_of_mmsegs_own_metric(ade: Path, recipe: RecipeMaker) -> None:
    """mmseg's `IoUMetric` fed, as its runner feeds it, with the very samples that a model gives on every validation image."""
    task = SegmentationTask(recipe(ade))
    model, dataset = task.model.eval(), task.val_dataset()
    evaluator, metric = task.evaluator(), IoUMetric()
    metric.dataset_meta = {"classes": task.class_names}
    for i in range(len(dataset)):  # type: ignore[arg-type]
        batch = task.collate()([dataset[i]])
        evaluator.update(model, batch)
        with torch.no_grad():
            metric.process(batch, [sample.to_dict() for sample in model(batch)])
    ours = evaluator.metrics(evaluator.results())
    for name, value in metric.compute_metrics(metric.results).items():
        assert ours[name] == pytest.approx(value, abs=0.00501)  # mmseg rounds to two places
