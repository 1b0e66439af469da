"""The dense encoder computes what timm's own class does, whatever the ViT has; windows are timm's attention under a mask."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from backbones.vit.dense import DenseEncoder, takes_windows
from backbones.vit.rotary import rope_of_windows

SIZE = {"depth": 4, "embed_dim": 32, "num_heads": 2, "img_size": 64, "num_classes": 0, "dynamic_img_size": True}
VITS = {
    "learnt positions, norms of all kinds": ("vit_tiny_patch16_224", {"qk_norm": True, "init_values": 0.3}),
    "LayerScale and registers": ("vit_small_patch14_reg4_dinov2", {"patch_size": 16, "init_values": 0.3}),
    "pre-norm, no bias in the embedding": ("vit_base_patch16_clip_224", {}),
    "no class token, attention pooling": ("vit_base_patch16_siglip_224", {}),
    "RMSNorm, SwiGLU, norm of the embedding": ("aimv2_large_patch14_224", {"patch_size": 16}),
    "rotary, registers, LayerScale": ("vit_small_patch16_dinov3", {"init_values": 0.3}),
    "rotary, SwiGLU, sub-LN, q, k, v apart": ("eva02_tiny_patch14_224", {"patch_size": 16}),
    "rotary, q, k, v apart with scales": ("eva02_base_patch14_224", {"patch_size": 16}),
    "rotary, pre-norm": ("vit_pe_core_tiny_patch16_384", {}),
    "rotary beside learnt positions": ("vit_small_patch16_rope_ape_224", {}),
    "rotary, learnt a head and a block": ("vit_small_patch16_rope_mixed_224", {}),
}
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def made(name: str, args: dict[str, Any]) -> Any:
    """A micro model with random values in every tensor."""
    torch.manual_seed(0)
    net = timm.create_model(name, **{**SIZE, **args}).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert takes_windows(net)
    return net


@pytest.fixture(params=VITS.values(), ids=VITS)
def net(request: pytest.FixtureRequest) -> Any:
    return made(*request.param)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_global_attention_gives_timms_maps(net: Any, images: Tensor) -> None:
    expected = net.forward_intermediates(images, intermediates_only=True)
    dense = DenseEncoder(net, img_size=64, class_token=True, out_blocks=[0, 1, 2, 3], rel_pos_bias=True).eval()
    for ours, theirs in zip(dense(images), expected, strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


def windows_alone(grid: tuple[int, int], window: int, prefix: int) -> Tensor:
    """(T, T) bool: patches see their own window, prefix tokens themselves."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    place = (rows // window * grid[1] + columns // window).flatten()
    place = torch.cat([-1 - torch.arange(prefix), place])
    return place[:, None] == place


@pytest.mark.parametrize("rel_pos", [False, True])
@pytest.mark.parametrize("name", [name for name in VITS if "rotary" in name])
@torch.no_grad()
def test_windows_are_timms_attention_under_a_mask(name: str, images: Tensor, rel_pos: bool) -> None:
    """Rotary positions are then those of the whole image; relative tables start at zero and change nothing."""
    net = made(*VITS[name])
    mask = windows_alone((4, 4), 2, net.num_prefix_tokens)
    expected = net.forward_intermediates(images, intermediates_only=True, attn_mask=mask)[-1]
    dense = DenseEncoder(net, img_size=64, window_size=2, global_blocks=[], rel_pos=rel_pos).eval()
    torch.testing.assert_close(dense(images)[-1], expected, **CLOSE)


def test_padding_of_windows_is_not_rotated() -> None:
    rope = torch.arange(3 * 3 * 4.0).view(9, 4)
    windows = rope_of_windows(rope, (3, 3), (2, 2))
    assert windows.shape == (4, 1, 4, 4)
    assert torch.equal(windows[0, 0], rope[[0, 1, 3, 4]])
    assert torch.equal(windows[3, 0, 1:], torch.tensor([0.0, 0, 1, 1]).expand(3, 4))


@torch.no_grad()
def test_images_of_another_size_are_as_timms_own_resizing_has_them(images: Tensor) -> None:
    """Without learnt positions there is nothing to resample: rotary ones are computed for the grid."""
    net = made(*VITS["rotary, registers, LayerScale"])
    wide = torch.randn(1, 3, 48, 96)
    expected = net.forward_intermediates(wide, intermediates_only=True)[-1]
    dense = DenseEncoder(net, img_size=64, class_token=True).eval()
    torch.testing.assert_close(dense(wide)[-1], expected, **CLOSE)


@pytest.mark.parametrize(
    "name",
    [
        "vit_relpos_small_patch16_224",
        "vit_base_patch16_rpn_224",
        "vit_base_patch16_xp_224",
        "convnext_atto",
        "beit_base_patch16_224",
    ],
)
def test_other_nets_are_not_taken_for_a_plain_vit(name: str) -> None:
    with torch.device("meta"):
        assert not takes_windows(timm.create_model(name))


def test_every_parameter_gets_a_gradient(net: Any, images: Tensor) -> None:
    dense = DenseEncoder(net, img_size=64, window_size=2, rel_pos=True).train()
    dense(images)[-1].sum().backward()
    assert [name for name, p in dense.named_parameters() if p.grad is None] == []
