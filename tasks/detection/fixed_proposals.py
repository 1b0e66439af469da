"""A detector's step without what has to look at values: matching, sampling and non-maximum suppression.

Encoder, pyramid and the heads' layers run whole, on as many proposals as a recipe takes at the most, spread over the levels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.ops import roi_align

from tasks.detection.config import DetectionConfig
from tasks.detection.model import Detector

_POSITIVE = 0.25  # share of the proposals that the mask head sees in training, at most
# Points of a bin along a side: what the adaptive number of ROIAlignV2 comes to on a proposal of the level's size.
_SAMPLES = 2


def training_outputs(model: Detector, batch: list[dict[str, Any]], config: DetectionConfig) -> dict[str, Tensor]:
    """A scalar a head, in the place of its losses."""
    sampled = config.roi_batch_per_image
    outputs = _outputs(model, batch, config, sampled, round(_POSITIVE * sampled))
    return {f"loss_{name}": sum(t.float().mean() for t in tensors) for name, tensors in outputs.items()}  # type: ignore[misc]


def prediction_outputs(model: Detector, batch: list[dict[str, Any]], config: DetectionConfig) -> None:
    """The layers that a prediction goes through, once for each proposal and detection that may come."""
    _outputs(model, batch, config, config.rpn_post_nms_topk[1], config.test_detections_per_image)


def _outputs(
    model: Detector, batch: list[dict[str, Any]], config: DetectionConfig, proposals: int, masks: int
) -> dict[str, list[Tensor]]:
    features = model.backbone(_images(model, batch, config.img_size))
    generator, heads = model.proposal_generator, model.roi_heads
    rpn = generator.rpn_head([features[name] for name in generator.in_features])
    found = {"rpn": [tensor for kind in rpn for tensor in kind]}
    levels = [features[name] for name in heads.box_in_features]
    scores: list[Tensor] = []
    several = (heads.box_head, heads.box_predictor) if config.cascade else ([heads.box_head], [heads.box_predictor])
    for head, predictor in zip(*several, strict=True):
        scores += predictor(head(_pooled(levels, heads.box_pooler, proposals, config.box_pool)))
    found["box"] = scores
    if config.with_masks:
        found["mask"] = [heads.mask_head.layers(_pooled(levels, heads.mask_pooler, masks, config.mask_pool))]
    return found


def _images(model: Detector, batch: list[dict[str, Any]], side: int) -> Tensor:
    """As `Detector.preprocess_image`, which reads the sizes off tensors: (N, 3, side, side)."""
    found = []
    for each in batch:
        image = (each["image"].float() - model.pixel_mean) / model.pixel_std
        found.append(pad(image, (0, side - image.shape[-1], 0, side - image.shape[-2])))
    return torch.stack(found)


def _pooled(levels: list[Tensor], pooler: Any, count: int, size: int) -> Tensor:
    """`count` regions of each image (N * count, C, size, size), as many of each level."""
    images, first = len(levels[0]), levels[0]
    each = [count // len(levels) + (k < count % len(levels)) for k in range(len(levels))]
    found = []
    for level, share, align in zip(levels, each, pooler.level_poolers, strict=True):
        boxes = torch.zeros(images * share, 5, device=first.device)
        found.append(
            roi_align(level.float(), boxes, size, align.spatial_scale, _SAMPLES, align.aligned).to(level.dtype)
        )
    return torch.cat(found)
