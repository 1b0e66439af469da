"""Augmentations of pre-training (paper Table 1e): image -> uint8 (3, size, size); normalisation is on the device."""

from __future__ import annotations

import math
from typing import Any

import torch
from torchvision import transforms as v1
from torchvision.transforms import InterpolationMode, v2

from tasks.datasets.decoding import Box, RandomCrop, RandomFlip
from tasks.pretraining.config import CropConfig

_BICUBIC = InterpolationMode.BICUBIC


class ResizedCropBox:
    """The boxes that torchvision's RandomResizedCrop draws, from the same numbers, at half its cost."""

    def __init__(self, scale: tuple[float, float], ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> None:
        self.scale, self.ratio = scale, ratio
        self.log_ratio: list[float] = torch.log(torch.tensor(ratio)).tolist()
        self._real, self._whole = torch.empty(1), torch.empty(1, dtype=torch.int64)  # drawn into

    def __call__(self, width: int, height: int) -> Box:
        """(top, left, height, width) in pixels, from torch's global generator."""
        for _ in range(10):
            area = width * height * self._real.uniform_(*self.scale).item()
            aspect = self._real.uniform_(*self.log_ratio).exp_().item()
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                top = int(self._whole.random_(height - h + 1).item())
                return top, int(self._whole.random_(width - w + 1).item()), h, w
        # The middle, of the nearest aspect ratio.
        low, high = self.ratio
        w, h = min(width, round(height * high)), min(height, round(width / low))
        return (height - h) // 2, (width - w) // 2, h, w


def train_transform(size: int, config: CropConfig) -> Any:
    """Crop (bicubic), flip, colour jitter; ``crop: random`` is main_pretrain.py's transform up to normalisation.

    Where the paper leaves it open: the fixed crop is of 224 px out of a short side of 256 (scaled with `size`), as evaluation
    has it; colour jitter is of every image, after the flip.
    """
    steps: list[Any] = []
    if config.crop == "random":
        steps.append(v2.RandomResizedCrop(size, scale=tuple(config.scale), interpolation=_BICUBIC))
    elif config.crop == "fixed":
        steps += [v2.Resize(round(size * 256 / 224), interpolation=_BICUBIC), v2.RandomCrop(size)]
    else:
        steps += [v2.Resize(size, interpolation=_BICUBIC), v2.CenterCrop(size)]
    if config.hflip and config.crop != "none":
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose([*steps, v2.PILToTensor(), *_jitter(config)])


def train_crop(size: int, config: CropConfig) -> RandomCrop | None:
    """`train_transform` with the same draws, before anything is decoded; None unless ``crop: random``."""
    if config.crop != "random":
        return None
    flip = [RandomFlip(0.5)] if config.hflip else []
    draw = ResizedCropBox((config.scale[0], config.scale[1]))
    return RandomCrop(draw, size, v1.Compose([*flip, *_jitter(config)]))


def _jitter(config: CropConfig) -> list[Any]:
    s = config.color_jitter
    return [v2.ColorJitter(brightness=s, contrast=s, saturation=s, hue=s / 4)] if s else []
