"""What the variance of an encoder's patch tokens is about: where a patch lies, which image it is of, or what is in it.

An encoder whose tokens mostly tell *where* is hard to use for heads that must find the same thing anywhere.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones.checkpoints.checkpoint import load_checkpoint
from backbones.encoders.features import choose
from backbones.errors import UserError
from mae_bench.checkpoint_tools.extract import transform
from tasks.datasets.images import TransformedImages, open_folder
from tasks.datasets.transforms import at_evaluation
from tasks.features.extract import feature_batches
from tasks.progress import progress


@dataclass(frozen=True)
class Shares:
    """Shares of the tokens' summed variance after a block, before the final norm; together 1.

    Attributes:
        position: of the mean over all images at each place.
        image: of the mean over all places of each image.
        rest: what an image has at a place beyond both.
    """

    block: int
    position: float
    image: float
    rest: float


class Sums:
    """Running sums of a two-way layout (images x places), from which `shares` follow exactly; float64."""

    def __init__(self) -> None:
        self.count = 0
        self.by_place = torch.zeros(0)  # (L, D)
        self.of_squares = self.of_image_means = 0.0

    def add(self, tokens: Tensor) -> None:
        """(N, L, D) tokens of N more images."""
        if self.count == 0:
            self.origin = tokens.double().mean(dim=(0, 1))  # near the mean: squares of small numbers lose no digits
            self.by_place = torch.zeros(tokens.shape[1:], dtype=torch.float64)
        tokens = tokens.double() - self.origin
        self.count += len(tokens)
        self.by_place += tokens.sum(dim=0)
        self.of_squares += float(tokens.square().sum())
        self.of_image_means += float(tokens.mean(dim=1).square().sum())

    def shares(self, block: int) -> Shares:
        """Of what was added; the sum of squares is parted as in an analysis of variance without replication."""
        images, (places, _) = self.count, self.by_place.shape
        whole = self.by_place.sum(dim=0).square().sum().item() / (images * places)
        total = self.of_squares - whole
        if total <= 0:
            return Shares(block, 0.0, 0.0, 0.0)
        position = (self.by_place.square().sum().item() / images - whole) / total
        image = (places * self.of_image_means - whole) / total
        return Shares(block, position, image, 1 - position - image)


def token_variance(
    checkpoint: str | Path,
    images: str | Path,
    *,
    img_size: int | tuple[int, int] | None = None,
    batch_size: int = 32,
    workers: int = 2,
) -> dict[str, Any]:
    """`Shares` by block over the images of a folder or tar, whole images at the checkpoint's size, nothing masked.

    With few images a part of `rest` is counted as the others' by chance: ``by_chance`` has the shares that tokens without
    any structure would give.

    Args:
        img_size: pixels; default the checkpoint's. Positions are resampled.

    Raises:
        UserError: not a checkpoint, no folder of images, or fewer than two images in it.
    """
    encoder = load_checkpoint(checkpoint).open(img_size=img_size).eval()
    if encoder.hierarchical:
        raise UserError(f"{checkpoint}: maps of {encoder.arch} have several sizes: this compares places of one grid")
    used = at_evaluation(encoder.preprocessing.known(checkpoint), encoder.img_size)
    found = open_folder(images, skip_broken=True)
    if len(found) < 2:
        raise UserError(f"--images {images}: one image tells nothing of what images have in common: give at least two")
    wanted = choose(encoder, ["patch"], range(len(encoder.stages)), norm="none")
    sums = [Sums() for _ in wanted]
    batches = feature_batches(
        encoder,
        wanted,
        TransformedImages(found, transform(used)),
        range(len(found)),
        batch_size=batch_size,
        workers=workers,
    )
    with progress("token variance", len(found)) as advance:
        for start, features in batches:
            for one, tokens in zip(sums, features, strict=True):
                one.add(tokens)
            advance(start + len(features[0]))
    places = wanted[0].shape[0]
    return {
        "images": len(found),
        "places": places,
        "img_size": list(encoder.img_size),
        "blocks": [asdict(one.shares(block)) for block, one in enumerate(sums)],
        "by_chance": {
            "position": (places - 1) / (len(found) * places - 1),
            "image": (len(found) - 1) / (len(found) * places - 1),
        },
    }


def lines(variance: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows (heading, text) for people."""
    height, width = variance["img_size"]
    chance = variance["by_chance"]
    rows = [
        (
            "token variance",
            f"of {variance['images']} images at {height} x {width} px: explained by position, by image, by neither; by chance "
            f"position {100 * chance['position']:.1f} %, image {100 * chance['image']:.1f} %",
        )
    ]
    for block in variance["blocks"]:
        position, image, rest = (f"{100 * block[key]:5.1f} %" for key in ("position", "image", "rest"))
        rows.append((f"block {block['block']}", f"position {position}   image {image}   rest {rest}"))
    return rows
