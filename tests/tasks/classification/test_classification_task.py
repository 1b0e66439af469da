"""The classification task: what it tells the engine of data, groups and batches, on folders as users have them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.utils.data import DataLoader

from backbones.errors import UserError
from backbones.vit.encoder import create_encoder
from mae_bench.engine.seeding import seed_all
from tasks.classification.config import AugmentationConfig, ClassificationRecipe, HeadConfig
from tasks.classification.task import ClassificationTask
from tasks.datasets.transforms import normalise
from tasks.recipe import DataConfig, EncoderConfig, OptimizerConfig, ScheduleConfig
from tests.encoders import MAE
from tests.golden.figures import arrays
from tests.tasks.pictures import make_folders, save_picture, truncate

LINEAR = HeadConfig(frozen_encoder=True, pool="token", batch_norm=True, init_std=0.01)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folders(tmp_path / "data")


def recipe(root: Path, **sections: Any) -> ClassificationRecipe:
    data = {"name": "mine", "root": str(root)} | sections.pop("data", {})
    return ClassificationRecipe(
        encoder=EncoderConfig(arch="vit_micro_patch8", img_size=16),
        data=DataConfig(**data),
        optimizer=sections.pop("optimizer", OptimizerConfig(lr=1e-3, layer_decay=0.75)),
        schedule=sections.pop("schedule", ScheduleConfig(epochs=1)),
        **sections,
    )


def test_task_knows_its_data(root: Path) -> None:
    data = ClassificationTask(recipe(root)).data
    assert (data.name, data.train_count, data.val_count, data.classes, data.split) == ("mine", 12, 6, 3, "val")
    assert data.notes == []


def test_fingerprint_covers_both_splits(root: Path) -> None:
    first = ClassificationTask(recipe(root)).data.fingerprint
    save_picture(root / "val" / "ant" / "9.jpg", 3)
    second = ClassificationTask(recipe(root)).data.fingerprint
    save_picture(root / "train" / "ant" / "9.jpg", 3)
    assert len({first, second, ClassificationTask(recipe(root)).data.fingerprint}) == 3


def test_samples_come_as_bytes_and_become_normalised_batches(root: Path) -> None:
    task = ClassificationTask(recipe(root))
    images, targets = next(iter(DataLoader(task.train_dataset(), batch_size=4, collate_fn=task.collate())))
    assert (images.shape, images.dtype) == ((4, 3, 16, 16), torch.uint8)
    assert targets.tolist() == [0, 0, 0, 0]
    prepared, same = task.prepare_batch([images, targets])
    assert torch.equal(prepared, normalise(images, MAE))
    assert same is targets


def test_evaluation_runs_over_the_validation_set(root: Path) -> None:
    task = ClassificationTask(recipe(root))
    evaluator = task.evaluator()
    with torch.no_grad():
        for batch in DataLoader(task.val_dataset(), batch_size=4):
            evaluator.update(task.model.eval(), batch)
    metrics = evaluator.metrics(evaluator.results())
    assert metrics["images"] == 6
    assert 0 <= metrics["top1"] <= metrics["top5"] == 100
    assert task.primary_metric in metrics


def test_fine_tuning_groups_equal_timms_on_the_same_vit(root: Path) -> None:
    task = ClassificationTask(recipe(root))
    vit = VisionTransformer(
        img_size=16, patch_size=8, embed_dim=128, depth=4, num_heads=4, num_classes=3, global_pool="avg"
    )
    timm_groups = param_groups_layer_decay(
        vit, weight_decay=0.05, layer_decay=0.75, no_weight_decay_list=vit.no_weight_decay()
    )

    def by_name(model: nn.Module, groups: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
        names = {id(p): n.removeprefix("encoder.").replace("head.1.", "head.") for n, p in model.named_parameters()}
        return {names[id(p)]: (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}

    ours, theirs = by_name(task.model, task.param_groups()), by_name(vit, timm_groups)
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        assert ours[name] == pytest.approx(values, rel=1e-12), name


def test_probe_gives_the_optimiser_the_head_only(root: Path) -> None:
    task = ClassificationTask(recipe(root, head=LINEAR))
    given = {id(p) for group in task.param_groups() for p in group["params"]}
    assert given == {id(p) for p in task.model.head.parameters()}
    assert task.recipe.protocol == "linear"


def test_probe_after_steps_has_the_checkpoints_encoder(root: Path) -> None:
    torch.manual_seed(0)
    task = ClassificationTask(recipe(root, head=LINEAR))
    before = {k: v.clone() for k, v in task.model.encoder.state_dict().items()}
    optimizer = torch.optim.SGD(task.param_groups(), lr=0.1)
    for batch in DataLoader(task.train_dataset(), batch_size=6):
        task.model.train()(task.prepare_batch(batch))["loss"].backward()
        optimizer.step()
    exported = task.export(task.model)["model"]
    assert all(torch.equal(exported[k], v) for k, v in before.items())
    assert {k for k in exported if k.startswith("head.")} == {
        "head.0.running_mean",
        "head.0.running_var",
        "head.0.num_batches_tracked",
        "head.1.weight",
        "head.1.bias",
    }


MIXED = AugmentationConfig(mixup=0.8, cutmix=1.0)


def test_mixup_gives_smoothed_distributions(root: Path) -> None:
    seed_all(0)
    task = ClassificationTask(recipe(root, augmentation=MIXED, head=HeadConfig(label_smoothing=0.1)))
    images = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)
    mixed, targets = task.prepare_batch([images, torch.arange(6) % 3])
    assert mixed.shape == images.shape
    assert not torch.equal(mixed, normalise(images, MAE))
    torch.testing.assert_close(targets.sum(1), torch.ones(6))
    assert targets.min().item() == pytest.approx(0.1 / 3)
    # Smoothed once: the criterion must not do it again.
    assert task.model.criterion.label_smoothing == 0.0
    assert torch.isfinite(task.model.train()((mixed, targets))["loss"])


def test_mixup_and_cutmix_equal_the_official_ones_for_the_same_draws(root: Path) -> None:
    golden = arrays("mixup")  # of the timm release that the official code asks for
    task = ClassificationTask(recipe(root, augmentation=MIXED, head=HeadConfig(label_smoothing=0.1)))
    for seed, (official_targets, official_pixels) in enumerate(zip(golden["targets"], golden["pixels"], strict=True)):
        np.random.seed(seed)
        images, targets = task.prepare_batch([torch.from_numpy(golden["images"]), torch.from_numpy(golden["labels"])])
        torch.testing.assert_close(targets, torch.from_numpy(official_targets), rtol=1e-5, atol=1e-7)
        # Normalisation is written as another product here; pixels are of the order of 1 and cross zero.
        torch.testing.assert_close(images[:, :, ::5, ::5], torch.from_numpy(official_pixels), rtol=1e-5, atol=1e-5)


def test_without_mixup_the_criterion_smooths(root: Path) -> None:
    assert ClassificationTask(recipe(root, head=HeadConfig(label_smoothing=0.1))).model.criterion.label_smoothing == 0.1


def test_mixup_of_an_odd_batch_says_so(root: Path) -> None:
    task = ClassificationTask(recipe(root, augmentation=MIXED))
    with pytest.raises(UserError, match=r"even train\.batch_size"):
        task.prepare_batch([torch.zeros(5, 3, 16, 16, dtype=torch.uint8), torch.zeros(5, dtype=torch.long)])


def test_erasing_fills_boxes_with_noise_after_normalisation(root: Path) -> None:
    seed_all(0)
    task = ClassificationTask(recipe(root, augmentation=AugmentationConfig(erasing=1.0)))
    images = torch.full((32, 3, 16, 16), 200, dtype=torch.uint8)
    erased, _ = task.prepare_batch([images, torch.zeros(32, dtype=torch.long)])
    changed = (erased != normalise(images, MAE)).any(1).flatten(1).float().mean(1)
    assert (changed > 0).float().mean() > 0.9
    assert changed.max() < 0.6  # at most a third of the area, rounded
    noise = erased[(erased != normalise(images, MAE))]
    assert noise.std().item() == pytest.approx(1, abs=0.1)


def test_truncated_jpeg_stops_the_run_or_is_counted(root: Path) -> None:
    truncate(root / "train" / "bee" / "1.jpg")
    dataset = ClassificationTask(recipe(root)).train_dataset()
    with pytest.raises(UserError, match=r"bee/1\.jpg"):
        [dataset[i] for i in range(12)]
    task = ClassificationTask(recipe(root, data={"skip_broken": True}))
    assert task.data.train_count == 11
    assert task.data.notes == ["1 unreadable training images left out"]
    assert len([task.train_dataset()[i] for i in range(11)]) == 11


def test_limits_take_part_of_each_split(root: Path) -> None:
    data = ClassificationTask(recipe(root, data={"limit_train": 6, "limit_val": 3})).data
    assert (data.train_count, data.val_count, data.classes) == (6, 3, 3)


def test_evaluation_alone_needs_no_training_set(root: Path) -> None:
    shutil.rmtree(root / "train")
    task = ClassificationTask(recipe(root, schedule=ScheduleConfig(iterations=0)))
    assert (task.data.train_count, task.data.val_count, task.data.classes) == (0, 6, 3)


def test_class_that_training_lacks_is_named(root: Path) -> None:
    save_picture(root / "val" / "dog" / "0.jpg", 0)
    with pytest.raises(UserError, match="'dog'"):
        ClassificationTask(recipe(root))


def test_one_class_is_too_few(tmp_path: Path) -> None:
    make_folders(tmp_path, classes=("all",))
    with pytest.raises(UserError, match="needs two"):
        ClassificationTask(recipe(tmp_path))


def test_image_size_that_is_no_multiple_of_the_patch_is_named(root: Path) -> None:
    broken = recipe(root)
    broken.encoder.img_size = 20
    with pytest.raises(UserError, match="20x20 is not a multiple"):
        ClassificationTask(broken)


def test_from_scratch_is_initialised_by_the_global_seed(root: Path) -> None:
    def weights(seed: int) -> torch.Tensor:
        seed_all(seed)
        return ClassificationTask(recipe(root)).model.encoder.blocks[0].attn.qkv.weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert create_encoder("vit_micro_patch8", img_size=16).blocks[0].attn.qkv.weight.shape == weights(1).shape
