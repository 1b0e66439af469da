"""The two pyramids: ViTDet's from the last map of the encoder, and Li et al. 2021's FPN on maps of four depths. No heads.

Everything follows from the patch size P: levels have strides P/4, P/2, P, 2P, and a max-pooled 4P for the proposals.
"""

from __future__ import annotations

import math

from detectron2.layers import ShapeSpec
from detectron2.layers.batch_norm import NaiveSyncBatchNorm
from detectron2.modeling import FPN, Backbone, SimpleFeaturePyramid
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from backbones.vit.dense import DenseEncoder
from tasks.detection.config import DetectionConfig

SCALES = (4.0, 2.0, 1.0, 0.5)  # of the pyramid's levels against the encoder's map
_STAGES = tuple(f"stage{i + 1}" for i in range(len(SCALES)))


class EncoderBackbone(Backbone):
    """`DenseEncoder` under detectron2's interface: one map ``last_feat`` (N, C, h, w) of stride P."""

    def __init__(self, dense: DenseEncoder) -> None:
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

    def __init__(self, dense: DenseEncoder) -> None:
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


def batch_norm(channels: int) -> nn.Module:
    """BatchNorm over all processes, which bears heads that got no object (torch's own SyncBatchNorm does not)."""
    return NaiveSyncBatchNorm(channels, stats_mode="N")


def simple_pyramid(encoder: VisionTransformer, config: DetectionConfig) -> SimpleFeaturePyramid:
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


def fpn(encoder: VisionTransformer, config: DetectionConfig) -> FPN:
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


def _dense(encoder: VisionTransformer, config: DetectionConfig, *, shared_bias: bool) -> DenseEncoder:
    depth = len(encoder.blocks)
    quarters = [depth * i // len(SCALES) - 1 for i in range(1, len(SCALES) + 1)]
    return DenseEncoder(
        encoder,
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
