"""A classifier on the encoder: pooling, head, loss; frozen for probes, in part for partial fine-tuning. No data."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from timm.layers import AttentionPoolLatent
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from backbones.encoders.contract import Encoder
from backbones.errors import UserError
from backbones.vit.param_groups import freeze_below
from tasks.classification.config import HeadConfig
from tasks.classification.pooled import PooledEncoder


class Classifier(nn.Module):
    """Encoder and linear head; ``(images, targets)`` -> loss in training mode, logits (N, classes) in evaluation.

    Whatever the recipe's precision, the loss and the logits of evaluation are float32: logits in bf16 tie at the top.

    Pooling follows the official code (models_vit.py): `avg` averages the patch tokens and normalises the mean, the encoder's
    own last norm being dropped; `token` takes the class token after that norm. `attentive` is timm's ``map`` pooling. `own` is
    how the encoder pools for its own head. Encoders other than the plain ViT: `tasks.classification.pooled`.
    """

    def __init__(self, encoder: Encoder, classes: int, config: HeadConfig, criterion: nn.Module) -> None:
        super().__init__()
        vit = encoder.plain
        if vit is not None:
            _set_pooling(vit, config.pool)
        self.encoder = PooledEncoder(encoder, config.pool) if vit is None else vit
        width = self.encoder.width if isinstance(self.encoder, PooledEncoder) else encoder.width
        linear = nn.Linear(width, classes)
        nn.init.trunc_normal_(linear.weight, std=config.init_std)
        nn.init.zeros_(linear.bias)
        norm = nn.BatchNorm1d(width, affine=False, eps=1e-6) if config.batch_norm else nn.Identity()
        self.head = nn.Sequential(norm, linear)
        self.criterion = criterion
        self._trained = self.encoder.freeze(config) if vit is None else _trained(vit, config)

    def train(self, mode: bool = True) -> Classifier:
        """What is frozen stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        for module in self._trained:
            module.train(mode)
        return self

    def forward(self, batch: Any) -> Any:
        """Training: ``{"loss": scalar}``; evaluation: logits. `batch` is (images (N, 3, H, W), targets)."""
        images, targets = batch
        features = self.encoder(images)
        if self.training:
            return {"loss": self.criterion(_full(self.head(features)), targets)}
        with torch.autocast(features.device.type, enabled=False):
            return self.head(_full(features))

    @property
    def classifier(self) -> str:
        """The name that the linear layer is exported under."""
        return self.encoder.classifier if isinstance(self.encoder, PooledEncoder) else "head"

    def timm_state(self) -> dict[str, Tensor]:
        """Tensors under timm's and the official names (``head.weight``); with BatchNorm, ``head.0.*`` and ``head.1.*``."""
        encoder = self.encoder.encoder.net if isinstance(self.encoder, PooledEncoder) else self.encoder
        return {**encoder.state_dict(), **self.head_state()}

    def head_state(self) -> dict[str, Tensor]:
        """What is not the pre-trained encoder's of `timm_state`: pooling, its norm, linear layer."""
        layers = {f"{self.classifier}.{k}": v for k, v in self._linear().state_dict().items()}
        if isinstance(self.encoder, PooledEncoder):
            pooling = self.encoder.pooling.state_dict()
            return {**{f"{self.classifier}.pooling.{k}": v for k, v in pooling.items()}, **layers}
        own = self.encoder.state_dict()
        return {**{k: v for k, v in own.items() if k.startswith(("fc_norm.", "attn_pool."))}, **layers}

    def load_head(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `head_state`."""
        start = f"{self.classifier}."
        inside = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
        pooling = {k.removeprefix("pooling."): v for k, v in inside.items() if k.startswith("pooling.")}
        self._linear().load_state_dict({k: v for k, v in inside.items() if not k.startswith("pooling.")})
        if isinstance(self.encoder, PooledEncoder):
            self.encoder.pooling.load_state_dict(pooling)
            return
        outside = {k: v for k, v in state.items() if not k.startswith(start)}
        self.encoder.load_state_dict({**self.encoder.state_dict(), **outside})

    def _linear(self) -> nn.Module:
        return self.head if isinstance(self.head[0], nn.BatchNorm1d) else self.head[1]


def _full(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _set_pooling(encoder: VisionTransformer, pool: str) -> None:
    if pool == "own":
        return
    encoder.fc_norm = nn.Identity()
    if pool == "token" and not encoder.has_class_token:
        raise UserError("head.pool=token: this encoder has no class token: give --set head.pool=avg")
    if pool == "avg":
        encoder.norm = nn.Identity()
        encoder.fc_norm = nn.LayerNorm(encoder.embed_dim, eps=1e-6)
    if pool == "attentive":
        heads = encoder.blocks[0].attn.num_heads
        encoder.attn_pool = AttentionPoolLatent(
            encoder.embed_dim, num_heads=heads, norm_layer=partial(nn.LayerNorm, eps=1e-6)
        )
    encoder.global_pool = "map" if pool == "attentive" else pool


def _trained(encoder: VisionTransformer, config: HeadConfig) -> list[nn.Module]:
    """Freezes by the recipe and returns the encoder's modules that train; its positions, fixed in pre-training, are learnt."""
    pooling = [] if encoder.attn_pool is None else [encoder.attn_pool]
    if config.frozen_encoder:
        encoder.requires_grad_(False)
        trained: list[nn.Module] = []
    elif config.tune_blocks is not None:
        trained = freeze_below(encoder, config.tune_blocks)
    else:
        trained = [encoder.requires_grad_(True)]
    for module in pooling:
        module.requires_grad_(True)
    return [*trained, *pooling]
