"""The encoder: timm's `VisionTransformer` under the paper's architecture names; no heads, no masking.

timm's class and parameter names are the canonical form everywhere: tasks attach to it, checkpoints are read into it.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from backbones.errors import UserError
from backbones.vit.arch import parse_arch
from backbones.vit.pos_embed import sincos_2d
from backbones.vit.relative import add_relative_attention


def create_encoder(
    arch: str,
    *,
    img_size: int | tuple[int, int] = 224,
    drop_path: float = 0.0,
    relative_bias: bool = False,
    **timm_kwargs: Any,
) -> VisionTransformer:
    """A ViT encoder with class token and MAE's initialisation, without a classification head.

    Args:
        arch: ``vit_{micro,mini,tiny,small,base,large,huge}_patch{P}``, or ``vit_w{WIDTH}_d{DEPTH}_h{HEADS}_patch{P}``.
        img_size: pixels, height and width when two are given; multiples of the patch size.
        drop_path: stochastic depth rate of the last block, growing linearly from 0.
        relative_bias: BEiT's relative position bias in every block (`backbones.vit.relative`), zero.
        timm_kwargs: passed on to timm's `VisionTransformer`.
    """
    width, depth, heads, patch = parse_arch(arch)
    size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if size[0] % patch or size[1] % patch:
        raise UserError(
            f"image size {size[0]}x{size[1]} is not a multiple of the patch size of {arch}: change img_size"
        )
    encoder = VisionTransformer(
        img_size=size,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        num_classes=0,
        drop_path_rate=drop_path,
        weight_init="skip",
        **timm_kwargs,
    )
    if relative_bias:
        add_relative_attention(encoder, encoder.patch_embed.grid_size)
    initialise(encoder)
    return encoder


@torch.no_grad()
def initialise(encoder: VisionTransformer) -> None:
    """MAE's initialisation (App. A.1): xavier-uniform linear layers and patch embedding, sin-cos positions."""
    encoder.apply(initialise_linear)
    # The patch embedding is treated as the linear layer that it is; its bias keeps PyTorch's default, as in the
    # official code (models_mae.py).
    nn.init.xavier_uniform_(encoder.patch_embed.proj.weight.flatten(1))
    if encoder.cls_token is not None:
        nn.init.normal_(encoder.cls_token, std=0.02)
    if encoder.reg_token is not None:
        nn.init.normal_(encoder.reg_token, std=0.02)
    if encoder.pos_embed is None:
        return
    prefix = 0 if encoder.no_embed_class else encoder.num_prefix_tokens
    encoder.pos_embed.copy_(sincos_2d(encoder.embed_dim, encoder.patch_embed.grid_size, prefix))


def initialise_linear(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for linear layers, ones and zeros for layer norms."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm) and module.elementwise_affine:
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
