"""16-bit grey images that hold levels of eight or twelve bits: said, and read as ``data.white_level`` says, in every task."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tasks.base import DataInfo
from tasks.datasets.decoding import RandomCrop, odd_images
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


@pytest.mark.parametrize(
    ("top", "white", "said"),
    [
        (255, 65535, "up to 255 alone, which come out black"),
        (900, 65535, "up to 1023 alone, which come out nearly black"),
        (4095, 65535, "up to 4095 alone, which come out nearly black"),
        (255, 255, ""),
        (65535, 65535, ""),
    ],
)
def test_images_that_come_out_black_are_said(top: int, white: int, said: str, tmp_path: Path) -> None:
    data = DataConfig(name="mine", root=str(folder(tmp_path, top)), white_level=white)
    info = DataInfo("mine", str(tmp_path), 4, 0, 2, "f")
    lines = first_look(info, {"train": open_split("mine", data.root, "train", options=layout_options(data))})
    assert any("train: 4 of 4 images" in line and "data.white_level=" in line for line in lines) == bool(said)
    assert said in lines[2]


def test_one_dark_image_among_brighter_ones_of_16_bits_is_none_of_12_bits(tmp_path: Path) -> None:
    paths = [folder(tmp_path / str(top), top) / "train/cat/0.png" for top in (3000, 60_000)]
    assert odd_images("train", paths, 65535) == []


def test_floats_and_colours_of_16_bits_that_come_out_black_or_white_are_said(tmp_path: Path) -> None:
    """Pillow keeps the upper byte of colours, and clips floats to 0 and 255."""
    shares = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    for name, levels in (("0to1", shares), ("0to255", 255 * shares), ("beyond", 300 + 9000 * shares)):
        Image.fromarray(levels).save(tmp_path / f"{name}.tif")
    rgb16 = tmp_path / "rgb16.png"
    rgb16.write_bytes(png_of_16_bit_colours(np.full((8, 8, 3), 200)))
    said = {path.name: odd_images("x", [path], 65535) for path in sorted(tmp_path.iterdir())}
    assert {name: " ".join(notes).partition("come out ")[2].partition(",")[0] for name, notes in said.items()} == {
        "0to1.tif": "black",
        "0to255.tif": "",
        "beyond.tif": "white",
        "rgb16.png": "black",
    }


def png_of_16_bit_colours(pixels: NDArray[Any]) -> bytes:
    """A PNG of (H, W, 3) levels in 16 bits, which Pillow reads and does not write."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_images_of_several_frames_or_pages_are_said(tmp_path: Path) -> None:
    """The first is read, as by torchvision and detectron2."""
    frames = [Image.fromarray(np.full((8, 8), level, np.uint8)) for level in (10, 200)]
    for name in ("one.gif", "one.tif", "moves.gif", "pages.tif", "moves.png", "moves.webp"):
        more = {} if name.startswith("one") else {"save_all": True, "append_images": frames[1:]}
        frames[0].save(tmp_path / name, **more)
    paths = sorted(tmp_path.iterdir())
    (said,) = odd_images("train", paths, 65535)
    assert said == (
        f"train: 4 of 6 images that were looked at have several frames or pages, of which the first is read, such as {paths[0]}"
    )
