"""Activations that are computed again: the same gradients to the bit, fewer tensors kept, for every net under the contract."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from backbones.encoders.contract import Encoder
from backbones.errors import UserError
from backbones.mae.model import MaskedAutoencoder
from backbones.vit.blocks import blocks_of, recompute
from backbones.vit.dense import DenseEncoder
from backbones.vit.encoder import create_encoder

_SMALL: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def timms(name: str, **args: Any) -> nn.Module:
    return timm.create_model(name, num_classes=0, **args)


def plain(**args: Any) -> nn.Module:
    return create_encoder("vit_w32_d3_h2_patch8", img_size=32, **args)


class Dense(nn.Module):
    """ViTDet's windows and relative positions."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.dense = DenseEncoder(net, img_size=32, window_size=2, rel_pos=True, out_blocks=[0, 1])

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack(self.dense(images))


class Own(nn.Module):
    """A net of the user's, whose blocks draw random numbers and normalise over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        block = [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GELU(), nn.Dropout(0.3), nn.Conv2d(8, 8, 1)]
        self.layers = nn.ModuleList(nn.Sequential(*copy.deepcopy(block)) for _ in range(3))

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for layer in self.layers:
            x = x + layer(x)
        return x


def wrapped() -> Encoder:
    told: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic", "crop_pct": 0.9}
    return Encoder.wrap(Own(), img_size=32, layers=["layers.0", "layers.1", "layers.2"], **told)


# What makes the net, and how many blocks it has. The last three families are as Hugging Face's files become timm's models.
NETS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "plain ViT, drop path": (lambda: plain(drop_path=0.5), 3),
    "plain ViT, dropout": (lambda: plain(proj_drop_rate=0.3, pos_drop_rate=0.1), 3),
    "MAE with decoder": (lambda: mae(), 5),
    "dense encoder": (lambda: Dense(plain(drop_path=0.5)), 2),
    "dense encoder of a rotary net": (lambda: Dense(timms("vit_small_patch16_dinov3", **_SMALL)), 2),
    "DINOv3": (lambda: timms("vit_small_patch16_dinov3", **_SMALL), 2),
    "Swin": (lambda: timms("swin_tiny_patch4_window7_224", img_size=64, window_size=4, embed_dim=24), 12),
    "ConvNeXt": (lambda: timms("convnext_atto", depths=(1, 1, 2, 1), dims=(8, 16, 24, 32), drop_path_rate=0.5), 5),
    "batch norms": (lambda: timms("resnet18"), 8),
    "plug-in": (wrapped, 3),
}


def mae() -> nn.Module:
    return MaskedAutoencoder(plain(drop_path=0.3), decoder_embed_dim=16, decoder_depth=2, decoder_num_heads=2)


def step(net: nn.Module, images: Tensor) -> tuple[dict[str, Tensor], int]:
    """Gradients and buffers after a training step, and numbers kept for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = net.train()(images)
    found.square().mean().backward()
    gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return {**gradients, **dict(net.named_buffers())}, sum(kept.values())


@pytest.mark.parametrize("precision", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("name", NETS)
def test_gradients_are_the_same_to_the_bit(name: str, precision: torch.dtype) -> None:
    make, count = NETS[name]
    torch.manual_seed(0)
    net = make().to(precision)
    images = torch.rand(2, 3, 64 if name == "Swin" else 32, 64 if name == "Swin" else 32, dtype=precision)
    again = copy.deepcopy(net)
    names = list(net.state_dict())
    assert len(blocks_of(again)) == count
    recompute(blocks_of(again))
    assert list(again.state_dict()) == names
    (wanted, kept), (found, kept_again) = step(net, images), step(copy.deepcopy(again), images)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[key], found[key]) for key in wanted)
    assert kept_again < kept


def test_blocks_in_evaluation_and_without_gradient_are_computed_once() -> None:
    net, images = plain(), torch.rand(1, 3, 32, 32)
    recompute(blocks_of(net))
    calls: list[str] = []
    net.blocks[1].norm2.register_forward_hook(lambda *_: calls.append("norm"))
    net.eval()(images).sum().backward()
    with torch.no_grad():
        net.train()(images)
    assert len(calls) == 2
    net(images).sum().backward()
    assert len(calls) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MAE with decoder", "dense encoder"])
def test_compiled_gradients_are_those_of_kept_activations(name: str) -> None:
    torch.manual_seed(0)
    net = NETS[name][0]()
    again = copy.deepcopy(net)
    recompute(blocks_of(again))
    images = torch.rand(2, 3, 32, 32)
    for each in (net, again):
        torch._dynamo.reset()
        # Graphs for forward and backward pass, random numbers included, but kernels of torch's own.
        each.compile(backend="aot_eager_decomp_partition", fullgraph=name != "MAE with decoder")
    wanted, found = step(net, images)[0], step(again, images)[0]
    for key in wanted:
        torch.testing.assert_close(found[key], wanted[key], msg=key)


def test_what_cannot_be_recomputed_is_refused() -> None:
    with pytest.raises(UserError, match=r"does not go with train\.compile=true in a net with batch norms"):
        recompute(blocks_of(timms("resnet18")), compiled=True)
    assert blocks_of(timms("vgg11")) == []
