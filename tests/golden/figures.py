"""Reads the stored figures, and draws the weights and pictures that they were computed with (see README.md)."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

_HERE = Path(__file__).parent


def arrays(name: str) -> dict[str, NDArray[Any]]:
    """All arrays of ``name.npz``."""
    with np.load(_HERE / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def figures(name: str) -> Any:
    """An entry of figures.json."""
    return json.loads((_HERE / "figures.json").read_text())[name]


def tensor(name: str, shape: tuple[int, ...], scale: float = 0.05, offset: float = 0.0) -> Tensor:
    """Normal numbers that depend on `name` alone."""
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    return torch.from_numpy((offset + scale * draw).astype(np.float32))


@torch.no_grad()
def draw_weights(parameters: dict[str, nn.Parameter], positions: bool = False) -> None:
    """Fills parameters, given by their official names; sin-cos positions stay unless `positions`."""
    for name, parameter in parameters.items():
        if name.endswith("pos_embed") and not positions:
            continue
        norm = name.endswith("weight") and parameter.ndim == 1
        parameter.copy_(tensor(name, tuple(parameter.shape), offset=1.0 if norm else 0.0))


def sketch(name: str, values: Tensor, projections: int = 8) -> NDArray[np.float64]:
    """The L2 norm of a tensor, then its products with directions of random signs that depend on `name` alone.

    Such a product is normally distributed about 0 with the norm as its standard deviation, so two tensors that differ by a
    share e of their norm have products that differ by about e times the norm: a few numbers stand for a large tensor.
    """
    flat = values.detach().double().flatten().numpy()
    random = np.random.RandomState(zlib.crc32(name.encode()))
    signs = np.unpackbits(np.frombuffer(random.bytes(projections * (-(-flat.size // 8))), np.uint8)).reshape(
        projections, -1
    )
    products = [flat @ (2.0 * row[: flat.size] - 1.0) for row in signs]
    return np.array([np.linalg.norm(flat), *products])


def picture(width: int, height: int) -> Image.Image:
    """An RGB picture with fine and coarse structure."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [(x * x // 7 + 3 * y) % 256, (x * y // 5 + 11) % 256, (x // 4 + y // 3) * 37 % 256]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))
