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

from backbones.checkpoints.architecture import fixed_positions
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


def test_a_configuration_without_preprocessing_has_timms_default_and_says_so(tmp_path: Path) -> None:
    path, _ = folder(tmp_path, "vit_tiny_patch16_224", TINY, pretrained_cfg={})
    found = load_checkpoint(path).preprocessing
    wanted = timm.data.resolve_data_config({}, pretrained_cfg={"architecture": "x"})
    assert (found.mean, found.std, found.crop_pct) == (wanted["mean"], wanted["std"], wanted["crop_pct"])
    assert {source for key, source in found.source.items() if key != "img_size"} == {"timm's default"}


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


def bare(path: Path, net: nn.Module, **changes: Any) -> Path:
    """The tensors of a net alone, in a file."""
    torch.save({**net.state_dict(), **changes}, path)
    return path


def one_block(name: str, **args: Any) -> nn.Module:
    return timm.create_model(name, num_classes=0, depth=1, **args)


def test_a_bare_file_of_mae_s_says_its_net_by_its_fixed_positions(tmp_path: Path) -> None:
    net = create_encoder("vit_w768_d1_h12_patch16", img_size=32)
    sources = load_checkpoint(bare(tmp_path / "weights.pth", net)).sources
    assert sources == {"net": "its fixed positions", "heads": "the standard size (base)"}


def test_a_bare_file_of_deit_says_its_net_by_names_and_shapes(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(bare(tmp_path / "weights.pth", one_block("deit_base_patch16_224", img_size=32)))
    assert "only plain ViTs" in checkpoint.sources["net"]
    assert not checkpoint.assumed


@torch.no_grad()
def test_rotary_positions_that_are_in_no_file_are_asked_for(tmp_path: Path) -> None:
    """RoPE-ViT with learnt positions has the very tensors of DeiT III as its authors publish it."""
    net = randomised(one_block("vit_base_patch16_rope_ape_224"))
    file = bare(tmp_path / "weights.pth", net)
    with pytest.raises(UserError, match=r"DeiT III and of a RoPE-ViT .*--arch timm:NAME"):
        load_checkpoint(file)
    assert load_checkpoint(f"plain:vit_w768_d1_h12_patch16={file}").sources["net"] == "--arch"
    (tmp_path / "weights.pth").rename(tmp_path / "deit_3_base_224_1k.pth")
    assert load_checkpoint(tmp_path / "deit_3_base_224_1k.pth").method == "DeiT III"


def test_a_plain_vit_by_names_and_shapes_alone_is_a_default_that_says_so(tmp_path: Path) -> None:
    """Residual post-norm without class token: both have the same tensors."""
    for name in ("vit_base_patch16_rpn_224", "vit_base_patch16_siglip_gap_224"):
        assumed = load_checkpoint(bare(tmp_path / "weights.pth", one_block(name, img_size=32))).assumed
        assert assumed.keys() == {"net", "heads"}
        assert "post-norm" in assumed["net"]
        assert "--arch" in assumed["net"]


@pytest.mark.parametrize(("width", "other"), [(192, "MAE-Lite"), (384, "MoCo v3")])
def test_heads_that_published_nets_of_a_width_have_not_alike_are_a_default(
    width: int, other: str, tmp_path: Path
) -> None:
    net = create_encoder(f"vit_w{width}_d1_h{width // 64}_patch16", img_size=32)
    assumed = load_checkpoint(bare(tmp_path / "weights.pth", net)).assumed
    assert assumed.keys() == {"heads"}
    assert other in assumed["heads"]


def test_moco_v3_s_positions_have_its_twelve_heads(tmp_path: Path) -> None:
    """Its linear probe's files have timm's names, and nothing else that tells MoCo v3's ViT-S from DeiT's."""
    net = create_encoder("vit_small_patch16", img_size=32)
    rows_first = fixed_positions("sincos_rows_first", 384, (2, 2), prefix_tokens=1)
    checkpoint = load_checkpoint(bare(tmp_path / "weights.pth", net, pos_embed=rows_first))
    assert checkpoint.arch == "vit_w384_d12_h12_patch16"
    assert "MoCo v3's" in checkpoint.assumed["heads"]


def test_arch_says_the_heads_of_a_plain_vit(tmp_path: Path, cli: Callable[..., Any]) -> None:
    file = bare(tmp_path / "weights.pth", create_encoder("vit_w384_d1_h6_patch16", img_size=32))
    result = cli("inspect", file, "--arch", "vit_w384_d1_h12_patch16", "--json")
    assert result.code == 0, result.err
    card = json.loads(result.out)
    assert (card["encoder"]["heads"], card["sources"]) == (12, {"net": "--arch", "heads": "--arch"})
    assert load_checkpoint(f"plain:vit_w384_d1_h12_patch16={file}").source.startswith("plain:vit_w384_d1_h12_patch16=/")
    for arch, said in [("vit_w384_d2_h12_patch16", "holds a vit_w384_d1_h12_patch16"), ("vit_base", "timm:NAME")]:
        wrong = cli("inspect", file, "--arch", arch)
        assert wrong.code == 2
        assert said in wrong.err


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("eva02_small_patch14_224", "a SwiGLU MLP"),
        ("vit_base_patch16_clip_224", "a norm before its blocks"),
        ("vit_small_patch16_rope_mixed_ape_224", "rotary positions"),
        ("vit_small_patch16_rope_224", "no positions in the file"),
        ("samvit_base_patch16", "positions of a map"),
        ("beit3_base_patch16_224", "norms inside its blocks"),
        ("cait_xxs24_224", "another attention"),
        ("xcit_nano_12_p16_224", "begins with one"),
        ("vit_tiny_r_s16_p8_224", "a convolutional stem"),
    ],
)
def test_a_bare_file_of_another_net_is_refused_by_what_it_is(name: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=what) as caught:
        load_checkpoint(bare(tmp_path / "weights.pth", one_block(name)))
    assert "--arch timm:NAME" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "args", "what"),
    [
        ("pvt_v2_b0", {}, "no positions in the file"),  # its keys and values lie in one tensor, its queries in another
        ("hiera_tiny_224", {"stages": (1, 1, 1, 1)}, "stages of several widths"),
    ],
)
def test_a_bare_file_of_stages_is_refused_by_what_it_is(
    name: str, args: dict[str, Any], what: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=what) as caught:
        load_checkpoint(bare(tmp_path / "weights.pth", timm.create_model(name, num_classes=0, **args)))
    assert "--arch timm:NAME" in str(caught.value)


@pytest.mark.parametrize("name", ["vit_base_patch16_siglip_gap_224", "vit_base_patch14_reg1_tipsv2"])
def test_a_mean_that_such_nets_do_not_share_is_asked_for(name: str, tmp_path: Path) -> None:
    """No class token, or other registers than DINOv2's: none of the families that ImageNet's mean is the default of."""
    found = load_checkpoint(bare(tmp_path / "weights.pth", one_block(name, img_size=56))).preprocessing
    assert found.mean is None
    assert found.source["mean"].startswith("not told")


def test_a_config_beside_a_file_of_another_name_is_said_to_be_unread(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "num_attention_heads": 3}))
    net = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1, img_size=32, embed_dim=96, num_heads=3)
    with pytest.raises(UserError, match=r"name it model\.safetensors") as caught:
        load_checkpoint(bare(tmp_path / "renamed.pth", net))
    assert "beside it" in str(caught.value)
    deit = bare(tmp_path / "renamed.pth", one_block("deit_tiny_patch16_224", img_size=32))
    assert "config.json beside it counts" in load_checkpoint(deit).sources["net"]


def test_layer_scale_makes_no_dinov2(tmp_path: Path) -> None:
    assert load_checkpoint(bare(tmp_path / "weights.pth", one_block("deit3_small_patch16_224"))).layout == "timm"


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
