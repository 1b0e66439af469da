"""Encoders of any family with the pooling of a classifier: images in, (N, C) out. The plain ViT's pooling is in `model`."""

from __future__ import annotations

from functools import partial

from timm.layers import AttentionPoolLatent
from torch import Tensor, nn

from backbones.encoders.contract import Encoder
from backbones.errors import UserError
from tasks.classification.config import HeadConfig

_HEAD_WIDTH = 64  # of the attentive pooling, as ViTs have it


class PooledEncoder(nn.Module):
    """Normalised images (N, 3, H, W) -> features (N, `width`).

    `avg`: mean of the patch tokens or of the map, then a new norm; `token`: the class token; `attentive`: a learnt query over
    the patch tokens; `own`: as the encoder pools for its own head. The encoder keeps its final norm.
    """

    def __init__(self, encoder: Encoder, pool: str) -> None:
        super().__init__()
        if pool == "token" and not encoder.class_token:
            raise UserError(f"head.pool=token: {encoder.arch} has no class token: give --set head.pool=own")
        self.encoder = encoder
        self.kind = pool
        self.width = encoder.own_width if pool == "own" else encoder.width
        self.pooling: nn.Module = nn.Identity()
        norm = partial(nn.LayerNorm, eps=1e-6)
        if pool == "avg":
            self.pooling = norm(self.width)
        if pool == "attentive":
            self.pooling = AttentionPoolLatent(self.width, num_heads=max(1, self.width // _HEAD_WIDTH), norm_layer=norm)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        features = self.encoder(images)
        if self.kind == "attentive":
            pooled: Tensor = self.pooling(self.encoder.patches(features))
            return pooled
        kind = {"avg": "mean", "token": "cls", "own": "own"}[self.kind]
        return self.pooling(self.encoder.pool(features, kind))

    def freeze(self, config: HeadConfig) -> list[nn.Module]:
        """Freezes by the recipe; returns the modules that train. What a task does not use is frozen: it would get no gradient.

        Raises:
            UserError: half a block, or more layers than there are.
        """
        self.requires_grad_(False)
        if config.frozen_encoder:
            trained: set[str] = set()
        elif config.tune_blocks is None:
            trained = {name for name, _ in self.encoder.named_parameters()}
        else:
            trained = self._last(config.tune_blocks)
        unused = () if self.kind == "own" else self.encoder.own_pooling
        for name, parameter in self.encoder.named_parameters():
            parameter.requires_grad_(name in trained and not name.startswith(unused))
        if not (config.frozen_encoder and self.kind == "avg"):  # the norm of a linear probe on the mean is not learnt
            self.pooling.requires_grad_(True)
        if all(
            parameter.requires_grad or name.startswith(unused) for name, parameter in self.encoder.named_parameters()
        ):
            return [self]
        learnt = [self.pooling] if any(p.requires_grad for p in self.pooling.parameters()) else []
        return [*_wholly_trained(self.encoder), *learnt]

    def _last(self, tune_blocks: float) -> set[str]:
        count = self.encoder.head_layer - 1  # without the embeddings
        if tune_blocks not in range(count + 1):
            raise UserError(
                f"head.tune_blocks={tune_blocks:g}: {self.encoder.arch} has {count} layers behind its embeddings: "
                f"give 0 to {count}"
            )
        first = 0 if tune_blocks == count else self.encoder.head_layer - int(tune_blocks)
        return {name for name, layer in self.encoder.layer_of.items() if layer >= first}

    @property
    def classifier(self) -> str:
        """What timm calls the layer behind this net's features: heads are exported under that name, and found by it."""
        names = (getattr(self.encoder.net, "pretrained_cfg", None) or {}).get("classifier") or "head"
        return names if isinstance(names, str) else str(names[0])


def _wholly_trained(module: nn.Module) -> list[nn.Module]:
    """The largest submodules whose parameters all train: they alone leave evaluation mode."""
    found: list[nn.Module] = []
    for child in module.children():
        parameters = list(child.parameters())
        if parameters and all(p.requires_grad for p in parameters):
            found.append(child)
        elif any(p.requires_grad for p in parameters):
            found += _wholly_trained(child)
    return found
