"""Checkpoints: what is read is bit for bit what was written, in every wrapping; what is none is refused in one line."""

from __future__ import annotations

import argparse
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from backbones.checkpoints.checkpoint import Checkpoint, build_encoder, load_checkpoint
from backbones.errors import UserError
from backbones.files.tensor_files import save_tensors, sha256_file
from backbones.mae.model import MaskedAutoencoder
from backbones.vit.encoder import create_encoder
from backbones.vit.pos_embed import resample_grid, sincos_2d

ARCH = "vit_micro_patch8"


@pytest.fixture
def encoder() -> VisionTransformer:
    encoder = create_encoder(ARCH, img_size=48)
    for parameter in encoder.parameters():
        if parameter is not encoder.pos_embed:
            nn.init.normal_(parameter)
    return encoder


def official_state(encoder: VisionTransformer) -> dict[str, Tensor]:
    """The official pre-training layout: encoder and decoder side by side."""
    mae = MaskedAutoencoder(encoder, decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=2)
    return {k.removeprefix("encoder."): v for k, v in mae.state_dict().items()}


def assert_same(read: Checkpoint, written: nn.Module) -> None:
    state = written.state_dict()
    again = read.encoder().state_dict()
    assert read.state.keys() == again.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(read.state[name], tensor), name
        assert torch.equal(again[name], tensor), name


WRAPPINGS = {
    "bare": lambda state: state,
    "model": lambda state: {"model": state},
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "DDP": lambda state: {"model": {f"module.{k}": v for k, v in state.items()}},
    "compiled": lambda state: {f"_orig_mod.{k}": v for k, v in state.items()},
    "DDP, compiled": lambda state: {f"module._orig_mod.{k}": v for k, v in state.items()},
    "inside a model": lambda state: {f"encoder.{k}": v for k, v in state.items()},
    # What main_pretrain.py and timm's train.py write: the command line's arguments go along.
    "training checkpoint": lambda state: {
        "model": state,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "epoch": 399,
        "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(lr=1e-3, data_path="/data", betas=(0.9, 0.95), resume=None),
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_pth_is_read_bit_for_bit(tmp_path: Path, encoder: VisionTransformer, wrapping: str) -> None:
    path = tmp_path / "encoder.pth"
    torch.save(WRAPPINGS[wrapping](encoder.state_dict()), path)
    checkpoint = load_checkpoint(path)
    assert_same(checkpoint, encoder)
    assert (checkpoint.arch, checkpoint.img_size, checkpoint.layout) == (ARCH, (48, 48), "timm")
    assert checkpoint.sha256 == sha256_file(path)


def test_safetensors_are_read_bit_for_bit(tmp_path: Path, encoder: VisionTransformer) -> None:
    path = tmp_path / "encoder.safetensors"
    save_tensors(path, encoder.state_dict(), {"method": "MAE 800"})
    checkpoint = load_checkpoint(path)
    assert_same(checkpoint, encoder)
    assert (checkpoint.layout, checkpoint.method) == ("mae_bench", "MAE 800")
    assert list(tmp_path.iterdir()) == [path]  # nothing temporary is left


def test_run_folder_stands_for_its_encoder(tmp_path: Path, encoder: VisionTransformer) -> None:
    save_tensors(tmp_path / "encoder.safetensors", encoder.state_dict())
    assert load_checkpoint(tmp_path).path == tmp_path / "encoder.safetensors"
    assert_same(load_checkpoint(str(tmp_path)), encoder)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_decoder_is_left_out_of_an_official_pretraining_checkpoint(
    tmp_path: Path, encoder: VisionTransformer, suffix: str
) -> None:
    path = tmp_path / f"mae.{suffix}"
    state = official_state(encoder)
    if suffix == "pth":
        torch.save({"model": state}, path)
    else:
        safetensors.torch.save_file({k: v.detach().clone() for k, v in state.items()}, path)
    checkpoint = load_checkpoint(path)
    assert checkpoint.layout == "mae"
    assert_same(checkpoint, encoder)


def test_classification_head_is_left_out(tmp_path: Path, encoder: VisionTransformer) -> None:
    path = tmp_path / "classifier.pth"
    torch.save({**encoder.state_dict(), "head.weight": torch.zeros(10, 128), "head.bias": torch.zeros(10)}, path)
    assert_same(load_checkpoint(path), encoder)


def test_half_precision_weights_are_read_as_float32(tmp_path: Path, encoder: VisionTransformer) -> None:
    path = tmp_path / "half.pth"
    torch.save({k: v.bfloat16() for k, v in encoder.state_dict().items()}, path)
    state = load_checkpoint(path).encoder().state_dict()
    assert all(torch.equal(v, encoder.state_dict()[k].bfloat16().float()) for k, v in state.items())


@pytest.mark.parametrize("size", [96, (64, 32)])
def test_learnt_positions_are_resampled_for_another_image_size(
    tmp_path: Path, encoder: VisionTransformer, size: int | tuple[int, int]
) -> None:
    nn.init.normal_(encoder.pos_embed)
    save_tensors(tmp_path / "e.safetensors", encoder.state_dict())
    other = load_checkpoint(tmp_path / "e.safetensors").encoder(img_size=size)
    pos = other.pos_embed
    assert torch.equal(pos[:, :1], encoder.pos_embed[:, :1])
    assert torch.equal(pos[:, 1:], resample_grid(encoder.pos_embed[:, 1:], (6, 6), other.patch_embed.grid_size))


@pytest.mark.parametrize("size", [96, (64, 32)])
def test_fixed_positions_are_made_anew_for_another_image_size_but_resampled_in_transfer(
    tmp_path: Path, encoder: VisionTransformer, size: int | tuple[int, int]
) -> None:
    save_tensors(tmp_path / "e.safetensors", encoder.state_dict())
    checkpoint = load_checkpoint(tmp_path / "e.safetensors")
    other = checkpoint.encoder(img_size=size)
    assert torch.equal(other.pos_embed, sincos_2d(128, other.patch_embed.grid_size, prefix_tokens=1))
    onwards = build_encoder(ARCH, 96, 0.0, checkpoint, positions="regenerate").pos_embed  # pre-training goes on so
    assert torch.equal(onwards, sincos_2d(128, (12, 12), prefix_tokens=1))
    transfer = build_encoder(ARCH, 96, 0.0, checkpoint).pos_embed
    assert torch.equal(transfer[:, 1:], resample_grid(encoder.pos_embed[:, 1:], (6, 6), (12, 12)))


def test_recipe_takes_the_checkpoint_or_starts_from_scratch(tmp_path: Path, encoder: VisionTransformer) -> None:
    save_tensors(tmp_path / "e.safetensors", encoder.state_dict())
    checkpoint = load_checkpoint(tmp_path / "e.safetensors")
    built = build_encoder(ARCH, 48, 0.1, checkpoint)
    assert torch.equal(built.blocks[0].attn.qkv.weight, encoder.blocks[0].attn.qkv.weight)
    assert built.blocks[3].drop_path1.drop_prob == pytest.approx(0.1)
    scratch = build_encoder(ARCH, 48, 0.0, None)
    assert not torch.equal(scratch.blocks[0].attn.qkv.weight, encoder.blocks[0].attn.qkv.weight)


# --- Refusals: one line that names the file, nothing run, nothing half read.


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


class Malicious:
    """A pickle that makes a file when it is loaded carelessly."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("name", ["bad.pth", "bad.pt", "bad.bin"])
def test_pickle_that_runs_code_does_not_run_and_is_named(tmp_path: Path, encoder: VisionTransformer, name: str) -> None:
    target = tmp_path / "touched"
    torch.save({"model": encoder.state_dict(), "args": Malicious(target)}, tmp_path / name)
    checkpoint = load_checkpoint(tmp_path / name)
    assert_same(checkpoint, encoder)
    assert checkpoint.foreign == ("posix.mkdir",)
    assert not target.exists()
    torch.load(tmp_path / name, weights_only=False)  # the file is what it claims to be
    assert target.exists()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_file(tmp_path: Path, encoder: VisionTransformer, suffix: str, share: float) -> None:
    path = tmp_path / f"cut.{suffix}"
    if suffix == "pth":
        torch.save(encoder.state_dict(), path)
    else:
        save_tensors(path, encoder.state_dict())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refusal(path)


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "txt"])
def test_text_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"notes.{suffix}"
    path.write_text("notes of mine\n")
    assert "not a checkpoint" in refusal(path)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@given(content=st.binary(max_size=200))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"bytes.{suffix}"
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"model": {}}, torch.ones(3), {1: torch.ones(1)}])
def test_file_without_named_tensors(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "c.pth")
    refusal(tmp_path / "c.pth")


def test_a_tar_is_no_checkpoint_and_brings_no_advice_of_torch(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        tar.add(tmp_path / "a.txt", "a.txt")
    assert "weights_only" not in refusal(tmp_path / "data.tar")


def test_no_such_file(tmp_path: Path) -> None:
    assert "no such" in refusal(tmp_path / "absent.pth")


def test_folder_that_is_no_finished_run(tmp_path: Path) -> None:
    assert "encoder.safetensors" in refusal(tmp_path)


def test_missing_tensor(tmp_path: Path, encoder: VisionTransformer) -> None:
    state = encoder.state_dict()
    del state["blocks.2.mlp.fc1.bias"]
    torch.save(state, tmp_path / "c.pth")
    assert "missing blocks.2.mlp.fc1.bias" in refusal(tmp_path / "c.pth")


def test_missing_block(tmp_path: Path, encoder: VisionTransformer) -> None:
    state = {k: v for k, v in encoder.state_dict().items() if not k.startswith("blocks.1.")}
    torch.save(state, tmp_path / "c.pth")
    assert "missing blocks.1.attn" in refusal(tmp_path / "c.pth")


def test_unexpected_tensor(tmp_path: Path, encoder: VisionTransformer) -> None:
    torch.save({**encoder.state_dict(), "blocks.0.attn.gate.weight": torch.ones(128)}, tmp_path / "c.pth")
    assert "unexpected blocks.0.attn.gate.weight" in refusal(tmp_path / "c.pth")


@pytest.mark.parametrize(
    ("name", "shape"),
    [("blocks.0.attn.qkv.weight", (384, 64)), ("pos_embed", (1, 37, 64)), ("cls_token", (128,))],
)
def test_wrong_shape(tmp_path: Path, encoder: VisionTransformer, name: str, shape: tuple[int, ...]) -> None:
    torch.save({**encoder.state_dict(), name: torch.zeros(shape)}, tmp_path / "c.pth")
    message = refusal(tmp_path / "c.pth")
    assert name in message
    assert "shape" in message


@pytest.mark.parametrize("name", ["pos_embed", "patch_embed.proj.weight"])
@pytest.mark.parametrize("shape", [(), (128,), (1, 2, 3)])
def test_wrong_number_of_dimensions(
    tmp_path: Path, encoder: VisionTransformer, name: str, shape: tuple[int, ...]
) -> None:
    torch.save({**encoder.state_dict(), name: torch.zeros(shape)}, tmp_path / "c.pth")
    refusal(tmp_path / "c.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tensor_that_is_not_finite_is_named(tmp_path: Path, encoder: VisionTransformer, value: float) -> None:
    state = encoder.state_dict()
    state["blocks.3.norm2.bias"][5] = value
    torch.save(state, tmp_path / "c.pth")
    assert "blocks.3.norm2.bias" in refusal(tmp_path / "c.pth")


@pytest.mark.parametrize(
    ("names", "dtype"),
    [
        ("", torch.int8),
        ("blocks.3.attn.qkv.weight", torch.uint8),
        ("pos_embed", torch.int32),
        ("head.weight", torch.int8),
    ],
)
def test_whole_numbers_for_weights_are_refused(
    tmp_path: Path, encoder: VisionTransformer, names: str, dtype: torch.dtype
) -> None:
    state = {**encoder.state_dict(), "head.weight": torch.randn(5, 128), "head.bias": torch.zeros(5)}
    torch.save({k: (50 * v).to(dtype) if k.startswith(names) else v for k, v in state.items()}, tmp_path / "c.pth")
    message = refusal(tmp_path / "c.pth")
    assert f"holds {str(dtype).removeprefix('torch.')}, whole numbers: quantised weights mean nothing" in message


def test_resnet(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet.pth")
    assert "convolutional net" in refusal(tmp_path / "resnet.pth")


def test_linear_model(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "c.pth")
    assert "not a ViT" in refusal(tmp_path / "c.pth")


def test_vit_whose_number_of_heads_nothing_tells(tmp_path: Path) -> None:
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=96, depth=3, num_heads=3, num_classes=0)
    torch.save(vit.state_dict(), tmp_path / "c.pth")
    assert "how many heads a ViT of width 96 has" in refusal(tmp_path / "c.pth")


def test_positions_that_form_no_square_need_the_image_size(tmp_path: Path) -> None:
    vit = create_encoder(ARCH, img_size=(64, 32))
    torch.save(vit.state_dict(), tmp_path / "c.pth")
    assert "no square grid" in refusal(tmp_path / "c.pth")
    assert load_checkpoint(tmp_path / "c.pth", img_size=(64, 32)).img_size == (64, 32)


@pytest.mark.parametrize("size", [(32, 128), (128, 32), (16, 256)])
def test_fixed_positions_of_an_oblong_are_not_taken_for_a_square_of_learnt_ones(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    torch.save(create_encoder(ARCH, img_size=size).state_dict(), tmp_path / "c.pth")
    assert f"a grid of {size[0] // 8} x {size[1] // 8} patches: say the image size" in refusal(tmp_path / "c.pth")
    assert load_checkpoint(tmp_path / "c.pth", img_size=size).img_size == size


def test_architecture_that_the_recipe_does_not_want(tmp_path: Path, encoder: VisionTransformer) -> None:
    save_tensors(tmp_path / "e.safetensors", encoder.state_dict())
    checkpoint = load_checkpoint(tmp_path / "e.safetensors")
    with pytest.raises(UserError) as caught:
        build_encoder("vit_base_patch16", 224, 0.0, checkpoint)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(checkpoint.path), ARCH, "vit_base_patch16", f"--set encoder.arch={ARCH}"):
        assert part in message


def test_a_folder_of_runs_is_refused_with_the_runs_that_lie_in_it(tmp_path: Path) -> None:
    for run in ("finetune/a", "linear/b"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "model.safetensors").touch()
    with pytest.raises(UserError, match=r"or a finished run's folder, such as \S+/finetune/a, \S+/linear/b$"):
        load_checkpoint(tmp_path)
