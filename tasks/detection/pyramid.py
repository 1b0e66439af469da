"""The pyramids: ViTDet's from the last map, Li et al. 2021's FPN on maps of four depths, FPN on a net's stages. No heads.

Everything follows from the patch size P: levels have strides P/4, P/2, P, 2P, and a max-pooled 4P for the proposals.
"""

from __future__ import annotations

import math

from detectron2.layers import ShapeSpec
from detectron2.layers.batch_norm import NaiveSyncBatchNorm
from detectron2.modeling import FPN, Backbone, SimpleFeaturePyramid
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor, nn

from backbones.encoders.contract import Encoder
from backbones.encoders.maps import EncoderMaps, pyramid_stages, windowed
from backbones.vit.dense import DenseEncoder
from tasks.detection.config import DetectionConfig

SCALES = (4.0, 2.0, 1.0, 0.5)  # of the pyramid's levels against the encoder's map
_STAGES = tuple(f"stage{i + 1}" for i in range(len(SCALES)))


Dense = DenseEncoder | EncoderMaps


class EncoderBackbone(Backbone):
    """`Dense` under detectron2's interface: one map ``last_feat`` (N, C, h, w) of stride P."""

    def __init__(self, dense: Dense) -> None:
        super().__init__()
        self.dense = dense
        self._out_features = ["last_feat"]
        self._out_feature_channels = {"last_feat": dense.embed_dim}
        self._out_feature_strides = {"last_feat": dense.patch_size}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"last_feat": self.dense(images)[-1]}


class StagedBackbone(Backbone):
    """Maps after blocks d/4, d/2, 3d/4 and d, resized to strides P/4, P/2, P and 2P (Li et al. 2021, Sec. 2.2).

    Transposed convolutions enlarge (the fourfold with GroupNorm and GELU between its two), max-pooling halves.
    """

    def __init__(self, dense: Dense) -> None:
        super().__init__()
        self.dense = dense
        width = dense.embed_dim
        self.resize = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(width, width, 2, 2),
                    nn.GroupNorm(math.gcd(32, width), width),
                    nn.GELU(),
                    nn.ConvTranspose2d(width, width, 2, 2),
                ),
                nn.ConvTranspose2d(width, width, 2, 2),
                nn.Identity(),
                nn.MaxPool2d(2),
            ]
        )
        self._out_features = list(_STAGES)
        self._out_feature_channels = dict.fromkeys(_STAGES, width)
        self._out_feature_strides = {
            name: int(dense.patch_size / scale) for name, scale in zip(_STAGES, SCALES, strict=True)
        }

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> four maps (N, C, H / stride, W / stride), finest first."""
        maps = self.dense(images)
        return {name: layer(x) for name, layer, x in zip(_STAGES, self.resize, maps, strict=True)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in _STAGES
        }


class StageMaps(Backbone):
    """The stages of a hierarchical net under detectron2's interface, finest first."""

    def __init__(self, dense: EncoderMaps) -> None:
        super().__init__()
        self.dense = dense
        self._out_features = list(_STAGES)
        self._out_feature_channels = {name: s.width for name, s in zip(_STAGES, dense.stages, strict=True)}
        self._out_feature_strides = {name: s.stride for name, s in zip(_STAGES, dense.stages, strict=True)}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> four maps (N, C, H / stride, W / stride)."""
        return dict(zip(_STAGES, self.dense(images), strict=True))


def batch_norm(channels: int) -> nn.Module:
    """BatchNorm over all processes, which bears heads that got no object (torch's own SyncBatchNorm does not)."""
    return NaiveSyncBatchNorm(channels, stats_mode="N")


def simple_pyramid(encoder: Encoder, config: DetectionConfig) -> SimpleFeaturePyramid:
    """ViTDet's (Li et al. 2022, Sec. 3): four levels from the last map, each by its own convolutions."""
    dense = _dense(encoder, config, shared_bias=False)
    return SimpleFeaturePyramid(
        net=EncoderBackbone(dense),
        in_feature="last_feat",
        out_channels=config.channels,
        scale_factors=SCALES,
        top_block=_top_block(dense.patch_size),
        norm="LN",
        square_pad=config.img_size,
    )


def fpn(encoder: Encoder, config: DetectionConfig) -> FPN:
    """Li et al. 2021's: an FPN with BatchNorm on `StagedBackbone`; relative positions are a shared bias table."""
    dense = _dense(encoder, config, shared_bias=True)
    return FPN(
        bottom_up=StagedBackbone(dense),
        in_features=_STAGES,
        out_channels=config.channels,
        norm=batch_norm,
        top_block=_top_block(dense.patch_size),
        square_pad=config.img_size,
    )


def stages(encoder: Encoder, config: DetectionConfig) -> FPN:
    """An FPN with LayerNorm on the stages of a hierarchical net."""
    maps = EncoderMaps(encoder, pyramid_stages(encoder), new_norms=True)
    return FPN(
        bottom_up=StageMaps(maps),
        in_features=_STAGES,
        out_channels=config.channels,
        norm="LN",
        top_block=_top_block(maps.stages[-1].stride // 2),
        square_pad=config.img_size,
    )


def _dense(encoder: Encoder, config: DetectionConfig, *, shared_bias: bool) -> Dense:
    depth = len(encoder.stages)
    quarters = [depth * i // len(SCALES) - 1 for i in range(1, len(SCALES) + 1)]
    net = windowed(encoder)
    if net is None:
        return EncoderMaps(encoder, quarters if shared_bias else [depth - 1])
    return DenseEncoder(
        net,
        img_size=config.img_size,
        window_size=config.window_size,
        global_blocks=config.global_blocks,
        rel_pos=config.rel_pos and not shared_bias,
        shared_bias=config.rel_pos and shared_bias,
        out_blocks=quarters if shared_bias else None,
        grad_checkpointing=config.grad_checkpointing,
    )


def _top_block(patch: int) -> LastLevelMaxPool:
    top = LastLevelMaxPool()
    top.in_feature = f"p{int(math.log2(2 * patch))}"  # its own default, p5, is that of patch size 16
    return top
