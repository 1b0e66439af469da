"""Encoders for tests of tasks: the plain ViT from scratch, or one that is there, under the contract that tasks take."""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer

from backbones.checkpoints.checkpoint import open_encoder
from backbones.encoders.contract import Encoder
from backbones.encoders.preprocessing import Preprocessing, family_default
from backbones.vit.arch import arch_name
from tasks.recipe import EncoderConfig

MAE = family_default((224, 224), "a test")


def scratch(arch: str, img_size: int = 224, drop_path: float = 0.0) -> Encoder:
    """As tasks open it with ``--scratch``."""
    return open_encoder(EncoderConfig(arch, img_size, drop_path), None)


def of_vit(vit: VisionTransformer, told: Preprocessing = MAE) -> Encoder:
    """A plain ViT under the contract."""
    arch = arch_name(vit.embed_dim, len(vit.blocks), vit.blocks[0].attn.num_heads, vit.patch_embed.patch_size[0])
    return Encoder(vit, told, arch=arch, plain=True, img_size=vit.patch_embed.img_size)


def used(img_size: int, crop_ratio: float | None = None) -> Preprocessing:
    """What a task makes of MAE's preprocessing at `img_size`."""
    from tasks.datasets.transforms import at_evaluation

    return at_evaluation(MAE, img_size, crop_ratio)
