"""Where encoders come from: timm's folders and names, weights at hand; and what each bad input is told, in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from timm.models import save_for_hf
from torch import nn

from backbones.checkpoints.checkpoint import load_checkpoint
from backbones.encoders.contract import Encoder
from backbones.encoders.timm_models import TimmModel
from backbones.errors import UserError
from backbones.vit.encoder import create_encoder

TINY = {"depth": 1, "img_size": 32}


def randomised(net: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net.eval()


def folder(path: Path, name: str, args: dict[str, Any], **changes: Any) -> tuple[Path, Any]:
    """A folder as timm writes it, some of its ``config.json`` changed, and the model."""
    net = randomised(timm.create_model(name, num_classes=0, **args))
    save_for_hf(net, path, model_args=args, safe_serialization=True)
    config = path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    return path, net


# Nets whose tensors have a plain ViT's names, or nearly, and that compute something else.
LOOKALIKES: list[tuple[str, dict[str, Any]]] = [
    ("vit_base_patch16_rpn_224", {**TINY, "embed_dim": 64, "num_heads": 1}),
    ("vit_small_patch16_rope_ape_224", TINY),
    ("vit_small_patch16_rope_224", TINY),
    ("vit_base_patch16_xp_224", {**TINY, "embed_dim": 64, "num_heads": 1}),
    ("vit_base_patch16_clip_quickgelu_224", {**TINY, "embed_dim": 64, "num_heads": 2}),
    ("vit_tiny_patch16_224", {**TINY, "num_heads": 6}),
    ("vit_tiny_patch16_224", {**TINY, "qk_norm": True}),
    ("vit_tiny_patch16_224", {**TINY, "init_values": 0.1, "class_token": False, "global_pool": "avg"}),
    ("beit_base_patch16_224", {**TINY, "embed_dim": 64, "num_heads": 1}),
]


@pytest.mark.parametrize(("name", "args"), LOOKALIKES, ids=lambda v: v if isinstance(v, str) else "")
@torch.no_grad()
def test_the_configuration_decides_which_net_the_tensors_are(name: str, args: dict[str, Any], tmp_path: Path) -> None:
    path, net = folder(tmp_path, name, args)
    encoder = load_checkpoint(path).open().eval()
    image = torch.randn(1, 3, 32, 32)
    theirs = net.forward_features(image)
    assert ((encoder(image) - theirs).norm() / theirs.norm()).item() < 1e-5
    pooled = net.forward_head(theirs, pre_logits=True)
    assert ((encoder.pool(encoder(image), "own") - pooled).norm() / pooled.norm()).item() < 1e-5


def test_preprocessing_is_the_configuration_s(tmp_path: Path) -> None:
    path, net = folder(tmp_path, "vit_tiny_patch16_224", TINY)
    found = load_checkpoint(path).preprocessing
    wanted = timm.data.resolve_model_data_config(net)
    assert (found.mean, found.std) == (tuple(wanted["mean"]), tuple(wanted["std"]))
    assert (found.interpolation, found.crop_pct) == (wanted["interpolation"], wanted["crop_pct"])
    assert found.img_size == (32, 32)
    assert set(found.source.values()) == {"config.json"}


@torch.no_grad()
def test_weights_at_hand_of_a_named_model(tmp_path: Path) -> None:
    net = randomised(timm.create_model("vit_wee_patch16_reg1_gap_256", num_classes=7))
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    checkpoint = load_checkpoint(f"timm:vit_wee_patch16_reg1_gap_256={tmp_path / 'weights.pth'}")
    assert checkpoint.head.keys() >= {"head.weight", "head.bias"}
    assert checkpoint.source == f"timm:vit_wee_patch16_reg1_gap_256={tmp_path / 'weights.pth'}"
    image = torch.randn(1, 3, 256, 256)
    torch.testing.assert_close(checkpoint.open().eval()(image), net.forward_features(image))
    assert load_checkpoint(checkpoint.source).identity == checkpoint.identity


def test_a_name_is_fetched_and_read_by_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    net = randomised(timm.create_model("vit_small_patch16_dinov3.lvd1689m", num_classes=0))
    safetensors.torch.save_file(net.state_dict(), tmp_path / "model.safetensors")
    asked: list[tuple[str, list[str]]] = []

    def snapshot(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    checkpoint = load_checkpoint("timm:vit_small_patch16_dinov3.lvd1689m")
    assert asked == [("timm/vit_small_patch16_dinov3.lvd1689m", ["model.safetensors"])]
    assert (checkpoint.method, checkpoint.plain) == ("vit_small_patch16_dinov3.lvd1689m", None)
    assert checkpoint.preprocessing.source["mean"] == "timm's registry (vit_small_patch16_dinov3.lvd1689m)"


def vit(**changes: Any) -> dict[str, torch.Tensor]:
    return dict(create_encoder("vit_tiny_patch16", img_size=32, **changes).state_dict())


def test_bad_input_is_one_line_with_the_way_out(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(vit(), file)
    cases: list[tuple[str, str]] = [
        ("timm:vit_small_patch16_dinov3.nothing", "no such model"),
        ("timm:no_such_model", "no such model"),
        (f"timm:vit_tiny_patch16_224={file}", "pos_embed has shape"),  # of 32 px: another model than that of 224
        (f"timm:vit_small_patch16_224={file}", "it wants"),
        (f"timm:convnext_atto={file}", "is no whole convnext_atto"),
    ]
    for source, said in cases:
        with pytest.raises(UserError, match=said) as caught:
            load_checkpoint(source)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "vit_of_tomorrow"}, "does not have"),
        ({"architecture": "convnext_atto"}, "convnext_atto"),
        ({"model_args": {"depth": 2, "img_size": 32}}, "missing blocks.1"),
        ({"model_args": {"depth": 1, "img_size": 32, "no_such_argument": 3}}, "timm cannot build it"),
        ({"model_args": {"depth": 1, "img_size": 32, "in_chans": 4}}, "takes 4 channels"),
    ],
)
def test_configuration_and_tensors_that_disagree(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    path, _ = folder(tmp_path, "vit_tiny_patch16_224", TINY, **changes)
    with pytest.raises(UserError, match=said) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("channels", [1, 4, 12])
def test_other_than_three_channels_are_refused(channels: int, tmp_path: Path) -> None:
    path, net = folder(tmp_path / "m", "vit_tiny_patch16_224", {**TINY, "in_chans": channels})
    with pytest.raises(UserError, match=f"takes {channels} channels"):
        load_checkpoint(path)
    torch.save(net.state_dict(), tmp_path / "bare.pth")
    with pytest.raises(UserError, match=r"patch_embed\.proj\.weight has shape"):
        load_checkpoint(tmp_path / "bare.pth")


@pytest.mark.parametrize("width", [1152, 1408, 1536])
def test_heads_of_a_width_of_no_standard_size_are_asked_for(width: int, tmp_path: Path) -> None:
    """These have 16, 16 and 24 heads; width / 64 gave 18, 22 and 24."""
    net = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1, img_size=32, embed_dim=width, num_heads=16)
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"how many heads .*--arch timm:NAME"):
        load_checkpoint(tmp_path / "weights.pth")


def test_heads_of_a_standard_size_say_where_they_are_from(tmp_path: Path) -> None:
    torch.save(vit(), tmp_path / "weights.pth")
    assert load_checkpoint(tmp_path / "weights.pth").sources["heads"] == "the standard size (tiny)"


def test_a_result_of_an_encoder_that_is_no_plain_vit_is_read_again(tmp_path: Path) -> None:
    """As `mae_bench.jobs.run` writes it: timm's configuration and the preprocessing that was used go along."""
    from backbones.files.tensor_files import save_tensors

    path, net = folder(tmp_path / "m", "vit_small_patch16_rope_224", TINY)
    source = load_checkpoint(path)
    assert isinstance(source.architecture, TimmModel)
    said = {
        "method": "mine",
        "arch": source.arch,
        "timm": source.architecture.as_config(),
        "preprocessing": {**source.preprocessing.as_dict(), "mean": [0.1, 0.2, 0.3]},
    }
    head = {"head.weight": torch.zeros(5, 384), "head.bias": torch.zeros(5)}
    save_tensors(tmp_path / "model.safetensors", {**net.state_dict(), **head}, said)
    found = load_checkpoint(tmp_path / "model.safetensors")
    assert (found.method, found.arch, found.task) == ("mine", source.arch, "classification")
    assert found.preprocessing.mean == (0.1, 0.2, 0.3)
    assert found.head.keys() == head.keys()
    assert isinstance(found.open(), Encoder)


def test_arch_names_the_model_of_a_bare_file(cli: Callable[..., Any], tmp_path: Path) -> None:
    net = randomised(timm.create_model("vit_wee_patch16_reg1_gap_256", num_classes=0))
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    result = cli("inspect", tmp_path / "weights.pth", "--arch", "timm:vit_wee_patch16_reg1_gap_256", "--json")
    assert result.code == 0, result.err
    card = json.loads(result.out)
    assert card["preprocessing"]["mean"] == list(timm.data.resolve_model_data_config(net)["mean"])
    assert "timm's registry" in card["preprocessing"]["source"]["mean"]
    assert cli("inspect", tmp_path / "weights.pth", "--arch", "vit_wee").code == 2
    people = cli("inspect", tmp_path / "weights.pth", "--arch", "timm:vit_wee_patch16_reg1_gap_256").out
    assert "preprocessing" in people
    assert "timm's registry" in people
