"""The augmentations of Table 1e: what each of them changes in a picture, and what it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tasks.pretraining.config import CropConfig
from tasks.pretraining.transforms import train_transform

SIZE = 28
# 64 x 32 pixels whose red tells the column and whose green the row.
WIDE = Image.fromarray(
    np.stack(np.broadcast_arrays(4 * np.arange(64)[None, :], 8 * np.arange(32)[:, None], 128), -1).astype(np.uint8)
)


def views(config: CropConfig, picture: Image.Image = WIDE, count: int = 60) -> Tensor:
    """(count, 3, SIZE, SIZE) uint8, one a seed."""
    transform = train_transform(SIZE, config)
    pictures = []
    for seed in range(count):
        torch.manual_seed(seed)
        pictures.append(transform(picture))
    return torch.stack(pictures)


def is_flipped(pictures: Tensor) -> Tensor:
    """Whether red falls from left to right."""
    return pictures[:, 0, :, 0].float().mean(1) > pictures[:, 0, :, -1].float().mean(1)


def width_of_window(pictures: Tensor) -> Tensor:
    """How many source columns the view spans, from its reds."""
    columns = pictures[:, 0].float().mean(1)
    return (columns[:, -1] - columns[:, 0]).abs() / 4


@pytest.mark.parametrize("crop", ["random", "fixed", "none"])
@pytest.mark.parametrize("jitter", [0.0, 0.4])
def test_views_are_bytes_of_the_size_asked_for(crop: str, jitter: float) -> None:
    pictures = views(CropConfig(crop=crop, color_jitter=jitter), count=3)
    assert pictures.shape == (3, 3, SIZE, SIZE)
    assert pictures.dtype == torch.uint8


def test_none_is_the_middle_and_the_same_at_every_time() -> None:
    pictures = views(CropConfig(crop="none", hflip=True))
    assert (pictures == pictures[0]).all()
    assert not is_flipped(pictures).any()
    # The middle 32 of the 64 columns: reds 64 to 188.
    assert pictures[0, 0].float().mean() == pytest.approx(126, abs=2)
    # The whole height.
    assert pictures[0, 1, 0].max() < 16
    assert pictures[0, 1, -1].min() > 232


def test_fixed_crops_differ_in_place_but_not_in_size() -> None:
    pictures = views(CropConfig(crop="fixed"))
    spans = width_of_window(pictures)
    # 28 of 64 columns (64 / 32 of the 32 that the short side of 32 rows is resized to); a view spans 28 * 27 / 28 of them.
    assert (spans - spans.median()).abs().max() < 1
    assert spans.median() == pytest.approx(27, abs=1)
    middles = pictures[:, 0].float().mean((1, 2))
    assert middles.max() - middles.min() > 60
    assert 15 < is_flipped(pictures).sum() < 45


def test_random_crops_differ_in_size_too() -> None:
    spans = width_of_window(views(CropConfig(crop="random")))
    assert spans.max() > 1.7 * spans.min()
    assert 15 < is_flipped(views(CropConfig(crop="random"))).sum() < 45


@pytest.mark.parametrize("crop", ["random", "fixed"])
def test_flip_can_be_turned_off(crop: str) -> None:
    assert not is_flipped(views(CropConfig(crop=crop, hflip=False))).any()


def test_colour_jitter_changes_colours_within_its_strength() -> None:
    grey = Image.new("RGB", (32, 32), (120, 120, 120))
    plain = views(CropConfig(), grey)
    assert (plain == 120).all()
    jittered = views(CropConfig(color_jitter=0.4), grey)[:, 0].float().mean((1, 2))
    # On even grey only the brightness shows: a factor of 0.6 to 1.4.
    assert 0.6 * 120 - 1 <= jittered.min() < 85
    assert 155 < jittered.max() <= 1.4 * 120 + 1
    red = views(CropConfig(color_jitter=0.4), Image.new("RGB", (32, 32), (200, 60, 60))).float().mean((2, 3))
    # 0.1 of the circle of hues is 36 degrees: towards yellow or magenta, never past them.
    assert (red[:, 0] >= red[:, 1:].max(dim=1).values).all()
    assert (red[:, 1] - red[:, 2]).max() > 10
    assert (red[:, 1] - red[:, 2]).min() < -10
