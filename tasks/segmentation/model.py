"""UPerNet on the encoder: mmseg's neck, heads and inference around `backbones.dense.DenseEncoder`. No data, no metric.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from backbones.dense import DenseEncoder
from backbones.errors import UserError
from tasks.data import IMAGENET_MEAN, IMAGENET_STD
from tasks.segmentation.config import SegmentationConfig
from tasks.segmentation.mm import MODELS, ConfigDict, EncoderDecoder

ENCODER_PREFIX = "net.backbone.encoder."
IGNORE = 255  # label of pixels that count neither in the loss nor in the metric


@MODELS.register_module()
class DenseViT(DenseEncoder):
    """`DenseEncoder` under mmseg's contract for backbones: (N, 3, H, W) -> a tuple of feature maps."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return tuple(super().forward(images))


class Segmenter(nn.Module):
    """mmseg's `EncoderDecoder`, called as the engine calls models.

    A batch is what mmseg's pipeline packs: ``inputs``, a list of (3, H, W) uint8 BGR images, and ``data_samples``, a
    list of `SegDataSample`. In training mode the result is a dict of scalar losses, else the data samples with
    ``pred_sem_seg`` (1, H, W) at the size of the original image.
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: dict[str, Any]) -> Any:
        """Losses in training mode, predictions otherwise."""
        if self.training:
            return self._losses(batch)
        return self._predictions(batch)

    def _losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        if len(batch["inputs"]) == 1 and not _synchronised():
            raise UserError(
                "batch normalisation cannot train on one image a process: raise train.micro_batch_size "
                "or train.batch_size to 2 or more for each process"
            )
        data = self.net.data_preprocessor(batch, training=True)
        losses = self.net(**data, mode="loss")
        return {name: value for name, value in losses.items() if "loss" in name}

    def _predictions(self, batch: dict[str, Any]) -> list[Any]:
        """Images of one size go through the net together, as mmseg can only stack such."""
        by_size: dict[torch.Size, list[int]] = defaultdict(list)
        for i, image in enumerate(batch["inputs"]):
            by_size[image.shape].append(i)
        predictions: list[Any] = [None] * len(batch["inputs"])
        for indices in by_size.values():
            part = {key: [batch[key][i] for i in indices] for key in ("inputs", "data_samples")}
            data = self.net.data_preprocessor(part, training=False)
            for i, sample in zip(indices, self.net(**data, mode="predict"), strict=True):
                predictions[i] = sample
        return predictions


def build_segmenter(encoder: VisionTransformer, config: SegmentationConfig, img_size: int, classes: int) -> Segmenter:
    """UPerNet with mmseg's settings for MAE (configs/_base_/models/upernet_mae.py).

    Raises:
        UserError: `out_blocks` are not four blocks of the encoder that end with its last, or unknown `inference`.
    """
    depth, width = len(encoder.blocks), encoder.embed_dim
    blocks = sorted(config.out_blocks)
    if len(set(blocks)) != 4 or blocks[0] < 0 or blocks[-1] != depth - 1:
        raise UserError(
            f"segmentation.out_blocks must be four blocks within 0..{depth - 1} that end with {depth - 1} "
            f"for this encoder, not {list(config.out_blocks)}"
        )
    if config.inference not in ("slide", "whole"):
        raise UserError(f'segmentation.inference must be slide or whole, not "{config.inference}"')
    if config.class_weight is not None and len(config.class_weight) != classes:
        raise UserError(f"segmentation.class_weight has {len(config.class_weight)} values for {classes} classes")
    common = {
        "num_classes": classes,
        "norm_cfg": _norm(),
        "dropout_ratio": config.dropout,
        "ignore_index": IGNORE,
        "align_corners": False,
    }
    with warnings.catch_warnings():
        # mmseg averages the loss over unlabelled pixels too, and says so for each head; its recipes rely on it.
        warnings.filterwarnings("ignore", message=".*avg_non_ignore")
        net = EncoderDecoder(
            data_preprocessor=MODELS.build(_preprocessor(config, img_size, encoder.patch_embed.patch_size[0])),
            backbone={
                "type": "DenseViT",
                "encoder": encoder,
                "img_size": img_size,
                "out_blocks": blocks,
                "class_token": config.class_token,
                "rel_pos_bias": config.rel_pos_bias,
                "grad_checkpointing": config.grad_checkpointing,
            },
            neck={
                "type": "Feature2Pyramid",
                "embed_dim": width,
                "rescales": _rescales(config),
                "norm_cfg": _norm(),
            },
            decode_head={**common, **_decode_head(config, width)},
            auxiliary_head={**common, **_auxiliary_head(config, width)},
            train_cfg=ConfigDict(),
            test_cfg=_inference(config, img_size),
        )
    # Not net.init_weights(): the encoder has its weights already.
    net.decode_head.init_weights()
    net.auxiliary_head.init_weights()
    return Segmenter(net)


def _decode_head(config: SegmentationConfig, width: int) -> dict[str, Any]:
    return {
        "type": "UPerHead",
        "in_channels": [width] * 4,
        "in_index": [0, 1, 2, 3],
        "pool_scales": tuple(config.pool_scales),
        "channels": config.channels,
        "loss_decode": _loss(config, 1.0),
    }


def _auxiliary_head(config: SegmentationConfig, width: int) -> dict[str, Any]:
    return {
        "type": "FCNHead",
        "in_channels": width,
        "in_index": 2,
        "channels": config.aux_channels,
        "num_convs": 1,
        "concat_input": False,
        "loss_decode": _loss(config, config.aux_weight),
    }


def _loss(config: SegmentationConfig, weight: float) -> dict[str, Any]:
    classes = None if config.class_weight is None else list(config.class_weight)
    return {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": weight, "class_weight": classes}


def _norm() -> dict[str, Any]:
    return {"type": "SyncBN" if _synchronised() else "BN", "requires_grad": True}


def _rescales(config: SegmentationConfig) -> list[float]:
    rescales = list(config.rescales)
    if rescales not in ([4, 2, 1, 0.5], [2, 1, 0.5, 0.25]):  # what Feature2Pyramid can do
        raise UserError(f"segmentation.rescales must be [4, 2, 1, 0.5] or [2, 1, 0.5, 0.25], not {rescales}")
    return rescales


def _preprocessor(config: SegmentationConfig, img_size: int, patch: int) -> dict[str, Any]:
    preprocessor = {
        "type": "SegDataPreProcessor",
        "mean": [255 * v for v in IMAGENET_MEAN],
        "std": [255 * v for v in IMAGENET_STD],
        "bgr_to_rgb": True,
        "pad_val": 0,
        "seg_pad_val": IGNORE,
        "size": (img_size, img_size),
    }
    if config.inference == "whole":
        # Padded to whole patches and cut again afterwards; a feature map of partial patches would be stretched.
        preprocessor["test_cfg"] = {"size_divisor": patch}
    return preprocessor


def _inference(config: SegmentationConfig, img_size: int) -> Any:
    if config.inference == "whole":
        return ConfigDict(mode="whole")
    crop, stride = config.slide_crop or img_size, config.slide_stride
    if not 0 < stride <= crop:
        raise UserError(f"segmentation.slide_stride must lie in 1..{crop}, the size of the window, not {stride}")
    return ConfigDict(mode="slide", crop_size=(crop, crop), stride=(stride, stride))


def _synchronised() -> bool:
    """Whether batch statistics are taken over several processes: mmseg's SyncBN knows CUDA only."""
    return torch.cuda.is_available() and int(os.environ.get("WORLD_SIZE", "1")) > 1
