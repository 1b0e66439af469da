"""A classifier on the encoder: pooling, head, loss; frozen for probes. No data."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from backbones.errors import UserError, unknown
from tasks.classification.config import HeadConfig


class Classifier(nn.Module):
    """Encoder and linear head; ``(images, targets)`` -> loss in training mode, logits (N, classes) in evaluation.

    Pooling follows the official code (models_vit.py): `avg` averages the patch tokens and normalises the mean, the encoder's
    own last norm being dropped; `token` takes the class token after that norm.
    """

    def __init__(self, encoder: VisionTransformer, classes: int, config: HeadConfig, criterion: nn.Module) -> None:
        super().__init__()
        if config.pool not in ("avg", "token"):
            raise unknown("pooling", config.pool, ["avg", "token"], where="head.pool")
        if config.pool == "token" and not encoder.has_class_token:
            raise UserError("head.pool=token: this encoder has no class token: give --set head.pool=avg")
        if config.pool == "avg":
            encoder.norm = nn.Identity()
            encoder.fc_norm = nn.LayerNorm(encoder.embed_dim, eps=1e-6)
        encoder.global_pool = config.pool
        self.encoder = encoder
        linear = nn.Linear(encoder.embed_dim, classes)
        nn.init.trunc_normal_(linear.weight, std=config.init_std)
        nn.init.zeros_(linear.bias)
        norm = nn.BatchNorm1d(encoder.embed_dim, affine=False, eps=1e-6) if config.batch_norm else nn.Identity()
        self.head = nn.Sequential(norm, linear)
        self.criterion = criterion
        self.frozen = config.frozen_encoder
        # Positions are fixed in pre-training and trained here, as in the official code.
        encoder.requires_grad_(not self.frozen)

    def train(self, mode: bool = True) -> Classifier:
        """A frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, batch: Any) -> Any:
        """Training: ``{"loss": scalar}``; evaluation: logits. `batch` is (images (N, 3, H, W), targets)."""
        images, targets = batch
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.encoder(images)
        logits = self.head(features)
        if not self.training:
            return logits
        return {"loss": self.criterion(logits, targets)}

    def timm_state(self) -> dict[str, Tensor]:
        """Tensors under timm's and the official names (``head.weight``); with BatchNorm, ``head.0.*`` and ``head.1.*``."""
        head = self.head if isinstance(self.head[0], nn.BatchNorm1d) else self.head[1]
        return {**self.encoder.state_dict(), **{f"head.{k}": v for k, v in head.state_dict().items()}}
