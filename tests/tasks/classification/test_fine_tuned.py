"""Evaluation of a fine-tuned checkpoint in the official layout, by its own head, against timm's model of the same weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from backbones.checkpoints.checkpoint import load_checkpoint
from backbones.errors import UserError
from tasks.classification.config import ClassificationRecipe, HeadConfig
from tasks.classification.task import ClassificationTask
from tasks.datasets.imagenet import class_subset, synsets
from tasks.datasets.transforms import normalise
from tasks.recipe import DataConfig, EncoderConfig, OptimizerConfig, ScheduleConfig
from tests.conftest import Result
from tests.encoders import MAE
from tests.tasks.pictures import make_folders, save_picture

CLASSES = 3


def official(classes: int = CLASSES, pool: str = "avg") -> VisionTransformer:
    """A micro ViT as main_finetune.py has it: mean of the patch tokens, `fc_norm`, no `norm`; weights drawn."""
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=224, patch_size=16, embed_dim=128, depth=4, num_heads=4, num_classes=classes, global_pool=pool
    )
    for p in model.parameters():
        nn.init.normal_(p, std=0.15)
    return model.eval()


def save(path: Path, model: VisionTransformer) -> Path:
    """With what main_finetune.py stores beside the weights."""
    torch.save({"model": model.state_dict(), "optimizer": {}, "epoch": 99, "scaler": {}, "args": {"epochs": 100}}, path)
    return path


def recipe(root: Path, pool: str = "avg", batch_norm: bool = False) -> ClassificationRecipe:
    return ClassificationRecipe(
        encoder=EncoderConfig(arch="vit_micro_patch16", img_size=224),
        data=DataConfig(name="mine", root=str(root)),
        head=HeadConfig(pool=pool, batch_norm=batch_norm),
        optimizer=OptimizerConfig(lr=0.0),
        schedule=ScheduleConfig(iterations=0),
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures larger than the crop, so that it matters."""
    tmp_path = tmp_path_factory.mktemp("pictures")
    for c, name in enumerate(("ant", "bee", "cat")):
        (tmp_path / "data" / "val" / name).mkdir(parents=True)
        for i in range(5):
            pixels = np.random.RandomState(10 * c + i).randint(0, 256, (9, 13, 3)).astype(np.uint8)
            Image.fromarray(pixels).resize((400, 300)).save(tmp_path / "data" / "val" / name / f"{i}.png")
    return tmp_path / "data"


def expected(model: VisionTransformer, root: Path) -> tuple[Tensor, Tensor]:
    """Logits and labels by timm alone: its evaluation transform (256, 224, bicubic) and its model."""
    transform: Any = create_transform(224, interpolation="bicubic", crop_pct=224 / 256)
    files = sorted((root / "val").glob("*/*.png"))
    images = torch.stack([transform(Image.open(f).convert("RGB")) for f in files])
    with torch.no_grad():
        return model(images), torch.tensor([("ant", "bee", "cat").index(f.parent.name) for f in files])


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_logits_are_those_of_timm(tmp_path: Path, root: Path, pool: str) -> None:
    model = official(pool=pool)
    task = ClassificationTask(recipe(root, pool), load_checkpoint(save(tmp_path / "ft.pth", model)))
    logits, _ = expected(model, root)
    dataset: Any = task.val_dataset()
    images = normalise(torch.stack([torch.as_tensor(dataset[i][0]) for i in range(len(dataset))]), MAE)
    with torch.no_grad():
        torch.testing.assert_close(task.model.eval()((images, None)), logits, rtol=1e-4, atol=1e-4)
    assert logits.std() > 0.1


def test_the_command_prints_what_timm_computes(cli: Callable[..., Result], tmp_path: Path, root: Path) -> None:
    """As in FINETUNE.md: Acc@1, Acc@5 and loss of a file, without training."""
    model = official()
    result = cli(
        *("run", "--checkpoint", save(tmp_path / "mae_finetuned.pth", model), "--data", f"imagenet={root}"),
        *("--tasks", "finetune/vit_base_patch16_imagenet", "--set", "encoder.arch=vit_micro_patch16", "--json"),
        *("--set", "schedule.iterations=0", "--set", "schedule.epochs=null", "--set", "train.precision=fp32"),
        *("--set", "train.workers=0", "--set", "train.compile=false", "--out", tmp_path / "out"),
    )
    assert result.code == 0, result.err
    metrics = json.loads(result.out)[0]["metrics"]["last"]
    logits, labels = expected(model, root)
    assert metrics["images"] == 15
    assert metrics["top1"] == pytest.approx(100 * (logits.argmax(1) == labels).double().mean().item())
    assert metrics["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-4)


def test_a_test_set_is_evaluated_by_the_command(cli: Callable[..., Result], tmp_path: Path) -> None:
    """ImageNet-A: three classes of the 200, a head of 1000."""
    model = official(classes=1000)
    classes = class_subset("imagenet_a")
    for c in (0, 50, 199):
        for i in range(3):
            save_picture(tmp_path / "a" / synsets()[classes[c]] / f"{i}.png", seed=10 * c + i, size=(256, 256))
    result = cli(
        *("run", "--checkpoint", save(tmp_path / "mae_finetuned.pth", model), "--data", f"imagenet_a={tmp_path / 'a'}"),
        *("--tasks", "robustness/vit_base_patch16_imagenet_a", "--set", "encoder.arch=vit_micro_patch16", "--json"),
        *("--set", "train.precision=fp32", "--set", "train.workers=0", "--out", tmp_path / "out"),
    )
    assert result.code == 0, result.err
    record = json.loads(result.out)[0]
    assert (record["protocol"], record["data"]["classes"], record["data"]["val_count"]) == ("robustness", 1000, 9)
    transform: Any = create_transform(224, interpolation="bicubic", crop_pct=224 / 256)
    files = [sorted((tmp_path / "a" / synsets()[classes[c]]).iterdir()) for c in (0, 50, 199)]
    with torch.no_grad():
        logits = model(torch.stack([transform(Image.open(f)) for group in files for f in group]))[:, classes]
    labels = torch.tensor([0, 50, 199]).repeat_interleave(3)
    assert record["metrics"]["last"]["loss"] == pytest.approx(
        nn.functional.cross_entropy(logits, labels).item(), rel=1e-4
    )
    assert not list((tmp_path / "out").rglob("*.safetensors")), "nothing was trained"


def test_official_fine_tuned_files_are_rows_of_mae(tmp_path: Path) -> None:
    """Their positions have been trained, so that nothing in them tells; their names do."""
    assert load_checkpoint(save(tmp_path / "mae_finetuned_vit_base.pth", official())).method == "MAE"
    assert load_checkpoint(save(tmp_path / "deit_finetuned.pth", official())).method == "deit_finetuned"


def refused(path: Path, recipe: ClassificationRecipe) -> str:
    with pytest.raises(UserError) as caught:
        ClassificationTask(recipe, load_checkpoint(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_class_count_names_both(tmp_path: Path, root: Path) -> None:
    message = refused(save(tmp_path / "ft.pth", official(classes=1000)), recipe(root))
    assert f"its head has 1000 classes, --data mine={root} has 3" in message


def test_head_on_other_features_says_how(tmp_path: Path, root: Path) -> None:
    assert "--set head.pool=token" in refused(save(tmp_path / "a.pth", official(pool="token")), recipe(root))
    assert "--set head.pool=avg" in refused(save(tmp_path / "b.pth", official()), recipe(root, pool="token"))


def test_without_a_head_there_is_nothing_to_evaluate(tmp_path: Path, root: Path) -> None:
    model = official(pool="token")
    torch.save({k: v for k, v in model.state_dict().items() if not k.startswith("head.")}, tmp_path / "mae.pth")
    assert "holds no classification head" in refused(tmp_path / "mae.pth", recipe(root, pool="token"))


def test_training_starts_with_a_new_head(tmp_path: Path) -> None:
    """Also where the class counts agree: a fine-tuned file is then one more place to start from."""
    model = official()
    training = recipe(make_folders(tmp_path / "data"))
    training.schedule = ScheduleConfig(epochs=1)
    task = ClassificationTask(training, load_checkpoint(save(tmp_path / "ft.pth", model)))
    assert task.model.head[1].weight.abs().max() < 1e-3
    assert torch.equal(task.model.encoder.blocks[0].mlp.fc1.weight, model.blocks[0].mlp.fc1.weight)


def test_our_own_probe_is_evaluated_with_its_statistics(tmp_path: Path, root: Path) -> None:
    """What a linear probe exports (BatchNorm and linear layer) comes back to the same logits."""
    model = ClassificationTask(recipe(root, "token", batch_norm=True)).model
    nn.init.normal_(model.head[1].weight)
    model.head[0].running_mean.normal_()
    torch.save(model.timm_state(), tmp_path / "probe.pth")
    again = ClassificationTask(recipe(root, "token", batch_norm=True), load_checkpoint(tmp_path / "probe.pth")).model
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(again.eval()((images, None)), model.eval()((images, None)))
    assert "--set head.batch_norm=true" in refused(tmp_path / "probe.pth", recipe(root, "token"))


def test_scratch_takes_no_checkpoint(tmp_path: Path, root: Path) -> None:
    scratch = recipe(root)
    scratch.from_scratch = True
    message = refused(save(tmp_path / "ft.pth", official()), scratch)
    assert "--scratch vit_micro_patch16" in message


def test_test_sets_only_evaluate(root: Path) -> None:
    robustness = recipe(root)
    robustness.test_set = "imagenet_a"
    with pytest.raises(UserError, match="only evaluates: give --checkpoint"):
        ClassificationTask(robustness)
