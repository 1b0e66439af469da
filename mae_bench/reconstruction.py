"""`mae-bench reconstruct`: the paper's Figures 2 to 4 for any MAE with a decoder. Drawing the sheet is `panel_sheet`'s.

A row an image, mask sampling and mask ratio; columns: original, masked, reconstruction, and the reconstruction pasted over
what was masked (the paper leaves that out on purpose: "as no loss is computed on visible patches", Fig. 2, their
reconstruction is worse than what is known).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from backbones.checkpoint import Checkpoint, load_checkpoint
from backbones.errors import UserError, unknown
from backbones.mae import MaskedAutoencoder
from backbones.masking import SAMPLINGS, Masking, draw_masking, grid_stride, visible_count
from backbones.patches import patchify, take, unpatchify
from backbones.targets import Pixels as PixelTarget
from backbones.targets import Target, TokenTarget, create_target
from mae_bench.logs import say
from mae_bench.panel_sheet import Pixels, Sheet
from mae_bench.seeding import derive
from tasks.data import IMAGENET_MEAN, IMAGENET_STD, normalise

COLUMNS = ("original", "masked", "reconstruction", "reconstruction,\nvisible patches pasted")
PIXEL_TARGETS = ("pixels_norm", "pixels")
_GREY = 128  # of masked patches


@dataclass(frozen=True)
class Row:
    """What one row of the sheet shows."""

    image: str
    sampling: str
    mask_ratio: float
    visible: int
    patches: int
    loss: float  # over the masked patches, in the target's space, as in pre-training

    @property
    def label(self) -> str:
        percent = f"{self.sampling} {100 * self.mask_ratio:g} %"
        return f"{Path(self.image).name}\n{percent}\n{self.visible} of {self.patches} visible\nloss {self.loss:.3f}"


def reconstruct(
    checkpoint: str | Path,
    images: Sequence[str | Path],
    out: str | Path,
    *,
    mask_ratios: Sequence[float] = (0.75,),
    samplings: Sequence[str] = ("random",),
    target: str | None = None,
    img_size: int | tuple[int, int] | None = None,
    seed: int = 0,
) -> list[Row]:
    """Draws reconstructions of `images` into the PNG file `out`, and returns what its rows show.

    Masks depend on `seed` and on an image's place in the list only; with random sampling, what is visible at a higher mask
    ratio is so at a lower one. The file holds the rows and the checkpoint's sha256 as text, too (``mae_bench``).

    Args:
        checkpoint: a file with a decoder, or a pre-training's run directory.
        target: ``pixels_norm`` or ``pixels``, where the file does not say what it was trained for.
        img_size: pixels, height and width when two are given; default the checkpoint's.

    Raises:
        UserError: no decoder, a target without a way to pixels, an unreadable image, or a setting that cannot be.
    """
    out = Path(out)
    _check_out(out)
    source = load_checkpoint(with_decoder(Path(checkpoint)))
    _check_decoder(source)
    model = source.masked_autoencoder(img_size=img_size).eval()
    model.decoder_target, reason = choose_target(source, model, target)
    settings = _settings(model, samplings, mask_ratios)
    size = (model.grid[0] * model.patch_size, model.grid[1] * model.patch_size)
    pixels = [load_image(Path(path), size) for path in images]
    sheet = Sheet(f"{source.path.name}: {source.arch}, {size[0]} x {size[1]} px\n{reason}", COLUMNS)
    rows = []
    for index, path in enumerate(images):
        for sampling, ratio in settings:
            masking = _draw(sampling, model.grid, ratio, derive(seed, "reconstruct", index))
            panels, loss = panels_of(model, pixels[index], masking)
            rows.append(Row(str(path), sampling, ratio, masking.ids_keep.shape[1], masking.ids_restore.shape[1], loss))
            sheet.add(rows[-1].label, panels)
    about = {"checkpoint": source.path.name, "sha256": source.sha256, "target": model.decoder_target.name, "seed": seed}
    _save(sheet.draw(), out, {**about, "rows": [asdict(row) for row in rows]})
    return rows


@torch.no_grad()
def panels_of(model: MaskedAutoencoder, image: Tensor, masking: Masking) -> tuple[list[Pixels], float]:
    """The four panels of `COLUMNS` as (H, W, 3) uint8, and the loss, for a uint8 image (3, H, W) and its masking."""
    inputs = normalise(image.unsqueeze(0))
    patches = patchify(inputs, model.patch_size)
    prediction = model.predict(inputs, masking)
    loss = model.decoder_target.loss(
        take(prediction, masking.ids_masked), model.decoder_target(inputs, patches, masking.ids_masked)
    )
    pixels = unpatchify(model.decoder_target.to_pixels(prediction, patches), model.patch_size, model.grid)[0]
    mean, std = (torch.tensor(c).view(3, 1, 1) for c in (IMAGENET_MEAN, IMAGENET_STD))
    reconstructed = ((pixels * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    hidden = _in_pixels(masking.mask[0], model)
    masked = torch.where(hidden, torch.full_like(image, _GREY), image)
    pasted = torch.where(hidden, reconstructed, image)
    panels = [p.permute(1, 2, 0).contiguous().numpy() for p in (image, masked, reconstructed, pasted)]
    return panels, float(loss)


def _in_pixels(mask: Tensor, model: MaskedAutoencoder) -> Tensor:
    """(L,) -> (H, W) bool: which pixels lie in a masked patch."""
    grid = mask.bool().view(model.grid)
    return grid.repeat_interleave(model.patch_size, 0).repeat_interleave(model.patch_size, 1)


def choose_target(source: Checkpoint, model: MaskedAutoencoder, asked: str | None = None) -> tuple[Target, str]:
    """What the decoder was trained to predict, and a line on how that is known.

    A target with tensors of its own is in the file. Which kind of pixels is written in ours and Hugging Face's, and in official
    training checkpoints, elsewhere nowhere: then `asked` says it, or a published file's name, or normalised ones are assumed.

    Raises:
        UserError: `asked` is unknown or cannot be, or the predictions cannot be turned into pixels.
    """
    target = model.decoder_target
    if asked is not None and asked not in PIXEL_TARGETS:
        raise unknown("target", asked, PIXEL_TARGETS, where="--target")
    if not isinstance(target, PixelTarget):
        if asked is not None:
            raise UserError(
                f"--target {asked}: {source.path} was trained to predict {target.name}: leave --target away"
            )
        if isinstance(target, TokenTarget) and not hasattr(target.tokenizer, "decode"):
            raise UserError(
                f"{source.path} predicts tokens, and their tokenizer has no decoder to pixels (a method `decode`): "
                "there is nothing to draw"
            )
        return target, f"target {target.name}, as the file says"
    recorded = {True: "pixels_norm", False: "pixels", None: None}[source.target_normalised]
    if asked is not None:
        name, how = (
            asked,
            "as --target says" + (f" (the file says {recorded})" if recorded not in (None, asked) else ""),
        )
    elif recorded is not None:
        name, how = recorded, "as the file says"
    elif "visualize" in source.path.name:
        name, how = "pixels", "as published files of this name have it"
    else:
        name, how = "pixels_norm", "assumed: the file does not say (if wrong: --target pixels)"
    note = "; each patch is drawn with the original's mean and variance" if name == "pixels_norm" else ""
    return create_target(name, model.patch_size), f"target {name}, {how}{note}"


def with_decoder(path: Path) -> Path:
    """A run directory's file that has the decoder; other paths as they are."""
    inside = path / "mae.safetensors"
    return inside if path.is_dir() and inside.is_file() else path


def _check_decoder(source: Checkpoint) -> None:
    if source.decoder:
        return
    beside = source.path.with_name("mae.safetensors")
    way_out = (
        f"give {beside}"
        if beside.is_file()
        else "published ones with it are mae_visualize_vit_*.pth and mae_pretrain_vit_*_full.pth"
    )
    raise UserError(f"{source.path} holds an encoder without the decoder that a reconstruction needs: {way_out}")


def _settings(
    model: MaskedAutoencoder, samplings: Sequence[str], mask_ratios: Sequence[float]
) -> list[tuple[str, float]]:
    """Every sampling with every ratio, less those that a grid cannot have; at least one must be left."""
    patches = model.grid[0] * model.grid[1]
    for ratio in mask_ratios:
        if not 0 < ratio < 1 or not 0 < visible_count(patches, ratio) < patches:
            raise UserError(f"--mask-ratio {ratio:g}: give a share that leaves some of {patches} patches, but not all")
    possible: list[tuple[str, float]] = []
    refused: list[tuple[str, float]] = []
    for sampling in dict.fromkeys(samplings):
        if sampling not in SAMPLINGS:
            raise unknown("sampling", sampling, SAMPLINGS, where="--sampling")
        for ratio in dict.fromkeys(mask_ratios):
            fits = sampling != "grid" or _grid_fits(model.grid, ratio)
            (possible if fits else refused).append((sampling, ratio))
    ratios = ", ".join(f"{ratio:g}" for _, ratio in refused)
    line = (
        f"--sampling grid keeps one patch of each k x k, k a divisor of {model.grid[0]} and {model.grid[1]}: "
        f"no --mask-ratio {ratios} (0.75 is 2 x 2, 0.8889 is 3 x 3, 0.9375 is 4 x 4)"
    )
    if not possible:
        raise UserError(line if refused else "give at least one --sampling and one --mask-ratio")
    if refused:
        say(f"left out: {line}")
    return possible


def _grid_fits(grid: tuple[int, int], ratio: float) -> bool:
    try:
        grid_stride(grid, ratio)
    except UserError:
        return False
    return True


def _draw(sampling: str, grid: tuple[int, int], ratio: float, seed: int) -> Masking:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return draw_masking(sampling, 1, grid, ratio)


def load_image(path: Path, size: tuple[int, int]) -> Tensor:
    """The largest centred part of an image with the shape of `size` (height, width), resized to it: uint8 (3, H, W).

    As a viewer shows it: turned by its EXIF tag, transparency on white, 16 bits a channel scaled to 8.

    Raises:
        UserError: no such file, or unreadable.
    """
    try:
        with Image.open(path) as image:
            upright = _to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: give image files, such as {path}/*.jpg") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        raise UserError(f"{path}: unreadable image ({_one_line(e)}): give another one") from e
    fitted = ImageOps.fit(upright, (size[1], size[0]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits; Pillow would clip them at 255
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_out(out: Path) -> None:
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: the picture is a PNG: give a name that ends in .png")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: no folder {out.parent}: make it first")
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"--out {out}: {out.parent} is not writable: give another folder")


def _save(picture: Image.Image, out: Path, about: dict[str, object]) -> None:
    """Atomically, with `about` as the PNG's text."""
    text = PngInfo()
    text.add_text("mae_bench", json.dumps(about))
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        picture.save(temporary, format="PNG", pnginfo=text, optimize=True)
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
