"""The evaluation crop, which several tasks use. Training augmentation is each task's own."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2


def eval_crop(size: int, crop_ratio: float | None = None) -> v2.Compose:
    """PIL image -> uint8 (3, size, size): short side resized (bicubic), centre crop (util/datasets.py).

    Args:
        crop_ratio: side of the crop as a share of the resized short side; default 224 / 256 up to 224 px and 1 above.
    """
    ratio = crop_ratio or (224 / 256 if size <= 224 else 1.0)
    resize = v2.Resize(int(size / ratio), interpolation=InterpolationMode.BICUBIC)
    return v2.Compose([resize, v2.CenterCrop(size), v2.PILToTensor()])


IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, of pixels in 0..1

IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(images: Tensor) -> Tensor:
    """uint8 RGB (N, 3, H, W) on any device -> float, ImageNet's mean and deviation taken off."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=images.device).view(1, 3, 1, 1)
    return (images.float() / 255 - mean) / std
