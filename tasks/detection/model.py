"""Mask R-CNN and Cascade Mask R-CNN on our encoder, put together from pyramid and heads. No recipe files, no data, no training.

Pyramids are in ``pyramid.py``, proposals and heads in ``heads.py``; state names outside the encoder are detectron2's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage

from backbones.encoders.contract import Encoder
from backbones.encoders.maps import pyramid_stages, windowed
from backbones.encoders.preprocessing import Preprocessing
from backbones.errors import UserError, unknown
from backbones.vit.patch_size import set_patch_size
from tasks.datasets.transforms import has_imagenet_colours, normalise
from tasks.detection.config import DetectionConfig
from tasks.detection.pyramid import SCALES, fpn, simple_pyramid, stages
from tasks.detection.rpn_roi_heads import proposals, roi_heads

# Where the ViT's parameters sit in the model.
ENCODER_PREFIX = "backbone.net.dense.encoder."
FPN_ENCODER_PREFIX = "backbone.bottom_up.dense.encoder."
_PYRAMIDS = {"simple": simple_pyramid, "fpn": fpn, "stages": stages}


def encoder_prefix(config: DetectionConfig) -> str:
    """Of the names of the encoder's parameters in a detector of `config`."""
    return ENCODER_PREFIX if config.pyramid == "simple" else FPN_ENCODER_PREFIX


class Detector(GeneralizedRCNN):
    """``model(batch)`` on a list of detectron2's dicts: losses in training mode, else a list of ``{"instances": …}``.

    Images come as uint8 RGB (3, H, W); normalisation and padding to a square happen inside.

    Args:
        told: the encoder's preprocessing.
        parts: of detectron2's `GeneralizedRCNN`.
    """

    def __init__(self, told: Preprocessing, **parts: Any) -> None:
        mean, std = (tuple(255 * value for value in values or ()) for values in (told.mean, told.std))
        super().__init__(pixel_mean=mean, pixel_std=std, input_format="RGB", **parts)
        self.told = told

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """The images of a batch, normalised and padded."""
        if has_imagenet_colours(self.told):
            return super().preprocess_image(batched_inputs)
        images = [normalise(each["image"].to(self.device).unsqueeze(0), self.told)[0] for each in batched_inputs]
        divisor, constraints = self.backbone.size_divisibility, self.backbone.padding_constraints
        return ImageList.from_tensors(images, divisor, padding_constraints=constraints)

    def forward(self, batch: list[dict[str, Any]]) -> Any:
        if not self.training:
            return super().forward(batch)
        with EventStorage():  # detectron2's heads insist on a place for their statistics, which nobody reads here
            return super().forward(batch)


def build_detector(
    encoder: Encoder, config: DetectionConfig, classes: int, image_counts: Sequence[int] = ()
) -> Detector:
    """The whole detector; `encoder` is changed in place (`backbones.vit.dense`).

    Args:
        image_counts: training images of each class, for ``federated_loss``.

    Raises:
        UserError: sizes in `config` that do not fit the patch size or each other.
    """
    check_sizes(config, _patch(encoder, config), len(encoder.stages))
    pyramid = _PYRAMIDS[config.pyramid](encoder, config)
    strides = {name: shape.stride for name, shape in pyramid.output_shape().items()}
    # Boxes and masks are read from all levels but the max-pooled one, which only the proposals use.
    levels = dict(list(strides.items())[: len(SCALES)])
    return Detector(
        encoder.preprocessing,
        backbone=pyramid,
        proposal_generator=proposals(config, strides),
        roi_heads=roi_heads(config, levels, classes, image_counts),
    )


def _patch(encoder: Encoder, config: DetectionConfig) -> int:
    """Pixels of a patch, its embedding resampled to what the recipe asks for; of nets with stages, the last but one's stride.

    Raises:
        UserError: a pyramid that is not for such a net, or a patch size that it cannot be given.
    """
    if encoder.hierarchical != (config.pyramid == "stages"):
        kind, way = ("several strides", "stages") if encoder.hierarchical else ("one stride", "simple")
        raise UserError(f"{encoder.arch} has maps of {kind}: give --set detection.pyramid={way}")
    if encoder.hierarchical:
        return encoder.stages[pyramid_stages(encoder)[-1]].stride // 2
    net, stride = windowed(encoder), encoder.stages[-1].stride
    if net is None and config.patch_size not in (None, stride):
        raise UserError(f"{encoder.arch}: its patch size cannot be changed: leave detection.patch_size out")
    if net is None:
        return stride
    if config.patch_size is not None:
        set_patch_size(net, config.patch_size)
    patch: int = net.patch_embed.patch_size[0]
    return patch


def check_sizes(config: DetectionConfig, patch: int, depth: int) -> None:
    """A `UserError` naming the first field of the ``detection`` section that makes no detector."""
    if config.pyramid not in _PYRAMIDS:
        raise unknown("pyramid", config.pyramid, _PYRAMIDS, where="detection.pyramid")
    if patch < 4 or patch & (patch - 1):
        raise UserError(
            f"detection needs a patch size that is a power of 2 from 4 on, not {patch}: choose another "
            "encoder.arch, or --set detection.patch_size=16"
        )
    if config.img_size < 1 or config.img_size % (2 * patch):
        raise UserError(
            f"detection.img_size={config.img_size} is not a multiple of {2 * patch}, twice the patch size: "
            f"try {max(1, round(config.img_size / (2 * patch))) * 2 * patch}"
        )
    if len(config.anchor_sizes) != len(SCALES) + 1:
        raise UserError(f"detection.anchor_sizes needs {len(SCALES) + 1} sizes, one a level: {config.anchor_sizes}")
    for name in ("scale_range", "rpn_pre_nms_topk", "rpn_post_nms_topk"):
        if len(getattr(config, name)) != 2:
            raise UserError(f"detection.{name} needs two numbers, not {getattr(config, name)}")
    if not 0 < config.scale_range[0] <= config.scale_range[1]:
        raise UserError(f"detection.scale_range={config.scale_range}: give [smallest, largest], both above 0")
    for block in config.global_blocks or ():
        if not 0 <= block < depth:
            raise UserError(f"detection.global_blocks: there is no block {block}, the encoder has 0 to {depth - 1}")
    if config.pyramid == "fpn" and depth % len(SCALES):
        raise UserError(
            f"detection.pyramid=fpn needs a depth that 4 divides, not {depth}: take detection.pyramid=simple"
        )
