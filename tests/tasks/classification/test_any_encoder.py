"""Classifiers on nets that are no plain ViT: what trains, at which rate, what is exported, and that a killed run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import nn

from backbones.checkpoints.checkpoint import Checkpoint, load_checkpoint
from backbones.errors import UserError
from backbones.files.tensor_files import save_tensors
from mae_bench.engine.loop import fit
from tasks.classification.config import ClassificationRecipe, HeadConfig
from tasks.classification.load_head import load_head
from tasks.classification.model import Classifier
from tasks.classification.task import ClassificationTask
from tasks.recipe import DataConfig, EncoderConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from tests.tasks.pictures import make_folders

VIT = {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 32}
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "clip": ("vit_base_patch16_clip_224", VIT),
    "siglip": ("vit_base_patch16_siglip_224", VIT),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}),
    "swin": ("swin_tiny_patch4_window7_224", {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2)}),
    "hiera": ("hiera_tiny_224", {"embed_dim": 16, "num_heads": 1, "stages": (1, 1, 1, 1), "img_size": 64}),
}


def checkpoint(folder: Path, name: str) -> Checkpoint:
    model, args = NETS[name]
    torch.manual_seed(0)
    save_for_hf(
        timm.create_model(model, num_classes=0, **args), folder / name, model_args=args, safe_serialization=True
    )
    return load_checkpoint(folder / name)


def classifier(source: Checkpoint, size: int, **head: Any) -> Classifier:
    torch.manual_seed(1)
    return Classifier(source.open(img_size=size), 3, HeadConfig(init_std=0.1, **head), nn.CrossEntropyLoss())


@pytest.mark.parametrize(
    ("name", "pool"),
    [("clip", "avg"), ("siglip", "own"), ("convnext", "own"), ("hiera", "avg"), ("swin", "own"), ("clip", "attentive")],
)
def test_an_exported_model_gives_the_same_logits_when_read_back(name: str, pool: str, tmp_path: Path) -> None:
    source = checkpoint(tmp_path, name)
    model = classifier(source, 96, pool=pool).eval()
    said = {"arch": source.arch, "method": "a", "timm": source.architecture.as_config(96)}  # type: ignore[union-attr]
    save_tensors(tmp_path / "model.safetensors", model.timm_state(), said)
    again = load_checkpoint(tmp_path / "model.safetensors")
    other = classifier(again, 96, pool=pool).eval()
    load_head(other, again, "--data mine=DIR")
    images = torch.randn(2, 3, 96, 96)
    assert torch.equal(other((images, None)), model((images, None)))
    with pytest.raises(UserError, match=rf"head is on other features than the recipe's: give --set head.pool={pool}"):
        load_head(classifier(again, 96, pool="own" if pool != "own" else "avg"), again, "--data mine=DIR")


@pytest.mark.parametrize("name", NETS)
def test_a_probe_trains_its_head_alone_and_stays_in_evaluation_mode(name: str, tmp_path: Path) -> None:
    model = classifier(checkpoint(tmp_path, name), 96, pool="avg", frozen_encoder=True, batch_norm=True).train()
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["head.1.weight", "head.1.bias"]
    assert not any(module.training for module in model.encoder.modules() if not isinstance(module, nn.Identity))


def test_partial_fine_tuning_counts_the_nets_own_layers(tmp_path: Path) -> None:
    source = checkpoint(tmp_path, "clip")
    model = classifier(source, 32, pool="token", tune_blocks=1).train()
    trained = {name.split(".net.")[-1].split(".attn")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in trained if name.startswith("blocks")} >= {"blocks.1"}
    assert not any(name.startswith(("blocks.0", "patch_embed")) for name in trained)
    assert model.encoder.encoder.net.blocks[1].training  # type: ignore[union-attr,index]
    assert not model.encoder.encoder.net.blocks[0].training  # type: ignore[union-attr,index]
    with pytest.raises(UserError, match="has 2 layers behind its embeddings: give 0 to 2"):
        classifier(source, 32, pool="token", tune_blocks=0.5)


def recipe(data: Path, source: Checkpoint) -> ClassificationRecipe:
    return ClassificationRecipe(
        encoder=EncoderConfig(source.arch, 32),
        data=DataConfig("mine", str(data)),
        optimizer=OptimizerConfig(lr=1e-2, layer_decay=0.5),
        schedule=ScheduleConfig(iterations=4),
        train=TrainConfig(batch_size=4, workers=0, checkpoint_every_steps=1),
    )


class Killed(Exception):
    pass


def test_a_run_that_was_killed_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    data, source = make_folders(tmp_path / "data"), checkpoint(tmp_path, "clip")

    def task() -> ClassificationTask:
        torch.manual_seed(0)
        return ClassificationTask(recipe(data, source), source)

    whole = fit(task(), tmp_path / "whole").model
    dying = task()
    forward, calls = dying.prepare_batch, iter(range(3))

    def prepare(batch: Any) -> Any:
        if next(calls, None) is None:
            raise Killed
        return forward(batch)

    dying.prepare_batch = prepare  # type: ignore[method-assign]
    with pytest.raises(Killed):
        fit(dying, tmp_path / "killed")
    again = fit(task(), tmp_path / "killed").model
    for (name, ours), theirs in zip(again.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def test_layer_decay_follows_the_nets_layers(tmp_path: Path) -> None:
    data, source = make_folders(tmp_path / "data"), checkpoint(tmp_path, "clip")
    task = ClassificationTask(recipe(data, source), source)
    rate = {p: group["lr_scale"] for group in task.param_groups() for p in group["params"]}
    found = {name: rate[p] for name, p in task.model.named_parameters() if p.requires_grad}
    assert (
        found["encoder.encoder.net.patch_embed.proj.weight"] == found["encoder.encoder.net.norm_pre.weight"] == 0.5**3
    )
    assert found["encoder.encoder.net.blocks.0.mlp.fc1.weight"] == 0.5**2
    assert found["encoder.encoder.net.blocks.1.mlp.fc1.weight"] == 0.5
    assert found["head.1.weight"] == found["encoder.pooling.weight"] == 1
