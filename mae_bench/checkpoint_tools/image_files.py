"""Picture files in and out: any image as a viewer shows it, a PNG written whole. Data sets read theirs in
`tasks.datasets.images`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from backbones.atomic import check_writable, replacing
from backbones.errors import UserError
from tasks.datasets.decoding import to_rgb
from tasks.datasets.pictures import UNREADABLE, open_picture


def load_image(path: Path, size: tuple[int, int]) -> Tensor:
    """The largest centred part of an image with the shape of `size` (height, width), resized to it: uint8 (3, H, W).

    As a viewer shows it: turned by its EXIF tag, transparency on white, 16 bits a channel scaled to 8.

    Raises:
        UserError: no such file, or unreadable.
    """
    try:
        with open_picture(path) as image:
            upright = to_rgb(_on_white(ImageOps.exif_transpose(image)))
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: give image files, such as {path}/*.jpg") from None
    except UNREADABLE as e:
        raise UserError(f"{path}: unreadable image ({_one_line(e)}): give another one") from e
    fitted = ImageOps.fit(upright, (size[1], size[0]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)


def _on_white(image: Image.Image) -> Image.Image:
    """A picture with transparency on white, as viewers show it."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def check_png(out: Path) -> None:
    """Refuses `out` before any work is done if no PNG can be written there."""
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: the picture is a PNG: give a name that ends in .png")
    check_writable(out)


def save_png(picture: Image.Image, out: Path, about: dict[str, object]) -> None:
    """Atomically, with `about` as the PNG's text."""
    text = PngInfo()
    text.add_text("mae_bench", json.dumps(about))
    with replacing(out) as temporary:
        picture.save(temporary, format="PNG", pnginfo=text, optimize=True)
