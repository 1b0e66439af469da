"""Encoders are timm ViTs of the paper's sizes with MAE's initialisation; unknown names are answered with the nearest."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from torch import nn

from backbones.errors import UserError, unknown
from backbones.vit.arch import SIZES, arch_name, parse_arch
from backbones.vit.encoder import create_encoder
from backbones.vit.pos_embed import sincos_2d


@pytest.mark.parametrize(
    ("arch", "timm_name"),
    [
        ("vit_tiny_patch16", "vit_tiny_patch16_224"),
        ("vit_small_patch16", "vit_small_patch16_224"),
        ("vit_base_patch16", "vit_base_patch16_224"),
        ("vit_large_patch16", "vit_large_patch16_224"),
        ("vit_huge_patch14", "vit_huge_patch14_224"),
    ],
)
def test_names_and_shapes_are_timms(arch: str, timm_name: str) -> None:
    with torch.device("meta"):
        ours, theirs = create_encoder(arch), timm.create_model(timm_name, num_classes=0)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert ours.blocks[0].attn.num_heads == theirs.blocks[0].attn.num_heads
    assert ours.norm.eps == theirs.norm.eps == 1e-6


def test_paper_sizes_have_the_published_parameter_counts() -> None:
    # models_vit.py with 1,000 classes: 86.6 M, 304.3 M and 632.0 M (the sizes usually quoted for B/16, L/16, H/14).
    for arch, millions in (("vit_base_patch16", 86.6), ("vit_large_patch16", 304.3), ("vit_huge_patch14", 632.0)):
        with torch.device("meta"):
            encoder = create_encoder(arch)
        count = sum(p.numel() for p in encoder.parameters()) + 1000 * (encoder.embed_dim + 1)
        assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize("size", SIZES)
def test_names_and_sizes_are_each_others_inverse(size: str) -> None:
    assert arch_name(*parse_arch(f"vit_{size}_patch8")) == f"vit_{size}_patch8"


def test_initialisation_is_maes() -> None:
    torch.manual_seed(0)
    encoder = create_encoder("vit_micro_patch8", img_size=48)
    assert torch.equal(encoder.pos_embed, sincos_2d(128, (6, 6), prefix_tokens=1))
    assert encoder.cls_token.std().item() == pytest.approx(0.02, rel=0.3)
    linears = {n: m for n, m in encoder.named_modules() if isinstance(m, nn.Linear)}
    weights = {n: m.weight for n, m in linears.items()} | {"patch": encoder.patch_embed.proj.weight.flatten(1)}
    for name, weight in weights.items():
        bound = math.sqrt(6 / sum(weight.shape))  # Xavier-uniform
        assert 0.98 * bound < weight.abs().max() <= bound, name
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05), name
    assert all(m.bias.abs().sum() == 0 for m in linears.values())
    norms = [m for m in encoder.modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 9
    assert all(torch.equal(m.weight, torch.ones(128)) and m.bias.abs().sum() == 0 for m in norms)


def test_drop_path_grows_linearly_to_the_last_block() -> None:
    encoder = create_encoder("vit_micro_patch8", img_size=32, drop_path=0.3)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in encoder.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_image_sides_may_differ() -> None:
    encoder = create_encoder("vit_micro_patch8", img_size=(16, 32))
    assert encoder.patch_embed.grid_size == (2, 4)
    assert encoder(torch.randn(1, 3, 16, 32)).shape == (1, 128)


@pytest.mark.parametrize(
    ("arch", "hint"),
    [
        ("vit_bse_patch16", 'did you mean "vit_base_patch16"?'),
        ("resnet50", "vit_SIZE_patchP"),
        ("vit_base_patch0", "vit_SIZE_patchP"),
        ("vit_base", "vit_SIZE_patchP"),
    ],
)
def test_unknown_architecture_is_named_with_a_way_out(arch: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_arch(arch)
    assert arch in str(caught.value)
    assert hint in str(caught.value)


def test_image_size_must_be_a_multiple_of_the_patch() -> None:
    with pytest.raises(UserError, match=r"50x50 is not a multiple of the patch size of vit_micro_patch8"):
        create_encoder("vit_micro_patch8", img_size=50)


def test_unknown_names_the_nearest_option_or_all() -> None:
    assert str(unknown("task", "detecton", ["detection", "segmentation"])) == (
        'unknown task "detecton": did you mean "detection"?'
    )
    assert str(unknown("task", "zzz", ["b", "a"], where="file.yaml")) == 'unknown task "zzz" in file.yaml: known: a, b'
    assert str(unknown("task", "zzz", [])) == 'unknown task "zzz": known: none'
