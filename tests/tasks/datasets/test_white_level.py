"""16-bit grey images that hold levels of eight or twelve bits: said, and read as ``data.white_level`` says, in every task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tasks.base import DataInfo
from tasks.datasets.decoding import RandomCrop
from tasks.datasets.describe import first_look
from tasks.datasets.images import CroppedImages, open_split
from tasks.datasets.options import layout_options
from tasks.recipe import DataConfig


def folder(root: Path, top: int) -> Path:
    """Two classes of grey ramps from 0 to `top` in 16-bit PNGs."""
    for name in ("cat", "dog"):
        (root / "train" / name).mkdir(parents=True)
        for i in range(2):
            ramp = np.linspace(0, top, 32 * 32).reshape(32, 32).astype(np.uint16)
            Image.fromarray(ramp).save(root / "train" / name / f"{i}.png")
    return root


@pytest.mark.parametrize(("top", "white"), [(255, 255), (4095, 4095), (65535, 65535)])
def test_the_level_that_becomes_white(top: int, white: int, tmp_path: Path) -> None:
    data = DataConfig(name="mine", root=str(folder(tmp_path, top)), white_level=white)
    images = open_split("mine", data.root, "train", options=layout_options(data))
    pixels = np.asarray(images.read(0)[0])[..., 0]
    wanted = np.linspace(0, 255, 32 * 32).reshape(32, 32)
    assert np.abs(pixels - wanted).max() <= 1.1  # rounded down twice
    crop = RandomCrop(lambda width, height: (0, 0, width, height), 32, lambda view: view)
    view, _ = CroppedImages(images, crop)[0]
    assert torch.equal(view[0], torch.from_numpy(pixels.copy()))


@pytest.mark.parametrize(("top", "white", "said"), [(255, 65535, True), (255, 255, False), (65535, 65535, False)])
def test_images_that_come_out_black_are_said(top: int, white: int, said: bool, tmp_path: Path) -> None:
    data = DataConfig(name="mine", root=str(folder(tmp_path, top)), white_level=white)
    info = DataInfo("mine", str(tmp_path), 4, 0, 2, "f")
    lines = first_look(info, {"train": open_split("mine", data.root, "train", options=layout_options(data))})
    assert any("train: 4 of 4 images" in line and "--set data.white_level=255" in line for line in lines) == said
