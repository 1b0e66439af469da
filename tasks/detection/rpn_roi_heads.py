"""Proposals and the box and mask heads, from detectron2's classes: Mask R-CNN's and Cascade Mask R-CNN's. No pyramid.

Built as in detectron2's configs/common/models/mask_rcnn_{fpn,vitdet}.py and, for the cascade and LVIS,
projects/ViTDet/configs/{COCO,LVIS}/cascade_mask_rcnn_vitdet_b_100ep.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)

from tasks.detection.config import DetectionConfig
from tasks.detection.pyramid import batch_norm

_BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
_STAGES = ((0.5, 1), (0.6, 2), (0.7, 3))  # of the cascade: IoU of a positive, factor of the box regression's weights


def proposals(config: DetectionConfig, strides: dict[str, int]) -> RPN:
    """The region proposal network on levels of `strides`, finest first."""
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


def roi_heads(
    config: DetectionConfig, strides: dict[str, int], classes: int, image_counts: Sequence[int] = ()
) -> StandardROIHeads:
    """Box and mask heads on levels of `strides`.

    Args:
        image_counts: training images of each class, which the federated loss samples by.
    """
    levels: dict[str, Any] = {"box_in_features": list(strides), "box_pooler": _pooler(config.box_pool, strides)}
    common = {
        "num_classes": classes,
        "batch_size_per_image": config.roi_batch_per_image,
        "positive_fraction": 0.25,
        **levels,
        **(_masks(config, strides, classes) if config.with_masks else {}),
    }
    if config.cascade:
        return CascadeROIHeads(
            box_heads=[_box_head(config) for _ in _STAGES],
            box_predictors=[_predictor(config, classes, image_counts, factor, agnostic=True) for _, factor in _STAGES],
            proposal_matchers=[_matcher(iou) for iou, _ in _STAGES],
            **common,
        )
    return StandardROIHeads(
        proposal_matcher=_matcher(0.5),
        box_head=_box_head(config),
        box_predictor=_predictor(config, classes, image_counts, 1, agnostic=False),
        **common,
    )


def _matcher(iou: float) -> Matcher:
    return Matcher(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False)


def _pooler(size: int, strides: dict[str, int]) -> ROIPooler:
    scales = tuple(1.0 / stride for stride in strides.values())
    return ROIPooler(output_size=size, scales=scales, sampling_ratio=0, pooler_type="ROIAlignV2")


def _norm(config: DetectionConfig) -> Any:
    return batch_norm if config.pyramid == "fpn" else "LN"


def _box_head(config: DetectionConfig) -> FastRCNNConvFCHead:
    return FastRCNNConvFCHead(
        input_shape=ShapeSpec(channels=config.channels, height=config.box_pool, width=config.box_pool),
        conv_dims=[config.channels] * config.box_convs,
        fc_dims=[config.box_fc],
        conv_norm=_norm(config),
    )


def _predictor(
    config: DetectionConfig, classes: int, image_counts: Sequence[int], factor: int, *, agnostic: bool
) -> FastRCNNOutputLayers:
    federated: dict[str, Any] = {}
    if config.federated_loss:  # power 0.5: projects/ViTDet/configs/LVIS
        federated = {
            "use_sigmoid_ce": True,
            "use_fed_loss": True,
            "get_fed_loss_cls_weights": lambda: torch.tensor(image_counts, dtype=torch.float32) ** 0.5,
            "fed_loss_num_classes": min(config.federated_classes, sum(count > 0 for count in image_counts)),
        }
    return FastRCNNOutputLayers(
        input_shape=ShapeSpec(channels=config.box_fc),
        box2box_transform=Box2BoxTransform(weights=tuple(factor * weight for weight in _BOX_WEIGHTS)),
        num_classes=classes,
        cls_agnostic_bbox_reg=agnostic,
        test_score_thresh=config.test_score_thresh,
        test_nms_thresh=config.test_nms_thresh,
        test_topk_per_image=config.test_detections_per_image,
        **federated,
    )


def _masks(config: DetectionConfig, strides: dict[str, int], classes: int) -> dict[str, Any]:
    return {
        "mask_in_features": list(strides),
        "mask_pooler": _pooler(config.mask_pool, strides),
        "mask_head": MaskRCNNConvUpsampleHead(
            input_shape=ShapeSpec(channels=config.channels, width=config.mask_pool, height=config.mask_pool),
            num_classes=classes,
            conv_dims=[config.channels] * (config.mask_convs + 1),  # the last one is the deconvolution's
            conv_norm=_norm(config),
        ),
    }
