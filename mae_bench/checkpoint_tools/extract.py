"""`mae-bench extract`: features of every image of a folder or tar, streamed to disk. What a feature is:
`backbones.encoders.features`.

Memory holds a few batches at a time, whatever the number of images; `tasks.features.array_files` sees to it that what stands
under the final name is whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from torchvision.transforms import v2

from backbones.atomic import write_json
from backbones.checkpoints.checkpoint import Checkpoint, load_checkpoint
from backbones.encoders.contract import Encoder
from backbones.encoders.features import Feature, choose
from backbones.encoders.preprocessing import Preprocessing
from backbones.errors import Interrupted, UserError, unknown
from mae_bench.common.console import say
from tasks.datasets.images import ImageSet, TransformedImages, open_folder
from tasks.datasets.transforms import at_evaluation, eval_crop
from tasks.features.array_files import ArrayFiles
from tasks.features.extract import PRECISIONS, feature_batches
from tasks.progress import progress


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
        features: of ``cls`` (N, D), ``mean`` (N, D) and ``patch`` (N, L, D), see `backbones.encoders.features.image_features`.
        layers: block indices, negative ones from the end.
        norm: what goes through the encoder's final norm: ``last`` (the last block), ``all`` or ``none``.
        img_size: pixels, height and width when two are given; default the checkpoint's. Positions are resampled.

    Raises:
        UserError: anything above cannot be done, or an image cannot be read.
        backbones.errors.Interrupted: Ctrl-C.
        In all cases nothing is left under the final names.
    """
    source = load_checkpoint(checkpoint)
    encoder = source.open(img_size=img_size).eval()
    used = at_evaluation(encoder.preprocessing.known(source.source or source.path), encoder.img_size)
    wanted = choose(encoder, features, layers, norm)
    _check_loading(batch_size, workers, precision)
    images = open_folder(data, skip_broken=skip_broken)
    if skip_broken and (dropped := images.drop_broken()):
        say(f"{dropped} unreadable images left out")
    if not len(images):
        raise UserError(f"--data {data}: no image there can be read")
    files = ArrayFiles(Path(out), {feature.name: (len(images), *feature.shape) for feature in wanted})
    arrays = {
        feature.name: {"file": files.file_of(feature.name).name, **_describe(feature, len(images))}
        for feature in wanted
    }
    about = {"arrays": arrays, **_provenance(source, encoder, used, precision), **_rows(images)}
    try:
        with files:
            _fill(files, encoder, wanted, images, used, batch_size=batch_size, workers=workers, precision=precision)
            files.commit()
    except (KeyboardInterrupt, Interrupted):
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


def transform(used: Preprocessing) -> Any:
    """Whole image -> uint8 (3, H, W): the classification tasks' evaluation crop; the largest centred one if not square."""
    size = used.img_size
    if size[0] == size[1] or used.crop_mode != "center":
        return eval_crop(used)
    crop = partial(ImageOps.fit, size=(size[1], size[0]), method=Image.Resampling[used.interpolation.upper()])
    return v2.Compose([crop, v2.PILToTensor()])


def _fill(
    files: ArrayFiles,
    encoder: Encoder,
    wanted: list[Feature],
    images: ImageSet,
    used: Preprocessing,
    *,
    batch_size: int,
    workers: int,
    precision: str,
) -> None:
    batches = feature_batches(
        encoder,
        wanted,
        TransformedImages(images, transform(used)),
        range(len(images)),
        batch_size=batch_size,
        workers=workers,
        precision=precision,
    )
    with progress("features", len(images)) as advance:
        for start, found in batches:
            for feature, rows in zip(wanted, found, strict=True):
                files.write(feature.name, start, rows.numpy())
            advance(start + len(found[0]))


def _describe(feature: Feature, count: int) -> dict[str, Any]:
    return {
        "feature": feature.kind,
        "layer": feature.layer,
        "norm": feature.norm,  # whether the encoder's final norm was applied
        "shape": [count, *feature.shape],
        "dtype": "float32",
    }


def _provenance(source: Checkpoint, encoder: Encoder, used: Preprocessing, precision: str) -> dict[str, Any]:
    height, width = encoder.img_size
    stride = encoder.stages[-1].stride
    return {
        "checkpoint": {
            "path": str(source.path),
            "sha256": source.sha256,
            "layout": source.layout,
            "method": source.method,
            "arch": source.arch,
        },
        "img_size": [height, width],
        "grid": [-(-height // stride), -(-width // stride)],  # rows and columns of patches
        "blocks": len(encoder.stages),
        "transform": " ".join(str(transform(used)).split()),
        "mean": list(used.mean or ()),
        "std": list(used.std or ()),
        "preprocessing": used.as_dict(),
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
