"""The evaluation crop and normalisation, which several tasks use. Training augmentation is each task's own.

What an encoder expects is `backbones.encoders.preprocessing`'s.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from timm.data.transforms_factory import transforms_imagenet_eval
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from backbones.encoders.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, family_default


def at_evaluation(
    told: Preprocessing, img_size: int | tuple[int, int], crop_ratio: float | None = None
) -> Preprocessing:
    """What an encoder's images go through at `img_size` pixels (height, width).

    Args:
        told: the encoder's own. Where it is MAE's, or nothing told the crop, that is the official one of this size
            (util/datasets.py): 224 / 256 up to 224 px and 1 above.
        crop_ratio: the recipe's side of the crop as a share of the resized short side, before the encoder's.
    """
    size = (img_size, img_size) if isinstance(img_size, int) else img_size
    used = replace(told, img_size=size, source={**told.source, "img_size": "the recipe"})
    if crop_ratio is not None:
        return replace(used, crop_pct=crop_ratio, source={**used.source, "crop_pct": "eval_crop_ratio of the recipe"})
    if told.is_imagenet or "crop_pct" in told.assumed:
        return replace(used, crop_pct=family_default(size, "").crop_pct)
    return used


def eval_crop(used: Preprocessing) -> Any:
    """PIL image -> uint8 (3, H, W): short side resized, centre crop, or as the encoder's crop mode has it (timm's)."""
    height, width = used.img_size
    if used.crop_mode == "center" and height == width:
        resize = v2.Resize(int(height / used.crop_pct), interpolation=InterpolationMode(used.interpolation))
        return v2.Compose([resize, v2.CenterCrop(height), v2.PILToTensor()])
    return transforms_imagenet_eval(
        used.img_size,
        crop_pct=used.crop_pct,
        crop_mode=used.crop_mode,
        interpolation=used.interpolation,
        mean=used.known("eval_crop").mean or (),
        normalize=False,
    )


def normalise(images: Tensor, told: Preprocessing) -> Tensor:
    """uint8 RGB (N, 3, H, W) on any device -> float, the encoder's mean and deviation taken off."""
    mean, std = mean_std(told, images.device)
    return (images.float() / 255 - mean) / std


def has_imagenet_colours(told: Preprocessing) -> bool:
    """Whether detectron2 and mmseg normalise themselves, as they did for published figures: of other encoders' images the
    result would differ from their libraries' own in the last bit."""
    return (told.mean, told.std) == (IMAGENET_MEAN, IMAGENET_STD)


def mean_std(told: Preprocessing, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Both as (3, 1, 1)."""
    known = told.known("this encoder")
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (known.mean, known.std))
    return mean, std
