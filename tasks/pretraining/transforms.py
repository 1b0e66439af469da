"""Augmentations of pre-training (paper Table 1e): PIL image -> uint8 (3, size, size); normalisation is on the device."""

from __future__ import annotations

from typing import Any

from torchvision.transforms import InterpolationMode, v2

from backbones.errors import UserError, unknown
from tasks.pretraining.config import CropConfig

CROPS = ("random", "fixed", "none")
_BICUBIC = InterpolationMode.BICUBIC


def check(config: CropConfig) -> None:
    """A UserError for values that `train_transform` cannot use."""
    if config.crop not in CROPS:
        raise unknown("crop", config.crop, CROPS, where="augmentation.crop")
    if not 0 <= config.color_jitter <= 1:
        raise UserError(f"augmentation.color_jitter={config.color_jitter}: give a strength from 0 to 1, such as 0.4")
    if len(config.scale) != 2 or not 0 < config.scale[0] <= config.scale[1]:
        raise UserError(f"augmentation.scale={config.scale}: give two shares of the area, such as [0.2,1.0]")


def train_transform(size: int, config: CropConfig) -> Any:
    """Crop (bicubic), flip, colour jitter; ``crop: random`` is main_pretrain.py's transform up to normalisation.

    Where the paper leaves it open: the fixed crop is of 224 px out of a short side of 256 (scaled with `size`), as evaluation
    has it; colour jitter is of every image, after the flip.
    """
    check(config)
    steps: list[Any] = []
    if config.crop == "random":
        steps.append(v2.RandomResizedCrop(size, scale=tuple(config.scale), interpolation=_BICUBIC))
    elif config.crop == "fixed":
        steps += [v2.Resize(round(size * 256 / 224), interpolation=_BICUBIC), v2.RandomCrop(size)]
    else:
        steps += [v2.Resize(size, interpolation=_BICUBIC), v2.CenterCrop(size)]
    if config.hflip and config.crop != "none":
        steps.append(v2.RandomHorizontalFlip())
    steps.append(v2.PILToTensor())
    if s := config.color_jitter:
        steps.append(v2.ColorJitter(brightness=s, contrast=s, saturation=s, hue=s / 4))
    return v2.Compose(steps)
