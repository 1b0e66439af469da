"""The peers of `pretrain_step.py`: how each project's MAE is built, with the same sizes and objective. No timing.

Each takes what it needs from its own package, as that package is used by its own training: its attention, its optimiser's
default implementation. Imports stay inside the functions: a peer runs in a process that may lack the others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Sizes:
    """Width, depth and heads of encoder and decoder; images and patches in pixels."""

    width: int
    depth: int
    heads: int
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    img_size: int = 224
    patch: int = 16
    mask_ratio: float = 0.75


ARCHS = {
    "micro": Sizes(128, 2, 4, decoder_width=64, decoder_depth=1, decoder_heads=4, img_size=64),
    "base": Sizes(768, 12, 12),
    "large": Sizes(1024, 24, 16),
}


@dataclass(frozen=True)
class Peer:
    """A model, its loss on images (N, 3, H, W), how its project runs AdamW, and what to say of it."""

    model: nn.Module
    loss: Callable[[Tensor], Tensor]
    fused: bool | None  # None: torch's own choice
    note: str = ""
    prepare: Callable[[str], None] | None = None  # what its trainer does before training in "fp32" or "bf16"


def ours(sizes: Sizes, device: str, **_: Any) -> Peer:
    """This repository's model as `mae_bench.engine` trains it: fused AdamW, compiled on a GPU."""
    sys.path.insert(0, str(ROOT))
    from timm.models.vision_transformer import VisionTransformer

    from backbones.mae.model import MaskedAutoencoder
    from backbones.vit.attention import choose_attention
    from backbones.vit.encoder import initialise

    encoder = VisionTransformer(
        sizes.img_size, sizes.patch, embed_dim=sizes.width, depth=sizes.depth, num_heads=sizes.heads, num_classes=0
    )
    initialise(encoder)
    model = MaskedAutoencoder(
        encoder,
        decoder_embed_dim=sizes.decoder_width,
        decoder_depth=sizes.decoder_depth,
        decoder_num_heads=sizes.decoder_heads,
        mask_ratio=sizes.mask_ratio,
    ).to(device)
    if device == "cuda":
        model.compile()
    note = "torch.compile" if device == "cuda" else "eager"
    return Peer(model, model, True, note, lambda precision: choose_attention(model, device, bf16=precision == "bf16"))


def official(sizes: Sizes, device: str, official: str | None, official_timm: str | None, **_: Any) -> Peer:
    """facebookresearch/mae from a given checkout, eager, with torch's default AdamW as in main_pretrain.py."""
    if official is None:
        raise ModuleNotFoundError("no checkout was given (--official DIR)")
    sys.path.insert(0, str(ROOT))
    from tests.golden.official import make_importable

    timm = make_importable(Path(official), Path(official_timm) if official_timm else None)
    import models_mae

    model = models_mae.MaskedAutoencoderViT(
        img_size=sizes.img_size,
        patch_size=sizes.patch,
        embed_dim=sizes.width,
        depth=sizes.depth,
        num_heads=sizes.heads,
        decoder_embed_dim=sizes.decoder_width,
        decoder_depth=sizes.decoder_depth,
        decoder_num_heads=sizes.decoder_heads,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        norm_pix_loss=True,
    ).to(device)
    return Peer(model, lambda images: model(images, sizes.mask_ratio)[0], fused=None, note=f"timm {timm}, eager")


def huggingface(sizes: Sizes, device: str, **_: Any) -> Peer:
    """transformers' ViTMAEForPreTraining with its default attention and its Trainer's fused AdamW."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining, __version__

    config = ViTMAEConfig(
        hidden_size=sizes.width,
        num_hidden_layers=sizes.depth,
        num_attention_heads=sizes.heads,
        intermediate_size=4 * sizes.width,
        image_size=sizes.img_size,
        patch_size=sizes.patch,
        decoder_hidden_size=sizes.decoder_width,
        decoder_num_hidden_layers=sizes.decoder_depth,
        decoder_num_attention_heads=sizes.decoder_heads,
        decoder_intermediate_size=4 * sizes.decoder_width,
        layer_norm_eps=1e-6,
        mask_ratio=sizes.mask_ratio,
        norm_pix_loss=True,
    )
    model = ViTMAEForPreTraining(config).to(device)
    return Peer(
        model, lambda images: model(pixel_values=images).loss, fused=True, note=f"transformers {__version__}, eager"
    )


def stable_pretraining(sizes: Sizes, device: str, **_: Any) -> Peer:
    """stable-pretraining's `methods.MAE` with the AdamW of its example. Its decoder sees no class token."""
    from stable_pretraining import __version__
    from stable_pretraining.methods import MAE
    from timm.models.vision_transformer import VisionTransformer

    encoder = VisionTransformer(
        sizes.img_size, sizes.patch, embed_dim=sizes.width, depth=sizes.depth, num_heads=sizes.heads, num_classes=0
    )
    model = MAE(
        encoder,
        decoder_embed_dim=sizes.decoder_width,
        decoder_depth=sizes.decoder_depth,
        decoder_num_heads=sizes.decoder_heads,
        mask_ratio=sizes.mask_ratio,
        norm_pix_loss=True,
    ).to(device)
    return Peer(model, lambda images: model(images).loss, fused=None, note=f"stable-pretraining {__version__}, eager")


PEERS: dict[str, Callable[..., Peer]] = {
    "ours": ours,
    "official": official,
    "huggingface": huggingface,
    "stable-pretraining": stable_pretraining,
}


def create_optimizer(peer: Peer) -> torch.optim.AdamW:
    """AdamW with the values of the paper's Table 8 for a batch of 256, biases and norms without weight decay."""
    parameters = [p for p in peer.model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1.5e-4, betas=(0.9, 0.95), fused=peer.fused)
