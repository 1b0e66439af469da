"""Mask R-CNN as ViTDet has it, from detectron2's classes, on our encoder. No recipe files, no data, no training.

Built as in detectron2's configs/common/models/mask_rcnn_vitdet.py. Everything follows from the patch size P: the
pyramid has strides P/4, P/2, P, 2P, and a max-pooled 4P for the proposals.
"""

from __future__ import annotations

import math
from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, SimpleFeaturePyramid
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)
from detectron2.utils.events import EventStorage
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from backbones.dense import DenseEncoder
from backbones.errors import UserError
from tasks.data import IMAGENET_MEAN, IMAGENET_STD
from tasks.detection.config import DetectionConfig

ENCODER_PREFIX = "backbone.net.dense.encoder."  # where the ViT's parameters sit in the model
_SCALES = (4.0, 2.0, 1.0, 0.5)  # of the pyramid's levels against the encoder's map


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


class Detector(GeneralizedRCNN):
    """``model(batch)`` on a list of detectron2's dicts: losses in training mode, else a list of ``{"instances": …}``.

    Images come as uint8 RGB (3, H, W); normalisation and padding to a square happen inside.
    """

    def forward(self, batch: list[dict[str, Any]]) -> Any:
        if not self.training:
            return super().forward(batch)
        with EventStorage():  # detectron2's heads insist on a place for their statistics, which nobody reads here
            return super().forward(batch)


def build_detector(encoder: VisionTransformer, config: DetectionConfig, classes: int) -> Detector:
    """The whole detector; `encoder` is changed in place (`backbones.dense`).

    Raises:
        UserError: sizes in `config` that do not fit the patch size or each other.
    """
    patch = encoder.patch_embed.patch_size[0]
    check_sizes(config, patch, len(encoder.blocks))
    pyramid = _pyramid(encoder, config)
    shapes = pyramid.output_shape()
    levels = list(shapes)[: len(_SCALES)]  # without the max-pooled one, which only the proposals use
    return Detector(
        backbone=pyramid,
        proposal_generator=_proposals(config, {name: shape.stride for name, shape in shapes.items()}),
        roi_heads=_roi_heads(config, {name: shapes[name].stride for name in levels}, classes),
        pixel_mean=[255 * value for value in IMAGENET_MEAN],
        pixel_std=[255 * value for value in IMAGENET_STD],
        input_format="RGB",
    )


def check_sizes(config: DetectionConfig, patch: int, depth: int) -> None:
    """A `UserError` naming the first field of the ``detection`` section that makes no detector."""
    if patch < 4 or patch & (patch - 1):
        raise UserError(
            f"detection needs a patch size that is a power of 2 from 4 on, not {patch}: choose another encoder.arch"
        )
    if config.img_size < 1 or config.img_size % (2 * patch):
        raise UserError(
            f"detection.img_size={config.img_size} is not a multiple of {2 * patch}, twice the patch size: "
            f"try {max(1, round(config.img_size / (2 * patch))) * 2 * patch}"
        )
    if len(config.anchor_sizes) != len(_SCALES) + 1:
        raise UserError(f"detection.anchor_sizes needs {len(_SCALES) + 1} sizes, one a level: {config.anchor_sizes}")
    for name in ("scale_range", "rpn_pre_nms_topk", "rpn_post_nms_topk"):
        if len(getattr(config, name)) != 2:
            raise UserError(f"detection.{name} needs two numbers, not {getattr(config, name)}")
    if not 0 < config.scale_range[0] <= config.scale_range[1]:
        raise UserError(f"detection.scale_range={config.scale_range}: give [smallest, largest], both above 0")
    for block in config.global_blocks or ():
        if not 0 <= block < depth:
            raise UserError(f"detection.global_blocks: there is no block {block}, the encoder has 0 to {depth - 1}")


def _pyramid(encoder: VisionTransformer, config: DetectionConfig) -> SimpleFeaturePyramid:
    dense = DenseEncoder(
        encoder,
        img_size=config.img_size,
        window_size=config.window_size,
        global_blocks=config.global_blocks,
        rel_pos=config.rel_pos,
        grad_checkpointing=config.grad_checkpointing,
    )
    top = LastLevelMaxPool()
    top.in_feature = f"p{int(math.log2(2 * dense.patch_size))}"  # its own default, p5, is that of patch size 16
    return SimpleFeaturePyramid(
        net=EncoderBackbone(dense),
        in_feature="last_feat",
        out_channels=config.channels,
        scale_factors=_SCALES,
        top_block=top,
        norm="LN",
        square_pad=config.img_size,
    )


def _proposals(config: DetectionConfig, strides: dict[str, int]) -> RPN:
    return RPN(
        in_features=list(strides),
        head=StandardRPNHead(
            in_channels=config.channels, num_anchors=len(config.anchor_ratios), conv_dims=[-1] * config.rpn_convs
        ),
        anchor_generator=DefaultAnchorGenerator(
            sizes=[[size] for size in config.anchor_sizes],
            aspect_ratios=list(config.anchor_ratios),
            strides=list(strides.values()),
            offset=0.0,
        ),
        anchor_matcher=Matcher(thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
        batch_size_per_image=config.rpn_batch_per_image,
        positive_fraction=0.5,
        pre_nms_topk=tuple(config.rpn_pre_nms_topk),
        post_nms_topk=tuple(config.rpn_post_nms_topk),
        nms_thresh=0.7,
    )


def _roi_heads(config: DetectionConfig, strides: dict[str, int], classes: int) -> StandardROIHeads:
    def pooler(size: int) -> ROIPooler:
        scales = tuple(1.0 / stride for stride in strides.values())
        return ROIPooler(output_size=size, scales=scales, sampling_ratio=0, pooler_type="ROIAlignV2")

    box_head = FastRCNNConvFCHead(
        input_shape=ShapeSpec(channels=config.channels, height=config.box_pool, width=config.box_pool),
        conv_dims=[config.channels] * config.box_convs,
        fc_dims=[config.box_fc],
        conv_norm="LN",
    )
    box_predictor = FastRCNNOutputLayers(
        input_shape=box_head.output_shape,
        box2box_transform=Box2BoxTransform(weights=(10, 10, 5, 5)),
        num_classes=classes,
        test_score_thresh=config.test_score_thresh,
        test_nms_thresh=config.test_nms_thresh,
        test_topk_per_image=config.test_detections_per_image,
    )
    masks: dict[str, Any] = {}
    if config.with_masks:
        masks["mask_in_features"] = list(strides)
        masks["mask_pooler"] = pooler(config.mask_pool)
        masks["mask_head"] = MaskRCNNConvUpsampleHead(
            input_shape=ShapeSpec(channels=config.channels, width=config.mask_pool, height=config.mask_pool),
            num_classes=classes,
            conv_dims=[config.channels] * (config.mask_convs + 1),  # the last one is the deconvolution's
            conv_norm="LN",
        )
    return StandardROIHeads(
        num_classes=classes,
        batch_size_per_image=config.roi_batch_per_image,
        positive_fraction=0.25,
        proposal_matcher=Matcher(thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False),
        box_in_features=list(strides),
        box_pooler=pooler(config.box_pool),
        box_head=box_head,
        box_predictor=box_predictor,
        **masks,
    )
