"""A micro segmenter and batches of noise, for tests."""

from __future__ import annotations

from typing import Any

import torch

from backbones.vit.encoder import create_encoder
from tasks.segmentation.config import SegmentationConfig
from tasks.segmentation.mm import mmseg
from tasks.segmentation.model import Segmenter, build_segmenter
from tests.encoders import of_vit

CLASSES = 5


def config(**changes: Any) -> SegmentationConfig:
    small = {"out_blocks": [0, 1, 2, 3], "channels": 16, "aux_channels": 8, "slide_stride": 32}
    return SegmentationConfig(**{**small, **changes})


def segmenter(size: int = 64, drop_path: float = 0.0, **changes: Any) -> Segmenter:
    torch.manual_seed(0)
    encoder = create_encoder("vit_micro_patch8", img_size=size, drop_path=drop_path)
    return build_segmenter(of_vit(encoder), config(**changes), size, CLASSES)


def batch(*sizes: tuple[int, int], scale: int = 1, **meta: Any) -> dict[str, list[Any]]:
    """Images of noise of the given sizes whose originals are `scale` times as large."""
    generator = torch.Generator().manual_seed(0)
    result: dict[str, list[Any]] = {"inputs": [], "data_samples": []}
    for h, w in sizes:
        known = {"ori_shape": (h * scale, w * scale), "img_shape": (h, w), "img_path": f"{h}x{w}", **meta}
        sample = mmseg.structures.SegDataSample(metainfo=known)
        label = torch.randint(0, CLASSES, (1, h, w), generator=generator)
        sample.gt_sem_seg = mmseg.structures.seg_data_sample.PixelData(data=label)
        result["inputs"].append(torch.randint(0, 256, (3, h, w), generator=generator, dtype=torch.uint8))
        result["data_samples"].append(sample)
    return result
