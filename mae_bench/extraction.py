"""`mae-bench extract`: features of every image of a folder or tar, streamed to disk. What a feature is: `backbones.features`.

Memory holds a few batches at a time, whatever the number of images; `mae_bench.array_files` sees to it that what stands
under the final name is whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from timm.models.vision_transformer import VisionTransformer
from torch.utils.data import DataLoader, default_collate
from torchvision.transforms import v2

from backbones.checkpoint import Checkpoint, load_checkpoint
from backbones.errors import UserError, unknown
from backbones.features import Feature, choose, image_features
from mae_bench.array_files import ArrayFiles
from mae_bench.engine import Interrupted
from mae_bench.logs import console, say
from mae_bench.run_state import write_json
from mae_bench.seeding import CollateOrFail, SeededDataset, leave_signals_to_parent, raise_if_failed
from tasks.classification.config import AugmentationConfig
from tasks.classification.transforms import eval_transform
from tasks.data import IMAGENET_MEAN, IMAGENET_STD, normalise
from tasks.images import ImageSet, TransformedImages, open_folder

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PLAIN_SECONDS = 15.0  # between progress lines where stderr is no terminal


def extract(
    checkpoint: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    features: Sequence[str] = ("cls",),
    layers: Sequence[int] = (-1,),
    norm: str = "last",
    img_size: int | tuple[int, int] | None = None,
    batch_size: int = 32,
    workers: int = 2,
    precision: str = "fp32",
    skip_broken: bool = False,
) -> dict[str, Any]:
    """Writes features of every image under `data` to `out` (float32), and returns what its `sidecar` says of them.

    Whole images: nothing is masked. Rows are in the natural order of the images' names, which the sidecar lists.

    Args:
        data: class folders, a flat folder of images, or a tar of either.
        out: ``.npy`` (several features or layers: a file each, such as ``OUT-cls-layer11.npy``) or ``.safetensors``.
        features: of ``cls`` (N, D), ``mean`` (N, D) and ``patch`` (N, L, D), see `backbones.features.image_features`.
        layers: block indices, negative ones from the end.
        norm: what goes through the encoder's final norm: ``last`` (the last block), ``all`` or ``none``.
        img_size: pixels, height and width when two are given; default the checkpoint's. Positions are resampled.

    Raises:
        UserError: anything above cannot be done, or an image cannot be read.
        mae_bench.engine.Interrupted: Ctrl-C.
        In all cases nothing is left under the final names.
    """
    source = load_checkpoint(checkpoint)
    encoder = source.encoder(img_size=img_size).eval()
    wanted = choose(encoder, features, layers, norm)
    _check_loading(batch_size, workers, precision)
    images = open_folder(data)
    if skip_broken and (dropped := images.drop_broken()):
        say(f"{dropped} unreadable images left out")
    if not len(images):
        raise UserError(f"--data {data}: no image there can be read")
    files = ArrayFiles(Path(out), {feature.name: (len(images), *feature.shape) for feature in wanted})
    arrays = {
        feature.name: {"file": files.file_of(feature.name).name, **_describe(feature, len(images))}
        for feature in wanted
    }
    about = {"arrays": arrays, **_provenance(source, encoder, precision), **_rows(images)}
    try:
        with files:
            _fill(files, encoder, wanted, images, _loader(images, encoder, batch_size, workers), precision)
            files.commit()
    except KeyboardInterrupt:
        raise Interrupted(f"nothing was written to {out}: run the same command again") from None
    write_json(sidecar(files.path), about)
    return about


def sidecar(out: Path) -> Path:
    """The JSON file that goes with the features in `out`."""
    return out.with_suffix(".json")


def _check_loading(batch_size: int, workers: int, precision: str) -> None:
    if batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: give at least 1")
    if workers < 0:
        raise UserError(f"--workers {workers}: give 0 (no processes beside this one) or more")
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS, where="--precision")


def _loader(images: ImageSet, encoder: VisionTransformer, batch_size: int, workers: int) -> DataLoader[Any]:
    return DataLoader(
        SeededDataset(TransformedImages(images, transform(encoder.patch_embed.img_size))),
        batch_size=batch_size,
        sampler=[(i, 0) for i in range(len(images))],  # nothing random: any seed will do
        collate_fn=CollateOrFail(default_collate),
        num_workers=workers,
        worker_init_fn=leave_signals_to_parent,
        pin_memory=torch.cuda.is_available(),
    )


def transform(size: tuple[int, int]) -> Any:
    """Whole image -> uint8 (3, H, W): the classification tasks' evaluation crop; the largest centred one if not square."""
    if size[0] == size[1]:
        return eval_transform(size[0], AugmentationConfig())
    crop = partial(ImageOps.fit, size=(size[1], size[0]), method=Image.Resampling.BICUBIC)
    return v2.Compose([crop, v2.PILToTensor()])


def _fill(
    files: ArrayFiles,
    encoder: VisionTransformer,
    wanted: list[Feature],
    images: ImageSet,
    loader: DataLoader[Any],
    precision: str,
) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder.to(device)
    done = 0
    with _progress(len(images)) as advance:
        for batch in loader:
            pixels = normalise(raise_if_failed(batch)[0].to(device, non_blocking=True))
            with torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32"):
                found = image_features(encoder, pixels, wanted)
            for feature, rows in zip(wanted, found, strict=True):
                files.write(feature.name, done, rows.float().cpu().numpy())
            done += len(pixels)
            advance(done)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, or now and then a line where that is no terminal."""
    columns = (TextColumn("features"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    live = console.is_terminal
    started = last = time.monotonic()

    def advance(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if live:
            bar.update(task, completed=done)
        elif now - last > _PLAIN_SECONDS:
            last = now
            say(f"features  {done}/{total}  {done / (now - started):.0f} images/s")

    with Progress(*columns, console=console, disable=not live) as bar:
        task = bar.add_task("", total=total)
        yield advance


def _describe(feature: Feature, count: int) -> dict[str, Any]:
    return {
        "feature": feature.kind,
        "layer": feature.layer,
        "norm": feature.norm,  # whether the encoder's final norm was applied
        "shape": [count, *feature.shape],
        "dtype": "float32",
    }


def _provenance(source: Checkpoint, encoder: VisionTransformer, precision: str) -> dict[str, Any]:
    embed = encoder.patch_embed
    return {
        "checkpoint": {
            "path": str(source.path),
            "sha256": source.sha256,
            "layout": source.layout,
            "method": source.method,
            "arch": source.arch,
        },
        "img_size": list(embed.img_size),
        "grid": list(embed.grid_size),  # rows and columns of patches
        "blocks": len(encoder.blocks),
        "transform": " ".join(str(transform(embed.img_size)).split()),
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "precision": precision,
    }


def _rows(images: ImageSet) -> dict[str, Any]:
    """What each row of the arrays is; no classes when no image lies in a folder of its own."""
    classes = sorted(images.class_to_idx, key=lambda name: images.class_to_idx[name])
    has_classes = classes != [""]
    return {
        "data": str(images.root.resolve()),
        "classes": classes if has_classes else None,
        "labels": [images.label(i) for i in range(len(images))] if has_classes else None,
        "names": [images.relative_name(i) for i in range(len(images))],
    }
