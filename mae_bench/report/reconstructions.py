"""Reconstructions of a pre-training in the report: its own images through its own decoder, where that is cheap."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from backbones.checkpoints.checkpoint import load_checkpoint
from backbones.errors import UserError
from mae_bench.checkpoint_tools.contact_sheet import Sheet
from mae_bench.checkpoint_tools.reconstruct import COLUMNS, choose_target, draw_one, panels_of
from mae_bench.common.text import plain
from mae_bench.engine.seeding import derive
from mae_bench.records.record import Record
from mae_bench.report.pictures import is_inside
from tasks.datasets.cache_folder import default_cache_root
from tasks.datasets.images import open_split

LARGEST = 100 << 20  # bytes of a checkpoint that is small enough to be run for a page
IMAGES = 4


def sheet_of(record: Record, run_dir: Path, *, draw_data: bool) -> tuple[bytes | None, str]:
    """(PNG, "") for a pre-training with its checkpoint and its images at hand; else (None, why there is none).

    Args:
        draw_data: whether pictures of any folder that the record names may stand in a page that is sent around.
    """
    file = run_dir / "mae.safetensors"
    if not file.is_file() or not is_inside(file, run_dir):
        return None, "its checkpoint is not in the run's folder"
    if not draw_data and not is_inside(Path(record.data.root), default_cache_root()):
        return None, "pictures of a data set of this machine are drawn with --draw-data alone"
    if file.stat().st_size > LARGEST:
        return None, f"its checkpoint is large: mae-bench reconstruct {run_dir} IMAGE... --out FILE.png draws them"
    try:
        return _draw(record, file), ""
    except Exception as error:  # a run that somebody damaged or made up spoils no page
        return None, plain(str(error)) or type(error).__name__


def _draw(record: Record, file: Path) -> bytes:
    source = load_checkpoint(file)
    model = source.masked_autoencoder().eval()
    model.decoder_target = choose_target(source, model).target
    ratio = float(record.recipe.get("mae", {}).get("mask_ratio", 0.75))
    images = _images(record, (model.grid[0] * model.patch_size, model.grid[1] * model.patch_size))
    sheet = Sheet(f"{record.name}: {source.arch}, masks of {100 * ratio:g} %", COLUMNS)
    for index, (name, pixels) in enumerate(images):
        masking = draw_one("random", model.grid, ratio, derive(0, "reconstruct", index))
        panels, loss = panels_of(model, pixels, masking, source.preprocessing)
        sheet.add(f"{name}\nloss {loss:.3f}", panels)
    out = io.BytesIO()
    sheet.draw().save(out, "PNG")
    return out.getvalue()


def _images(record: Record, size: tuple[int, int]) -> list[tuple[str, torch.Tensor]]:
    """Images spread over the data set, of its validation split where it has one: (name, uint8 (3, height, width))."""
    try:
        images = open_split(record.data.name, record.data.root, "val")
    except UserError:
        images = open_split(record.data.name, record.data.root, "pretrain")
    rows = [k * len(images) // IMAGES for k in range(min(IMAGES, len(images)))]
    found = []
    for row in rows:
        fitted = ImageOps.fit(images.read(row)[0], (size[1], size[0]), Image.Resampling.BICUBIC)
        found.append((f"image {row}", torch.from_numpy(np.array(fitted)).permute(2, 0, 1)))
    return found
