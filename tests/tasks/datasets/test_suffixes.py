"""Which files are images: what PIL decodes here counts as one, by its name or by its first bytes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from tasks.datasets.suffixes import HEAD, by_content, is_hidden, kind_of, readable


def unopened() -> bytes:
    raise AssertionError("the name tells: no file is opened")


def test_all_that_torchvision_takes_and_more() -> None:
    assert set(IMG_EXTENSIONS) <= readable()
    for name in ("a.jpg", "a.JPEG", "a.webp", "a.tif", "a.bmp", "a.PNG", "a.gif"):
        assert kind_of(name, unopened) == "image"


@pytest.mark.parametrize("name", ["a.heic", "a.jxl", "a.CR2", "a.psd"])
def test_images_in_formats_that_are_not_read(name: str) -> None:
    assert kind_of(name, unopened) == "unknown_format"


@pytest.mark.parametrize("name", ["notes.txt", "train.csv", "a.xml", "images.zip"])
def test_no_images(name: str) -> None:
    assert kind_of(name, unopened) == "not_image"


@pytest.mark.parametrize("name", [".DS_Store", "._1.jpg", ".ipynb_checkpoints", "Thumbs.db", "@eaDir", "__MACOSX"])
def test_hidden_and_tools(name: str) -> None:
    assert is_hidden(name)


@pytest.mark.parametrize("name", ["n01440764_1", "a.jpg_large", "photo.img"])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF"])
def test_where_the_name_does_not_tell_the_first_bytes_do(name: str, format: str) -> None:
    content = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(content, format)
    assert kind_of(name, lambda: content.getvalue()[:HEAD]) == "image"
    assert kind_of(name, lambda: b"date,place\n") == "not_image"
    assert kind_of(name, lambda: b"") == "not_image"


def test_other_pictures_by_their_first_bytes() -> None:
    assert by_content(b"\0\0\0\x18ftypheic") == "unknown_format"
    assert by_content(b"8BPS\0\1") == "unknown_format"
