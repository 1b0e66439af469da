"""`mae-bench inspect` says what a file is and what can be made of it; `convert` writes it in another layout."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from backbones.checkpoints.checkpoint import load_checkpoint
from backbones.errors import UserError
from backbones.files.tensor_files import save_tensors
from backbones.mae.model import MaskedAutoencoder
from backbones.vit.encoder import create_encoder
from mae_bench.checkpoint_tools import inspect as inspection
from mae_bench.checkpoint_tools.guess_target import guess_pixel_target
from mae_bench.checkpoint_tools.inspect import inspect, lines
from tasks import create_task, recipe_schema
from tasks.datasets.embedded.sources import PHOTOGRAPHS, photograph
from tasks.datasets.transforms import normalise
from tests.encoders import MAE

ARCH, SIZE = "vit_micro_patch8", 48


def official(path: Path, **args: Any) -> Path:
    """An official pre-training file of a micro model, with its command line if `args`."""
    model = MaskedAutoencoder(create_encoder(ARCH, img_size=SIZE), decoder_embed_dim=64, decoder_depth=2)
    content = {"model": {k.removeprefix("encoder."): v for k, v in model.state_dict().items()}}
    torch.save({**content, "args": argparse.Namespace(**args)} if args else content, path)
    return path


def test_card_of_an_official_checkpoint(tmp_path: Path) -> None:
    path = official(tmp_path / "checkpoint-799.pth", norm_pix_loss=True)
    card = inspect(path)
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (card["layout"], card["method"], card["published"], card["head"]) == ("mae", "MAE", None, None)
    assert card["encoder"] == {
        "arch": ARCH,
        "width": 128,
        "depth": 4,
        "heads": 4,
        "patch_size": 8,
        "img_size": [48, 48],
        "grid": [6, 6],
        "class_token": True,
        "registers": 0,
        "positions": "sincos",
        "relative_bias": False,
        "layer_scale": False,
        "final_norm": True,
    }
    decoder = card["decoder"]
    assert (decoder["width"], decoder["depth"], decoder["heads"], decoder["target"]) == (64, 2, 16, "pixels_norm")
    model = load_checkpoint(path).masked_autoencoder()
    total = sum(p.numel() for p in model.parameters())
    assert card["parameters"]["encoder"] + card["parameters"]["decoder"] == total
    assert set(card["tasks"].values()) == {"yes"}


def test_target_of_an_untrained_decoder_is_not_guessed(tmp_path: Path) -> None:
    decoder = inspect(official(tmp_path / "c.pth"))["decoder"]
    assert decoder["target"] is None
    assert "too poor to tell" in decoder["target_told_by"]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["pixels", "pixels_norm"])
def test_target_is_seen_from_what_a_trained_decoder_predicts(target: str) -> None:
    torch.manual_seed(0)
    encoder = create_encoder(ARCH, img_size=SIZE)
    model = MaskedAutoencoder(encoder, decoder_embed_dim=64, decoder_depth=2, decoder_num_heads=4, target=target)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1.5e-3)
    pictures = [photograph(name).resize((192, 192)) for name in list(PHOTOGRAPHS)[6:]]  # not those that it is judged by
    images = torch.stack([torch.frombuffer(bytearray(p.tobytes()), dtype=torch.uint8) for p in pictures])
    images = normalise(images.reshape(-1, 4, 48, 4, 48, 3).permute(0, 1, 3, 5, 2, 4).reshape(-1, 3, 48, 48), MAE)
    for _ in range(40):
        loss = model(images[torch.randperm(len(images))[:64]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert guess_pixel_target(model, MAE)[0] == target


def test_published_file_by_the_first_digits_of_its_md5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = official(tmp_path / "renamed.pth")
    monkeypatch.setattr(inspection, "digest_file", lambda path, algorithm: "8cad7c" + "0" * 26)
    known = inspection.known_file(path)
    assert known is not None
    assert (known["file"], known["by"]) == ("mae_pretrain_vit_base.pth", "md5")


def test_published_file_without_a_published_sum_by_its_name(tmp_path: Path) -> None:
    known = inspection.known_file(official(tmp_path / "mae_visualize_vit_base.pth"))
    assert known is not None
    assert known["by"] == "name"
    assert "not normalised" in known["content"]


def test_a_file_that_only_bears_a_published_name_is_not_taken_for_it(tmp_path: Path) -> None:
    assert inspection.known_file(official(tmp_path / "mae_pretrain_vit_base.pth")) is None


SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1}


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {k: torch.rand_like(v) for k, v in model.state_dict().items()}


@pytest.mark.parametrize(
    ("make", "impossible"),
    [
        (lambda: timm.create_model("beit_base_patch16_224", **SMALL), {"pretraining", "reconstruction"}),
        (lambda: timm.create_model("vit_small_patch14_reg4_dinov2", **SMALL), {"pretraining", "reconstruction"}),
        (lambda: VisionTransformer(**SMALL, global_pool="avg", num_classes=3), {"pretraining", "reconstruction"}),
        (lambda: create_encoder("vit_tiny_patch14", img_size=28), {"reconstruction"}),
        (lambda: create_encoder("vit_tiny_patch16", img_size=32), {"reconstruction"}),
    ],
)
def test_what_a_checkpoint_can_start(tmp_path: Path, make: Callable[[], nn.Module], impossible: set[str]) -> None:
    torch.save(state_of(make()), tmp_path / "c.pth")
    card = inspect(tmp_path / "c.pth")
    assert {task for task, answer in card["tasks"].items() if answer != "yes"} == impossible


def test_what_the_card_says_cannot_be_is_refused_by_the_task(tmp_path: Path) -> None:
    torch.save(state_of(timm.create_model("beit_base_patch16_224", **SMALL)), tmp_path / "c.pth")
    recipe = recipe_schema("pretraining")()
    with pytest.raises(UserError, match="cannot start pretraining: a relative position bias"):
        create_task(recipe, load_checkpoint(tmp_path / "c.pth"))


def test_lines_name_everything(tmp_path: Path) -> None:
    torch.save(state_of(VisionTransformer(**SMALL, global_pool="avg", num_classes=3)), tmp_path / "c.pth")
    text = dict(lines(inspect(tmp_path / "c.pth")))
    assert text["head"] == "3 classes, on the mean of the patches"
    assert "no final norm" in text["encoder"]
    assert text["positions"] == "learnt"
    assert text["decoder"] == "none"
    assert text["for classification"] == "yes"


def test_on_the_command_line(tmp_path: Path, cli: Callable[..., Any]) -> None:
    path = official(tmp_path / "c.pth", norm_pix_loss=False)
    shown = cli("inspect", path)
    assert shown.code == 0
    assert "fixed sin-cos" in shown.out
    card = json.loads(cli("inspect", path, "--json").out)
    assert card["decoder"]["target"] == "pixels"
    missing = cli("inspect", tmp_path / "absent.pth")
    assert missing.code == 2
    assert missing.err.count("\n") == 1
    assert not missing.out


def test_convert_on_the_command_line(tmp_path: Path, cli: Callable[..., Any]) -> None:
    path = official(tmp_path / "c.pth")
    assert cli("convert", path, "--to", "timm", "--out", tmp_path / "out.safetensors").code == 0
    ours, theirs = load_checkpoint(path).state, load_checkpoint(tmp_path / "out.safetensors").state
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    wrong = cli("convert", path, "--to", "tim", "--out", tmp_path / "out.pth")
    assert wrong.code == 2
    assert '"timm"' in wrong.err or "timm" in wrong.err
    suffix = cli("convert", path, "--to", "timm", "--out", tmp_path / "out.bin")
    assert suffix.code == 2
    assert ".pth or .safetensors" in suffix.err


def test_a_decoder_of_other_than_16_heads_has_no_official_layout(tmp_path: Path) -> None:
    from backbones.checkpoints.write_layouts import save_as

    model = MaskedAutoencoder(
        create_encoder(ARCH, img_size=SIZE), decoder_embed_dim=64, decoder_num_heads=4, decoder_depth=1
    )
    state = {k.removeprefix("encoder."): v for k, v in model.state_dict().items()}
    save_tensors(tmp_path / "mae.safetensors", state, {"pretraining": {"settings": {"mae.decoder_num_heads": 4}}})
    checkpoint = load_checkpoint(tmp_path / "mae.safetensors")
    with pytest.raises(UserError, match="4 heads"):
        save_as(checkpoint, tmp_path / "c.pth", "mae")


def test_names_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`timm:` and `hf:` go to these libraries; what they cannot fetch is one line."""
    import huggingface_hub

    asked: list[str] = []

    def snapshot(name: str, allow_patterns: list[str]) -> str:
        asked.append(name)
        return str(tmp_path)

    model = create_encoder(ARCH, img_size=SIZE)
    save_tensors(tmp_path / "model.safetensors", model.state_dict())
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert load_checkpoint("hf:facebook/vit-mae-base").arch == ARCH
    assert load_checkpoint("timm:vit_base_patch16_224.mae").arch == ARCH
    assert asked == ["facebook/vit-mae-base", "timm/vit_base_patch16_224.mae"]
    with pytest.raises(UserError, match="no such model"):
        load_checkpoint("timm:vit_bse_patch16")

    def offline(name: str, allow_patterns: list[str]) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(UserError, match="cannot be fetched") as caught:
        load_checkpoint("hf:facebook/vit-mae-base")
    assert "\n" not in str(caught.value)


def test_a_whole_detector_says_what_it_was_trained_for(tmp_path: Path) -> None:
    encoder = {
        f"backbone.net.dense.encoder.{k}": v for k, v in create_encoder(ARCH, img_size=SIZE).state_dict().items()
    }
    heads = {"proposal_generator.rpn_head.conv.weight": torch.zeros(3), "roi_heads.box_head.fc1.bias": torch.zeros(2)}
    torch.save({k: v for k, v in encoder.items() if ".head." not in k} | heads, tmp_path / "model.pth")
    card = inspect(tmp_path / "model.pth")
    assert (card["trained_for"], card["parameters"]["head"], card["left_aside"]) == ("detection", 5, [])
    assert "detection, evaluated with" in dict(lines(card))["head"]
