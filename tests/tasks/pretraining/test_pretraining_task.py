"""The pre-training task: official augmentation, weight decay and export, on unlabelled images."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import transforms

from backbones.checkpoints.checkpoint import load_checkpoint
from backbones.errors import UserError
from backbones.files.tensor_files import save_tensors
from tasks.datasets.transforms import IMAGENET_MEAN, IMAGENET_STD
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
    task = PretrainingTask(recipe(root, decoder="pil"))
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


def test_fast_decoding_gives_the_same_but_for_rounding(root: Path) -> None:
    exact, fast = (PretrainingTask(recipe(root, **data)).train_dataset() for data in ({"decoder": "pil"}, {}))
    for i in range(12):
        torch.manual_seed(i)
        wanted, wanted_label = exact[i]
        torch.manual_seed(i)
        sample, label = fast[i]
        assert label == wanted_label
        assert (sample.int() - wanted.int()).abs().float().mean() < 0.5


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
    assert task.recipe.protocol == "pretrain"


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


# --- The switches of Table 1.


@pytest.mark.parametrize(
    ("mae", "part"),
    [
        ({"mask_sampling": "grid", "mask_ratio": 0.5}, "0.75 (2 x 2)"),
        ({"target": "pixel"}, 'did you mean "pixels"'),
        ({"target": "pca", "pca_components": 999}, "mae.pca_components=999"),
        ({"target": "tokens", "tokenizer": "/nowhere.safetensors"}, "mae.tokenizer=/nowhere.safetensors"),
    ],
)
def test_switches_are_checked_before_anything_is_trained(root: Path, mae: dict[str, Any], part: str) -> None:
    with pytest.raises(UserError) as caught:
        PretrainingTask(recipe(root, mae=mae))
    assert part in str(caught.value)


def test_switches_reach_the_model(root: Path) -> None:
    model = PretrainingTask(
        recipe(root, mae={"mask_sampling": "grid", "encoder_mask_tokens": True, "target": "pixels"})
    ).model
    assert (model.mask_sampling, model.encoder_mask_tokens, model.decoder_target.name) == ("grid", True, "pixels")


FITTED = [{"target": "pca", "pca_components": 12}, {"target": "tokens", "vocabulary": 20}]


@pytest.mark.parametrize("mae", FITTED, ids=["pca", "tokens"])
def test_fitted_targets_learn_from_training_patches_when_training_begins(root: Path, mae: dict[str, Any]) -> None:
    task = PretrainingTask(recipe(root, mae=mae))
    batch = torch.randn(2, 3, 32, 32)
    with pytest.raises(RuntimeError, match="neither fitted"):
        task.model(batch)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    task.train_dataset()
    assert torch.equal(torch.get_rng_state(), before), "a run's other draws stay what they are"
    task.model(batch).backward()


@pytest.mark.parametrize("mae", FITTED, ids=["pca", "tokens"])
def test_fitting_depends_on_seed_and_images_alone(root: Path, mae: dict[str, Any]) -> None:
    def fitted(seed: int, elsewhere: int) -> Any:
        torch.manual_seed(elsewhere)
        settings = recipe(root, mae=mae)
        settings.seed = seed
        task = PretrainingTask(settings)
        task.train_dataset()
        return next(task.model.decoder_target.buffers())

    assert torch.equal(fitted(0, elsewhere=1), fitted(0, elsewhere=2))
    assert not torch.equal(fitted(0, elsewhere=1), fitted(1, elsewhere=1))


@pytest.mark.parametrize("mae", FITTED, ids=["pca", "tokens"])
def test_what_was_fitted_resumes_and_is_exported(root: Path, tmp_path: Path, mae: dict[str, Any]) -> None:
    first = PretrainingTask(recipe(root, mae=mae))
    first.train_dataset()
    second = PretrainingTask(recipe(root, mae=mae))
    second.model.load_state_dict(first.model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    masking = first.model.draw_masking(2)
    assert torch.equal(first.model(images, masking), second.model(images, masking))
    files = first.export(first.model)
    buffers = {k for k in files["mae"] if k.startswith("decoder_target.")}
    assert buffers
    save_tensors(tmp_path / "mae.safetensors", files["mae"])
    loaded = load_checkpoint(tmp_path / "mae.safetensors")
    assert loaded.state.keys() == files["encoder"].keys()


def test_a_runs_codebook_serves_another_run(root: Path, tmp_path: Path) -> None:
    first = PretrainingTask(recipe(root, mae=FITTED[1]))
    first.train_dataset()
    path = tmp_path / "tokenizer.safetensors"
    save_tensors(path, first.export(first.model)["tokenizer"])
    second = PretrainingTask(recipe(root, mae={"target": "tokens", "tokenizer": str(path)}))
    second.train_dataset()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(second.model.decoder_target.tokenizer(images), first.model.decoder_target.tokenizer(images))
    # The tokenizer is part of what a job learns from, by its content and not by its name.
    assert second.data.fingerprint != first.data.fingerprint
    codebook = first.export(first.model)["tokenizer"]["codebook"]
    save_tensors(path, {"codebook": codebook + 1})
    third = PretrainingTask(recipe(root, mae={"target": "tokens", "tokenizer": str(path)}))
    assert third.data.fingerprint not in (first.data.fingerprint, second.data.fingerprint)
