"""Plain attention is taken on a CPU in bf16 alone, and computes what the fused one does."""

from __future__ import annotations

import pytest
import torch

from backbones.vit.attention import choose_attention
from backbones.vit.encoder import create_encoder


@pytest.mark.parametrize(
    ("device", "bf16", "fused"), [("cpu", True, False), ("cpu", False, True), ("cuda:0", True, True)]
)
def test_only_a_cpu_in_bf16_goes_without_the_fused_kernel(device: str, bf16: bool, fused: bool) -> None:
    encoder = create_encoder("vit_micro_patch8", img_size=32)
    choose_attention(encoder, device, bf16=bf16)
    assert [block.attn.fused_attn for block in encoder.blocks] == [fused] * 4


def test_both_ways_give_the_same_features_and_gradients() -> None:
    torch.manual_seed(0)
    encoder, images = create_encoder("vit_micro_patch8", img_size=32), torch.randn(2, 3, 32, 32)
    found = []
    for _ in range(2):
        features = encoder.forward_features(images)
        encoder.zero_grad()
        features.square().mean().backward()
        found.append((features.detach(), [p.grad.clone() for p in encoder.parameters()]))
        choose_attention(encoder, "cpu", bf16=True)
    (fused, fused_gradients), (plain, plain_gradients) = found
    torch.testing.assert_close(plain, fused, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(plain_gradients, fused_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
