"""Training and evaluation transforms of the official code: PIL image -> uint8 (3, H, W); normalisation is on the device."""

from __future__ import annotations

import math
from typing import Any

import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms import functional as F

from backbones.errors import unknown
from tasks.classification.config import AugmentationConfig
from tasks.data import IMAGENET_MEAN
from tasks.transforms import eval_crop

BICUBIC = InterpolationMode.BICUBIC


class RandomResizedCropTF:
    """Random resized crop with one draw, clipped to the image, as the paper's TPU code did it (util/crop.py).

    torchvision's draws again, up to ten times, until the box fits; this matters to the linear probe.
    """

    def __init__(self, size: int, scale: tuple[float, float], ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> None:
        self.size, self.scale, self.ratio = size, scale, ratio

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """(top, left, height, width) in pixels, from torch's global generator."""
        area = height * width * torch.empty(1).uniform_(*self.scale).item()
        low, high = (math.log(r) for r in self.ratio)
        aspect = math.exp(torch.empty(1).uniform_(low, high).item())
        w = min(round(math.sqrt(area * aspect)), width)
        h = min(round(math.sqrt(area / aspect)), height)
        top = int(torch.randint(0, height - h + 1, (1,)))
        left = int(torch.randint(0, width - w + 1, (1,)))
        return top, left, h, w

    def __call__(self, image: Image.Image) -> Image.Image:
        cropped: Image.Image = F.resized_crop(
            image, *self.box(*image.size), size=[self.size, self.size], interpolation=BICUBIC
        )
        return cropped


def train_transform(size: int, config: AugmentationConfig) -> Any:
    """Crop, flip and RandAugment in the order of timm's `create_transform`, which the official code calls."""
    scale = (config.scale[0], config.scale[1])
    if config.crop == "inception":
        crop: Any = RandomResizedCropAndInterpolation(size, scale=scale, interpolation="bicubic")
    elif config.crop == "tf":
        crop = RandomResizedCropTF(size, scale)
    else:
        raise unknown("crop", config.crop, ["inception", "tf"], where="augmentation.crop")
    steps = [crop]
    if config.hflip:
        steps.append(v2.RandomHorizontalFlip(config.hflip))
    if config.auto_augment:
        # The parameters that timm's create_transform derives for an image of this size.
        params = {
            "translate_const": int(size * 0.45),
            "img_mean": tuple(min(255, round(255 * m)) for m in IMAGENET_MEAN),
            "interpolation": Image.Resampling.BICUBIC,
        }
        steps.append(rand_augment_transform(config.auto_augment, params))
    return v2.Compose([*steps, v2.PILToTensor()])


def eval_transform(size: int, config: AugmentationConfig) -> Any:
    """Resize the short side (bicubic), centre crop: 256 and 224, or no margin above 224 px (util/datasets.py)."""
    return eval_crop(size, config.eval_crop_ratio)
