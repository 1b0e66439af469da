"""The pre-training task: official augmentation, weight decay and export, on unlabelled images."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import transforms

from backbones.checkpoint import load_checkpoint
from backbones.errors import UserError
from backbones.tensor_files import save_tensors
from tasks.data import IMAGENET_MEAN, IMAGENET_STD
from tasks.pretraining.config import CropConfig, MAEConfig, PretrainingRecipe
from tasks.pretraining.task import PretrainingTask
from tasks.recipe import DataConfig, EncoderConfig, OptimizerConfig
from tests.tasks.pictures import make_folders, truncate

SMALL = {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 2}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folders(tmp_path / "data")


def recipe(root: Path, augmentation: CropConfig | None = None, mae: dict[str, Any] | None = None, **data: Any) -> Any:
    return PretrainingRecipe(
        encoder=EncoderConfig(arch="vit_micro_patch8", img_size=32),
        data=DataConfig(name="mine", root=str(root), **data),
        optimizer=OptimizerConfig(blr=1.5e-4, betas=[0.9, 0.95]),
        mae=MAEConfig(**(SMALL | (mae or {}))),
        augmentation=augmentation or CropConfig(),
    )


def test_input_is_that_of_the_official_transform(root: Path) -> None:
    task = PretrainingTask(recipe(root))
    # main_pretrain.py: crop of 20 to 100 %, bicubic; flip; tensor; ImageNet's mean and deviation.
    official = transforms.Compose(
        [
            transforms.RandomResizedCrop(32, scale=(0.2, 1.0), interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    dataset = task.train_dataset()
    for i in range(12):
        torch.manual_seed(i)
        wanted = official(task.images.read(i)[0])
        torch.manual_seed(i)
        sample, label = dataset[i]
        prepared = task.prepare_batch([sample.unsqueeze(0), torch.tensor([label])])
        torch.testing.assert_close(prepared[0], wanted, rtol=1e-5, atol=1e-6)


def test_flip_can_be_turned_off(root: Path) -> None:
    def views(hflip: bool) -> set[bytes]:
        dataset = PretrainingTask(recipe(root, CropConfig(scale=[1.0, 1.0], hflip=hflip))).train_dataset()
        pictures = set()
        for seed in range(8):
            torch.manual_seed(seed)
            random.seed(seed)
            pictures.add(dataset[0][0].numpy().tobytes())
        return pictures

    assert len(views(False)) < len(views(True))


def test_a_batch_gives_a_loss_that_trains_all_but_the_positions(root: Path) -> None:
    task = PretrainingTask(recipe(root))
    batch = next(iter(DataLoader(task.train_dataset(), batch_size=4)))
    task.model.train()(task.prepare_batch(batch)).backward()
    without = {n for n, p in task.model.named_parameters() if p.grad is None}
    assert without == {"encoder.pos_embed", "decoder_pos_embed"}
    given = {id(p) for group in task.param_groups() for p in group["params"]}
    assert given == {id(p) for n, p in task.model.named_parameters() if n not in without}


def test_exports_are_checkpoints_of_both_layouts(root: Path, tmp_path: Path) -> None:
    task = PretrainingTask(recipe(root))
    files = task.export(task.model)
    assert set(files) == {"encoder", "mae"}
    for name, tensors in files.items():
        save_tensors(tmp_path / f"{name}.safetensors", tensors)
        state = load_checkpoint(tmp_path / f"{name}.safetensors").state
        assert state.keys() == files["encoder"].keys()
        assert all(torch.equal(v, task.model.encoder.state_dict()[k]) for k, v in state.items())
    assert {"mask_token", "decoder_embed.weight", "decoder_pos_embed", "decoder_pred.bias"} <= files["mae"].keys()


def test_pretraining_goes_on_from_a_checkpoint(root: Path, tmp_path: Path) -> None:
    first = PretrainingTask(recipe(root))
    save_tensors(tmp_path / "encoder.safetensors", first.export(first.model)["encoder"])
    second = PretrainingTask(recipe(root), load_checkpoint(tmp_path / "encoder.safetensors"))
    for name, tensor in first.model.encoder.state_dict().items():
        assert torch.equal(second.model.encoder.state_dict()[name], tensor), name


def test_there_is_nothing_to_evaluate(root: Path) -> None:
    task = PretrainingTask(recipe(root))
    assert task.val_dataset() is None
    assert task.primary_metric == ""
    assert task.recipe.protocol() == "pretrain"


def test_task_knows_its_data(root: Path) -> None:
    data = PretrainingTask(recipe(root, limit_train=7)).data
    assert (data.train_count, data.val_count, data.split) == (7, 0, "train")


def test_truncated_jpeg_stops_the_run_or_is_counted(root: Path) -> None:
    truncate(root / "train" / "cat" / "0.jpg")
    dataset = PretrainingTask(recipe(root)).train_dataset()
    with pytest.raises(UserError, match=r"cat/0\.jpg"):
        [dataset[i] for i in range(12)]
    data = PretrainingTask(recipe(root, skip_broken=True)).data
    assert (data.train_count, data.notes) == (11, ["1 unreadable training images left out"])


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, 1.5])
def test_mask_ratio_must_be_a_share(root: Path, ratio: float) -> None:
    with pytest.raises(UserError, match=r"mae\.mask_ratio"):
        PretrainingTask(recipe(root, mae={"mask_ratio": ratio}))


@pytest.mark.parametrize("mae", [{"mask_ratio": 0.99}, {"decoder_embed_dim": 30}, {"decoder_num_heads": 5}])
def test_sizes_that_do_not_fit_together_are_one_line(root: Path, mae: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"mae\.") as caught:
        PretrainingTask(recipe(root, mae=mae))
    assert "\n" not in str(caught.value)
