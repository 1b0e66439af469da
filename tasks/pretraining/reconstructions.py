"""Reconstructions as the paper's triplets (Figures 2 to 4): masked, reconstruction, original. No layout of sheets.

Visible patches of the reconstruction are those of the image, which the paper's note to Figure 2 calls better to look at: "as no
loss is computed on visible patches", what the decoder gives there is worse than what is known.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from backbones.atomic import write_bytes
from backbones.encoders.preprocessing import Preprocessing
from backbones.mae.masking import Masking, draw_masking
from backbones.mae.model import MaskedAutoencoder
from backbones.mae.patches import patchify, take, unpatchify
from backbones.mae.targets import TokenTarget
from tasks.contact_sheet import Pixels, Sheet
from tasks.datasets.images import ImageSet
from tasks.datasets.transforms import mean_std, normalise

COLUMNS = ("masked", "reconstruction", "original")
FILE = "reconstructions.png"
IMAGES = 8  # that a pre-training draws, two triplets side by side
_GREY = 128  # of masked patches


@torch.no_grad()
def triplet(
    model: MaskedAutoencoder, image: Tensor, masking: Masking, told: Preprocessing
) -> tuple[list[Pixels], float]:
    """The panels of `COLUMNS` as (H, W, 3) uint8, and the loss over the masked patches as in pre-training.

    Args:
        image: uint8 (3, H, W).
        masking: of one image, (1, L).
        told: the encoder's preprocessing.
    """
    inputs = normalise(image.unsqueeze(0), told)
    patches = patchify(inputs, model.patch_size)
    prediction = model.predict(inputs, masking)
    loss = model.decoder_target.loss(
        take(prediction, masking.ids_masked), model.decoder_target(inputs, patches, masking.ids_masked)
    )
    pixels = unpatchify(model.decoder_target.to_pixels(prediction, patches), model.patch_size, model.grid)[0]
    mean, std = mean_std(told, image.device)
    predicted = ((pixels * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    hidden = _in_pixels(masking.mask[0], model)
    masked = torch.where(hidden, torch.full_like(image, _GREY), image)
    panels = (masked, torch.where(hidden, predicted, image), image)
    return [p.permute(1, 2, 0).contiguous().cpu().numpy() for p in panels], float(loss)


def _in_pixels(mask: Tensor, model: MaskedAutoencoder) -> Tensor:
    """(L,) -> (H, W) bool: which pixels lie in a masked patch."""
    grid = mask.bool().view(model.grid)
    return grid.repeat_interleave(model.patch_size, 0).repeat_interleave(model.patch_size, 1)


def draw_one(
    sampling: str, grid: tuple[int, int], ratio: float, seed: int, device: torch.device | str = "cpu"
) -> Masking:
    """The masking of one image, (1, L), that `seed` gives on every device; other random states stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = draw_masking(sampling, 1, grid, ratio)
    return Masking(drawn.ids_keep.to(device), drawn.ids_masked.to(device), drawn.ids_restore.to(device))


def draw(model: MaskedAutoencoder, images: ImageSet, told: Preprocessing, file: Path, *, sampling: str) -> None:
    """Triplets of images spread over a set, by a model on any device, as a PNG file; nothing for tokens without a decoder."""
    target = model.decoder_target
    if isinstance(target, TokenTarget) and not hasattr(target.tokenizer, "decode"):
        return
    size = (model.grid[1] * model.patch_size, model.grid[0] * model.patch_size)
    device = next(model.parameters()).device
    sheet = Sheet(COLUMNS, across=2)
    training = model.training
    model.eval()
    try:
        for row in dict.fromkeys(k * len(images) // IMAGES for k in range(IMAGES)):
            fitted = ImageOps.fit(images.read(row)[0], size, Image.Resampling.BICUBIC)
            pixels = torch.from_numpy(np.array(fitted)).permute(2, 0, 1).to(device)
            masking = draw_one(sampling, model.grid, model.mask_ratio, row, device)
            panels, loss = triplet(model, pixels, masking, told)
            sheet.add(f"image {row}, {sampling} {100 * model.mask_ratio:g} %, loss {loss:.3f}", panels)
    finally:
        model.train(training)
    write_bytes(file, sheet.png())
