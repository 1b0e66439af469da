"""Which of timm's two ways of computing attention a model takes; both give the same up to rounding."""

from __future__ import annotations

import torch
from timm.layers import use_fused_attn
from torch import nn


def choose_attention(model: nn.Module, device: torch.device | str, *, bf16: bool) -> None:
    """Takes the quicker way for training on `device`, in place: on a CPU in bf16 plain products, else what timm chooses.

    That is torch's fused kernel. On a CPU in bf16 its backward pass takes three to seven times as long as two products and
    a softmax (torch 2.14, AVX-512 with bf16), which makes up some 15 % of a step of MAE with ViT-B. The plain way keeps an
    attention map, tokens², for each head, block and image until the backward pass.
    """
    fused = use_fused_attn() and not (bf16 and torch.device(device).type == "cpu")
    for module in model.modules():
        if isinstance(getattr(module, "fused_attn", None), bool):
            module.fused_attn = fused  # type: ignore[assignment]
