"""Draws the pictures of docs/masking.md: ``python docs/make_pictures.py``. Photographs are those in scikit-image's wheel."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageOps

from backbones.mae.masking import draw_masking

GRID, PATCH = (14, 14), 8
OUT = Path(__file__).parent / "pictures"
CASES = (("random", 0.75), ("block", 0.5), ("block", 0.75), ("grid", 0.75))
TITLES = [f"{sampling} {ratio:.0%}" for sampling, ratio in CASES]
GREY = 150


def photograph(name: str) -> NDArray[np.uint8]:
    """The middle square of a photograph, (112, 112, 3)."""
    spec = importlib.util.find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    with Image.open(Path(spec.origin).parent / "data" / name) as image:
        return np.asarray(ImageOps.fit(image.convert("RGB"), (GRID[1] * PATCH, GRID[0] * PATCH)))


def masks(sampling: str, ratio: float, count: int) -> NDArray[np.bool_]:
    """(count, 14, 14), True where masked."""
    return draw_masking(sampling, count, GRID, ratio).mask.bool().unflatten(1, GRID).numpy()


def masked(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The picture with its masked patches grey."""
    pixels = mask.repeat(PATCH, 0).repeat(PATCH, 1)[..., None]
    return np.where(pixels, np.uint8(GREY), image)


def save(figure: Figure, name: str, colours: int) -> None:
    """As a PNG with a palette, since the pictures lie in the repository."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    plt.close(figure)
    OUT.mkdir(exist_ok=True)
    Image.open(buffer).convert("RGB").quantize(colours).save(OUT / name, optimize=True)


def draw_samplings() -> None:
    """The paper's Figure 6 and one more picture a column: a photograph, and what each sampling leaves of it."""
    names = ("astronaut.png", "chelsea.png", "coffee.png")
    figure, axes = plt.subplots(len(names), 1 + len(CASES), figsize=(6.2, 3.9), layout="constrained")
    for row, name in zip(axes, names, strict=True):
        image = photograph(name)
        row[0].imshow(image)
        for axis, (sampling, ratio) in zip(row[1:], CASES, strict=True):
            axis.imshow(masked(image, masks(sampling, ratio, 1)[0]), interpolation="nearest")
    for axis, title in zip(axes[0], ["photograph", *TITLES], strict=True):
        axis.set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    save(figure, "samplings.png", colours=64)


def draw_many() -> None:
    """Eight masks of each sampling, as plain grids: white is visible."""
    figure, axes = plt.subplots(len(CASES), 8, figsize=(6.2, 3.4), layout="constrained")
    for row, title, (sampling, ratio) in zip(axes, TITLES, CASES, strict=True):
        for axis, mask in zip(row, masks(sampling, ratio, 8), strict=True):
            axis.imshow(mask, cmap="Greys", vmin=0, vmax=1.6, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(title, fontsize=8, rotation=0, ha="right", va="center")
    save(figure, "masks.png", colours=8)


def draw_shares() -> None:
    """How often each position is masked."""
    figure, axes = plt.subplots(1, len(CASES), figsize=(6.2, 1.8), layout="constrained")
    for axis, title, (sampling, ratio) in zip(axes, TITLES, CASES, strict=True):
        share = masks(sampling, ratio, 20_000).mean(axis=0)
        drawn = axis.imshow(share, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(f"{title}\n{share.min():.2f} to {share.max():.2f}", fontsize=8)
        axis.set(xticks=[], yticks=[])
    figure.colorbar(drawn, ax=axes, shrink=0.8, ticks=[0, 0.5, 1]).ax.tick_params(labelsize=8)
    save(figure, "shares.png", colours=128)


if __name__ == "__main__":
    torch.manual_seed(0)
    draw_samplings()
    draw_many()
    draw_shares()
