"""The fake step against torch's own engine: the same gradients, bytes and operations."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from backbones.vit.encoder import create_encoder
from mae_bench.recipes.load import load_recipe
from mae_bench.rehearsal.fake_step import FusedAttention, Meter, autocast, backward
from tasks.pretraining.task import create_model


def mae() -> tuple[nn.Module, Tensor]:
    return create_model(load_recipe("pretrain/vit_micro_patch4_cifar10")), torch.rand(4, 3, 32, 32)  # type: ignore[arg-type]


def convolutions() -> tuple[nn.Module, Tensor]:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GELU(), nn.Flatten(), nn.Linear(8 * 30 * 30, 5))
    return net, torch.rand(4, 3, 32, 32)


def vit() -> tuple[nn.Module, Tensor]:
    return create_encoder("vit_micro_patch4", img_size=32, drop_path=0.1), torch.rand(4, 3, 32, 32)


NETS = [mae, convolutions, vit]


@pytest.mark.parametrize("make", NETS)
def test_the_walk_gives_the_engines_gradients(make: Callable[[], tuple[nn.Module, Tensor]]) -> None:
    model, images = make()
    twin = copy.deepcopy(model)
    for net, walk in ((model, True), (twin, False)):
        torch.manual_seed(0)
        loss = net(images).float().square().mean()
        backward([loss]) if walk else loss.backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("make", NETS)
def test_the_walk_holds_the_engines_memory_and_counts_its_operations(
    make: Callable[[], tuple[nn.Module, Tensor]],
) -> None:
    seen = []
    for walk in (True, False):
        with torch.device("meta"):
            model, _ = make()
        with FakeTensorMode(), Meter() as meter:
            model._apply(lambda t: torch.empty(t.shape, dtype=t.dtype, requires_grad=t.requires_grad))
            images = torch.empty(4, 3, 32, 32)
            loss = [model(images).float().square().mean()]
            if walk:
                backward(loss)
            else:
                last = loss.pop()
                last.backward()
                del last
        seen.append((meter.now, meter.operations, meter.peak))
    assert seen[0][:2] == seen[1][:2]
    assert seen[0][2] == pytest.approx(seen[1][2], rel=0.05)


@pytest.mark.parametrize("make", NETS)
def test_operations_are_those_of_torchs_counter(make: Callable[[], tuple[nn.Module, Tensor]]) -> None:
    model, images = make()
    with FlopCounterMode(display=False) as counter:
        model(images).float().square().mean().backward()
    with Meter() as meter:
        model(images).float().square().mean().backward()
    assert meter.operations == counter.get_total_flops() > 0


def test_a_gpus_types_and_kernels_stand_in_the_fake_step() -> None:
    with torch.device("meta"):
        model, _ = vit()
    with FakeTensorMode(), Meter() as meter, FusedAttention(), autocast("bf16"):
        model._apply(lambda t: torch.empty(t.shape, dtype=t.dtype, device="cuda", requires_grad=t.requires_grad))
        query = torch.empty(2, 4, 65, 32, device="cuda")
        assert nn.functional.scaled_dot_product_attention(query, query, query).dtype == torch.bfloat16
        assert nn.functional.layer_norm(query, (32,)).dtype == torch.float32  # on a CPU it would be bf16's
        assert model(torch.empty(2, 3, 32, 32, device="cuda")).device.type == "cuda"
    assert meter.now > 0
