"""The transforms give the pixels that the official ones give: crops, evaluation, and timm's training pipeline."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.data import create_transform
from timm.data.auto_augment import rand_augment_transform

from tasks.classification.config import AugmentationConfig
from tasks.classification.transforms import (
    RandomResizedCropTF,
    train_transform,
    with_posterize_to_black,
)
from tasks.datasets.transforms import eval_crop, normalise
from tests.encoders import MAE, used
from tests.golden.figures import arrays, figures, picture


def seed(value: int) -> None:
    torch.manual_seed(value)
    np.random.seed(value)
    random.seed(value)


@pytest.mark.parametrize("golden", figures("eval_digests"), ids=lambda g: f"{g['size']} of {g['image']}")
def test_evaluation_pixels_equal_official(golden: dict[str, Any]) -> None:
    pixels = eval_crop(used(golden["size"]))(picture(*golden["image"]))
    assert pixels.shape == (3, golden["size"], golden["size"])
    assert pixels.dtype == torch.uint8
    assert hashlib.sha256(pixels.numpy().tobytes()).hexdigest() == golden["sha256"]


def test_normalised_evaluation_input_equals_official() -> None:
    pixels = eval_crop(used(64))(picture(150, 100))
    golden = torch.from_numpy(arrays("eval_transform")["normalised_64"])
    torch.testing.assert_close(normalise(pixels.unsqueeze(0), MAE)[0], golden, rtol=1e-5, atol=1e-6)


def test_evaluation_margin_can_be_set() -> None:
    whole = eval_crop(used(32, 1.0))(picture(32, 32))
    assert torch.equal(whole, torch.from_numpy(np.array(picture(32, 32))).permute(2, 0, 1))


def test_tf_crops_draw_the_official_boxes() -> None:
    torch.manual_seed(0)
    for width, height, low, high, *box in figures("tf_crops"):
        assert list(RandomResizedCropTF(8, (low, high)).box(width, height)) == box


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.01, 1), st.integers(0, 99))
@settings(max_examples=80)
def test_tf_crops_lie_inside_the_image(width: int, height: int, low: float, number: int) -> None:
    torch.manual_seed(number)
    top, left, h, w = RandomResizedCropTF(8, (low, 1.0)).box(width, height)
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width


@pytest.mark.parametrize("size", [48, 224])
@pytest.mark.parametrize("auto_augment", [None, "rand-m9-mstd0.5-inc1"])
def test_training_pixels_are_those_of_timms_pipeline(size: int, auto_augment: str | None) -> None:
    # What the official fine-tuning calls (util/datasets.py); erasing, which follows, is done on the device.
    theirs = create_transform(
        size, is_training=True, color_jitter=None, auto_augment=auto_augment, interpolation="bicubic", normalize=False
    )
    ours = train_transform(size, AugmentationConfig(auto_augment=auto_augment), MAE)
    for number in range(12):
        seed(number)
        wanted = theirs(picture(150, 110))
        seed(number)
        pixels = ours(picture(150, 110))
        assert torch.equal(pixels, wanted)


def test_flip_can_be_left_out() -> None:
    never, always = (train_transform(16, AugmentationConfig(hflip=p, scale=[1.0, 1.0]), MAE) for p in (0.0, 1.0))
    seed(0)
    plain = never(picture(16, 16))
    seed(0)
    assert torch.equal(always(picture(16, 16)), plain.flip(-1))


def test_hardest_posterize_is_black_and_not_an_error() -> None:
    # Pillow 13 refuses the zero bits that timm asks for at the highest magnitude.
    augment = rand_augment_transform("rand-m10-n1-inc1", {})
    (op,) = (op for op in with_posterize_to_black(augment).ops if op.name == "PosterizeIncreasing")
    op.prob = 1.0
    assert op(picture(20, 10)).getextrema() == ((0, 0),) * 3
    op.magnitude = 0
    assert op(picture(20, 10)).getextrema() != ((0, 0),) * 3
