"""Pictures of strangers: a list of formats, a limit of pixels, plain files; whatever is wrong with one is said in one way."""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.datasets.pictures import FORMATS, UNREADABLE, open_picture

Image.init()  # fills `Image.SAVE`


def encoded(kind: str, side: int = 16) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims a size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + encoded("PNG")[33:]


@pytest.mark.parametrize("kind", [name for name in FORMATS if name in Image.SAVE])
def test_pictures_are_read(kind: str) -> None:
    with open_picture(encoded(kind)) as image:
        assert image.convert("RGB").size == (16, 16)


def test_a_format_that_starts_a_program_is_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "eps.jpg"
    path.write_bytes(encoded("EPS"))
    with pytest.raises(UNREADABLE), open_picture(path) as image:
        image.load()
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("size", [(14_000, 14_000), (2**31 - 1, 1), (65_000, 65_000)])
def test_a_picture_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(UNREADABLE), open_picture(claiming(*size)) as image:
        image.load()


def test_decoders_that_take_more_room_are_given_fewer_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.datasets.pictures.MOST_PIXELS", 12 * 12)
    for kind in ("PNG", "JPEG2000"):
        buffer = io.BytesIO()
        Image.new("RGB", (12, 8)).save(buffer, kind)
        if kind == "PNG":
            with open_picture(buffer.getvalue()):
                continue
        with pytest.raises(ValueError, match="12 x 8 pixels, more than"), open_picture(buffer.getvalue()):
            pass


def test_a_progressive_jpeg_of_endless_scans_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    last = content.rindex(b"\xff\xda")
    with open_picture(content) as image:
        image.load()
    (tmp_path / "x.jpg").write_bytes(content[:last] + content[last:-2] * 100 + content[-2:])
    for source in (tmp_path / "x.jpg", (tmp_path / "x.jpg").read_bytes()):
        with pytest.raises(ValueError, match="109 scans of a progressive JPEG"), open_picture(source):
            pass


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(OSError, match="a FIFO"), open_picture(tmp_path / "x.png"):
        pass


@pytest.mark.parametrize("kind", [name for name in FORMATS if name in Image.SAVE])
def test_damage_is_told_in_one_way(kind: str) -> None:
    content, draw = encoded(kind), random.Random(0)
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(draw.choice((1, 4, 30))):
            damaged[draw.randrange(min(len(damaged), 200))] = draw.randrange(256)
        try:
            with open_picture(bytes(damaged)) as image:
                image.convert("RGB")
        except UNREADABLE:
            pass
