"""Training transforms of the official code: image -> uint8 (3, H, W); normalisation is on the device."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from PIL import Image
from timm.data.auto_augment import RandAugment, posterize, rand_augment_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision import transforms as v1
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms import functional as F

from backbones.encoders.preprocessing import Preprocessing
from tasks.classification.config import AugmentationConfig
from tasks.datasets.decoding import Box, RandomCrop, RandomFlip, to_pil

BICUBIC = InterpolationMode.BICUBIC


class RandomResizedCropTF:
    """Random resized crop with one draw, clipped to the image, as the paper's TPU code did it (util/crop.py).

    torchvision's draws again, up to ten times, until the box fits; this matters to the linear probe.
    """

    def __init__(self, size: int, scale: tuple[float, float], ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> None:
        self.size, self.scale, self.ratio = size, scale, ratio

    def box(self, width: int, height: int) -> Box:
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


def train_transform(size: int, config: AugmentationConfig, told: Preprocessing) -> Any:
    """Crop, flip and RandAugment in the order of timm's `create_transform`, which the official code calls: PIL -> uint8."""
    flip = [v2.RandomHorizontalFlip(config.hflip)] if config.hflip else []
    return v2.Compose([_crop(size, config), *flip, *_rand_augment(size, config, told), v2.PILToTensor()])


def train_crop(size: int, config: AugmentationConfig, told: Preprocessing) -> RandomCrop:
    """`train_transform` with the same draws, before anything is decoded."""
    crop = _crop(size, config)
    draw = crop.box if isinstance(crop, RandomResizedCropTF) else partial(_inception_box, crop)
    then: list[Any] = [RandomFlip(config.hflip)] if config.hflip else []
    if augment := _rand_augment(size, config, told):
        then += [to_pil, *augment, v1.PILToTensor()]
    return RandomCrop(draw, size, v1.Compose(then))


def _crop(size: int, config: AugmentationConfig) -> Any:
    scale = (config.scale[0], config.scale[1])
    if config.crop == "inception":
        return RandomResizedCropAndInterpolation(size, scale=scale, interpolation="bicubic")
    return RandomResizedCropTF(size, scale)


def _inception_box(crop: RandomResizedCropAndInterpolation, width: int, height: int) -> Box:
    box: Box = crop.get_params(torch.empty(0, height, width), crop.scale, crop.ratio)  # it asks for the size only
    return box


def _rand_augment(size: int, config: AugmentationConfig, told: Preprocessing) -> list[Any]:
    if not config.auto_augment:
        return []
    # The parameters that timm's create_transform derives for an image of this size.
    params = {
        "translate_const": int(size * 0.45),
        "img_mean": tuple(min(255, round(255 * m)) for m in told.known("RandAugment").mean or ()),
        "interpolation": Image.Resampling.BICUBIC,
    }
    return [with_posterize_to_black(rand_augment_transform(config.auto_augment, params))]


def with_posterize_to_black(augment: RandAugment) -> RandAugment:
    """timm's RandAugment on any Pillow: its hardest Posterize keeps no bits: black, or an error since Pillow 13."""
    for op in augment.ops:
        if op.name.startswith("Posterize"):
            op.aug_fn = _posterize
    return augment


def _posterize(image: Image.Image, bits: int, **kwargs: Any) -> Image.Image:
    return Image.new(image.mode, image.size) if bits < 1 else posterize(image, bits, **kwargs)
