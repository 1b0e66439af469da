"""Feature maps of any encoder for dense tasks, on images of any size; windows for plain ViTs are `backbones.vit.dense`'s.

Shapes: N images, C channels, H x W pixels, h x w positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from backbones.encoders.contract import Encoder, Stage
from backbones.errors import UserError
from backbones.vit.dense import takes_windows

LEVELS = 4


def windowed(encoder: Encoder) -> Any | None:
    """The net that `DenseEncoder` takes, with windows and relative positions; None where `EncoderMaps` has to do."""
    return encoder.net if takes_windows(encoder.net) else None


def dense_rules(encoder: Encoder) -> dict[str, Any]:
    """`Encoder.layer_rules` of a net inside `DenseEncoder` or `EncoderMaps`; to be asked for before."""
    net = windowed(encoder)
    return encoder.layer_rules if net is None else {"depth": len(net.blocks)}


def pyramid_stages(encoder: Encoder) -> list[int]:
    """The last output of each of the four largest strides, finest first: what FPN and UPerNet take of a net with stages.

    Raises:
        UserError: fewer than four strides.
    """
    last = {stage.stride: i for i, stage in enumerate(encoder.stages)}
    if len(last) < LEVELS:
        strides = ", ".join(map(str, sorted(last)))
        raise UserError(f"{encoder.arch} has maps of strides {strides}: a pyramid of stages needs {LEVELS} of them")
    return [last[stride] for stride in sorted(last)[-LEVELS:]]


class EncoderMaps(nn.Module):
    """(N, 3, H, W) normalised images -> a map (N, C, ceil(H / stride), ceil(W / stride)) of each of `stages`.

    Args:
        encoder: what it has behind its last map, and does not need for one, is dropped: it would get no gradient.
        stages: ascending indices of `Encoder.stages`.
        new_norms: a LayerNorm on each map, as mmseg's Swin and ConvNeXt have it.
        final_norm: put the last map through the encoder's own final norm.
    """

    def __init__(
        self, encoder: Encoder, stages: Sequence[int], *, new_norms: bool = False, final_norm: bool = False
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.indices = list(stages)
        self.stages: list[Stage] = [encoder.stages[i] for i in stages]
        self.embed_dim = self.stages[-1].width
        self.patch_size = max(stage.stride for stage in encoder.stages)  # images are padded to whole ones of these
        self.final_norm = final_norm
        self.norms = nn.ModuleList(LayerNorm2d(s.width) if new_norms else nn.Identity() for s in self.stages)
        _drop_unused(encoder, self.indices, final_norm)

    def forward(self, images: Tensor) -> list[Tensor]:
        """See the class."""
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % self.patch_size, 0, -height % self.patch_size))
        found = self.encoder.maps(images, self.indices, norm=self.final_norm)
        maps = []
        for stage, norm, each in zip(self.stages, self.norms, found, strict=True):
            maps.append(norm(each)[..., : -(-height // stage.stride), : -(-width // stage.stride)])
        return maps


def _drop_unused(encoder: Encoder, indices: Sequence[int], final_norm: bool) -> None:
    net: Any = encoder.net
    if hasattr(net, "prune_intermediate_layers"):
        net.prune_intermediate_layers(list(indices), prune_norm=not final_norm, prune_head=True)
    for name, parameter in encoder.named_parameters():
        if name.startswith(encoder.own_pooling):
            parameter.requires_grad_(False)
