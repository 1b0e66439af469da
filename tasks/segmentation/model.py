"""UPerNet or a linear head on the encoder, with mmseg's neck, heads and inference. No data, no metric.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from backbones.encoders.contract import Encoder
from backbones.encoders.maps import windowed
from backbones.encoders.preprocessing import Preprocessing
from backbones.errors import UserError
from tasks.datasets.transforms import has_imagenet_colours
from tasks.segmentation.config import SegmentationConfig
from tasks.segmentation.folders import IGNORE
from tasks.segmentation.mm import MODELS, ConfigDict
from tasks.segmentation.modules import PatchwiseEncoderDecoder

ENCODER_PREFIX = "net.backbone.encoder."


class Segmenter(nn.Module):
    """mmseg's `EncoderDecoder`, called as the engine calls models.

    A batch is what mmseg's pipeline packs: ``inputs``, a list of (3, H, W) uint8 BGR images, and ``data_samples``, a
    list of `SegDataSample`. In training mode the result is a dict of scalar losses, else the data samples with
    ``pred_sem_seg`` (1, H, W) at the size of the original image.
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def _apply(self, fn: Any, recurse: bool = True) -> Segmenter:
        """Moves or casts everything; mmengine's preprocessor sends batches to a device that only its own `to` tells it of."""
        super()._apply(fn, recurse)
        self.net.data_preprocessor.to(next(self.parameters()).device)
        return self

    def forward(self, batch: dict[str, Any]) -> Any:
        """Losses in training mode, predictions otherwise."""
        if self.training:
            return self._losses(batch)
        if not isinstance(batch["inputs"][0], Tensor):
            return self._merged_predictions(batch)
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

    def predict_windows(self, batch: dict[str, Any]) -> None:
        """The layers of `forward` in evaluation, window by window, without what reads values (`mae_bench.rehearsal`)."""
        net, first = self.net, batch["inputs"][0]
        images = batch["inputs"] if isinstance(first, Tensor) else [view for views in batch["inputs"] for view in views]
        whole = net.test_cfg.mode == "whole"
        for image in images:
            data = net.data_preprocessor({"inputs": [image]}, training=False)["inputs"]
            height, width = data.shape[-2:]
            crop, stride = (max(height, width), 1) if whole else (net.test_cfg.crop_size[0], net.test_cfg.stride[0])
            rows, columns = (max(0, -(-(side - crop) // stride)) + 1 for side in (height, width))
            for _ in range(rows * columns):
                net.encode_decode(data[..., :crop, :crop], [{"img_shape": (min(crop, height), min(crop, width))}])

    def _merged_predictions(self, batch: dict[str, Any]) -> list[Any]:
        """One prediction an image from lists of its views: the class of the largest mean probability (mmseg's SegTTAModel)."""
        views = zip(batch["inputs"], batch["data_samples"], strict=True)
        merged = self._probable({"inputs": list(images), "data_samples": list(samples)} for images, samples in views)
        for sample in merged:
            sample.pred_sem_seg.data = sample.seg_logits.data.argmax(dim=0, keepdim=True)
        return merged

    def _probable(self, views: Iterable[dict[str, Any]]) -> list[Any]:
        """The first view's data samples with the sum of all views' class probabilities in place of logits."""
        merged: list[Any] = []
        for view in views:
            samples = self._predictions(view)
            for sample in samples:
                sample.seg_logits.data = sample.seg_logits.data.softmax(dim=0, dtype=torch.float32)
            for total, sample in zip(merged, samples, strict=bool(merged)):
                total.seg_logits.data += sample.seg_logits.data
            merged = merged or samples
        return merged


def build_segmenter(encoder: Encoder, config: SegmentationConfig, img_size: int, classes: int) -> Segmenter:
    """The network of a recipe; UPerNet has mmseg's settings for MAE (configs/_base_/models/upernet_mae.py).

    Raises:
        UserError: `out_blocks` do not fit encoder and head, or an unknown `head` or `inference`.
    """
    _check(config, encoder, classes)
    widths = [encoder.stages[i].width for i in sorted(config.out_blocks)]
    common = {"num_classes": classes, "norm_cfg": _norm(), "ignore_index": IGNORE, "align_corners": False}
    with warnings.catch_warnings():
        # mmseg averages the loss over unlabelled pixels too, and says so for each head; its recipes rely on it.
        warnings.filterwarnings("ignore", message=".*avg_non_ignore")
        net = PatchwiseEncoderDecoder(
            data_preprocessor=MODELS.build(_preprocessor(img_size, encoder.preprocessing)),
            backbone=_backbone(config, encoder, img_size),
            **_heads(config, common, widths, staged=encoder.hierarchical),
            train_cfg=ConfigDict(),
            test_cfg=_inference(config, img_size),
            # The pyramid's coarsest level pools that many patches into one.
            least_patches=1 if config.head == "linear" or encoder.hierarchical else round(1 / min(_rescales(config))),
            least_pixels=_least_pixels(config, encoder, img_size),
        )
    # Not net.init_weights(): the encoder has its weights already.
    net.decode_head.init_weights()
    if net.with_auxiliary_head:
        net.auxiliary_head.init_weights()
    return Segmenter(net)


def _backbone(config: SegmentationConfig, encoder: Encoder, img_size: int) -> dict[str, Any]:
    """A ViT with windows' attention and relative positions, or maps of any other encoder."""
    net, blocks, linear = windowed(encoder), sorted(config.out_blocks), config.head == "linear"
    if net is None:
        maps = {"stages": blocks, "new_norms": encoder.hierarchical and not linear, "final_norm": linear}
        return {"type": "DenseMaps", "encoder": encoder, "frozen": config.freeze_encoder, **maps}
    return {
        "type": "DenseViT",
        "encoder": net,
        "img_size": img_size,
        "out_blocks": blocks,
        "class_token": config.class_token,
        "rel_pos_bias": config.rel_pos_bias and not config.freeze_encoder,
        "grad_checkpointing": config.grad_checkpointing,
        "frozen": config.freeze_encoder,
        "final_norm": linear,
    }


def _check(config: SegmentationConfig, encoder: Encoder, classes: int) -> None:
    depth = len(encoder.stages)
    blocks, four = sorted(config.out_blocks), config.head == "upernet"
    fits = len(blocks) == 4 if four else blocks
    repeated = len(set(blocks)) != len(blocks) and (depth >= 4 or windowed(encoder) is not None)
    if not fits or repeated or blocks[0] < 0 or blocks[-1] != depth - 1:
        raise UserError(
            f"segmentation.out_blocks must be {'four ' if four else ''}blocks within 0..{depth - 1} that end with "
            f"{depth - 1} for this encoder, not {list(config.out_blocks)}"
        )
    if config.class_weight is not None and len(config.class_weight) != classes:
        raise UserError(f"segmentation.class_weight has {len(config.class_weight)} values for {classes} classes")


def _heads(config: SegmentationConfig, common: dict[str, Any], widths: list[int], *, staged: bool) -> dict[str, Any]:
    """Neck and heads; the auxiliary head is there where its loss counts, the neck where all maps have one stride."""
    if config.head == "linear":
        return {
            "decode_head": {**common, "type": "LinearHead", "in_channels": widths, "loss_decode": _loss(config, 1.0)}
        }
    neck = {"type": "Feature2Pyramid", "embed_dim": widths[0], "rescales": _rescales(config), "norm_cfg": _norm()}
    common = {**common, "dropout_ratio": config.dropout}
    heads = {**({} if staged else {"neck": neck}), "decode_head": {**common, **_decode_head(config, widths)}}
    if config.aux_weight:
        heads["auxiliary_head"] = {**common, **_auxiliary_head(config, widths[2])}
    return heads


def _decode_head(config: SegmentationConfig, widths: list[int]) -> dict[str, Any]:
    return {
        "type": "UPerHead",
        "in_channels": widths,
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


def _preprocessor(img_size: int, told: Preprocessing) -> dict[str, Any]:
    return {
        "type": "SegDataPreProcessor" if has_imagenet_colours(told) else "OwnColours",
        "mean": [255 * v for v in told.mean or ()],
        "std": [255 * v for v in told.std or ()],
        "bgr_to_rgb": True,
        "pad_val": 0,
        "seg_pad_val": IGNORE,
        "size": (img_size, img_size),
    }


def _inference(config: SegmentationConfig, img_size: int) -> Any:
    if config.inference == "whole":
        return ConfigDict(mode="whole")
    crop, stride = config.slide_crop or img_size, config.slide_stride
    if not 0 < stride <= crop:
        raise UserError(f"segmentation.slide_stride must lie in 1..{crop}, the size of the window, not {stride}")
    return ConfigDict(mode="slide", crop_size=(crop, crop), stride=(stride, stride))


def _least_pixels(config: SegmentationConfig, encoder: Encoder, img_size: int) -> int:
    """A window of an image that is smaller than windows is padded as in training, where the encoder may take no other size."""
    return (config.slide_crop or img_size) if config.inference == "slide" and windowed(encoder) is None else 1


def _synchronised() -> bool:
    """Whether batch statistics are taken over several processes: mmseg's SyncBN knows CUDA only."""
    return torch.cuda.is_available() and int(os.environ.get("WORLD_SIZE", "1")) > 1
