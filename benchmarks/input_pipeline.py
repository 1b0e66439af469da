"""Images a second that one core makes into training input: this repository's pipeline beside the official transforms.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/input_pipeline.py

What is measured is a data worker's whole work on an image: file, decoding, augmentation, its place in the batch. Both sides run
in turn in one process on the same files with one thread; figures are images a second of CPU time. See README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import RandAugment
from torch.utils.data import default_collate
from torchvision import transforms as v1
from torchvision.datasets import ImageFolder

from backbones.encoders.preprocessing import IMAGENET_MEAN, IMAGENET_STD, family_default
from tasks.classification.config import AugmentationConfig
from tasks.classification.transforms import train_crop as finetuning_crop
from tasks.classification.transforms import train_transform as finetuning_transform
from tasks.classification.transforms import with_posterize_to_black
from tasks.datasets import decoding
from tasks.datasets.decoding import decode_top, jpeg_frame, reduced, reduction, resize_crop
from tasks.datasets.images import open_split, training_images
from tasks.datasets.transforms import normalise
from tasks.pretraining.config import CropConfig
from tasks.pretraining.transforms import train_crop as pretraining_crop
from tasks.pretraining.transforms import train_transform as pretraining_transform

BATCH = 16
RAND_AUGMENT = "rand-m9-mstd0.5-inc1"

_MAE = family_default((224, 224), "MAE")


def make_files(source: Path, root: Path, count: int, long_side: int, quality: int) -> list[int]:
    """``root/train/all/N.jpg``: `count` images spread over `source`, resized to `long_side`; returns the files' sizes."""
    found = sorted(p for p in source.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    if not found:
        raise SystemExit(f"--images {source}: no JPEG there")
    folder = root / "train" / "all"
    folder.mkdir(parents=True)
    sizes = []
    for k in range(min(count, len(found))):
        with Image.open(found[k * len(found) // min(count, len(found))]) as image:
            image = image.convert("RGB")
        scale = long_side / max(image.size)
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
        file = folder / f"{k:05}.jpg"
        image.save(file, quality=quality)
        sizes.append(file.stat().st_size)
    return sizes


def official_pretraining(size: int) -> Any:
    """The transform of main_pretrain.py, from torchvision's own parts."""
    crop = v1.RandomResizedCrop(size, scale=(0.2, 1.0), interpolation=v1.InterpolationMode.BICUBIC)
    return v1.Compose([crop, v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(IMAGENET_MEAN, IMAGENET_STD)])


def official_finetuning(size: int) -> Any:
    """The transform of util/datasets.py, without random erasing, which both sides do on the device or not at all."""
    transform = create_transform(
        size,
        is_training=True,
        color_jitter=None,
        auto_augment=RAND_AUGMENT,
        interpolation="bicubic",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    for step in transform.transforms:
        if isinstance(step, RandAugment):
            with_posterize_to_black(step)
    return transform


def sides(root: Path, size: int) -> dict[str, tuple[Any, Any, Any]]:
    """Protocol -> (official data set, ours, ours by PIL)."""
    images = open_split("files", str(root), "train")
    crop, augment = CropConfig(), AugmentationConfig(auto_augment=RAND_AUGMENT)
    ours = {
        "pretraining": (pretraining_transform(size, crop), pretraining_crop(size, crop)),
        "fine-tuning": (finetuning_transform(size, augment, _MAE), finetuning_crop(size, augment, _MAE)),
    }
    theirs = {"pretraining": official_pretraining(size), "fine-tuning": official_finetuning(size)}
    return {
        name: (
            ImageFolder(str(root / "train"), theirs[name]),
            training_images(images, "fast", *ours[name]),
            training_images(images, "pil", *ours[name]),
        )
        for name in ours
    }


def seed(value: int) -> None:
    """The generators that the transforms draw from."""
    torch.manual_seed(value)
    np.random.seed(value)
    random.seed(value)


def one_pass(dataset: Any) -> float:
    """CPU seconds for every image once, collated in batches."""
    start = time.process_time()
    for first in range(0, len(dataset), BATCH):
        default_collate([dataset[i] for i in range(first, min(first + BATCH, len(dataset)))])
    return time.process_time() - start


def rates(datasets: Sequence[Any], rounds: int) -> list[list[float]]:
    """Images a second of each data set in each round; they take turns, with the same draws, after a round that goes unread."""
    found: list[list[float]] = [[] for _ in datasets]
    for number in range(-1, rounds):
        order = list(range(len(datasets)))
        for k in order[number % len(order) :] + order[: number % len(order)]:
            seed(number + 1)
            seconds = one_pass(datasets[k])
            if number >= 0:
                found[k].append(len(datasets[k]) / seconds)
    return found


class Stages:
    """CPU seconds by stage, added up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def __call__(self, name: str, work: Callable[..., Any], *given: Any) -> Any:
        start = time.process_time()
        done = work(*given)
        self.seconds[name] += time.process_time() - start
        return done


def stages_of_ours(dataset: Any, passes: int = 3) -> dict[str, float]:
    """Milliseconds an image of each stage of `tasks.datasets.images.CroppedImages` of JPEGs, the least of some passes."""
    found = []
    for number in range(passes):
        seed(number)
        stage, crop, views = Stages(), dataset.crop, []
        for i in range(len(dataset)):
            content, _ = stage("file", dataset.images.encoded, i)
            frame = stage("header", jpeg_frame, content)
            box = stage("crop box", crop.draw, frame.width, frame.height)
            scale = reduction(box, crop.size)
            pixels = stage("decode", decode_top, content, frame, box[0] + box[2], scale)
            view = stage("resize", resize_crop, pixels, reduced(box, scale), crop.size)
            views.append(stage("flip, augment", crop.then, view))
            if len(views) == BATCH:
                stage(
                    "normalise, on the device", partial(normalise, told=_MAE), stage("collate", default_collate, views)
                )
                views = []
        found.append({name: 1000 * s / len(dataset) for name, s in stage.seconds.items()})
    return {name: min(f[name] for f in found) for name in found[0]}


def stages_of_official(dataset: Any, passes: int = 3) -> dict[str, float]:
    """The same of the official transform's steps."""
    found = []
    for number in range(passes):
        seed(number)
        stage, views = Stages(), []
        for path, _ in dataset.samples:
            value = stage("file, decode", dataset.loader, path)
            for step in dataset.transform.transforms:
                value = stage(type(step).__name__, step, value)
            views.append(value)
            if len(views) == BATCH:
                stage("collate", default_collate, views)
                views = []
        found.append({name: 1000 * s / len(dataset) for name, s in stage.seconds.items()})
    return {name: min(f[name] for f in found) for name in found[0]}


def levels_apart(ours: Any, exact: Any) -> float:
    """Mean absolute difference of the pixels (of 255 levels) between two data sets under the same draws."""
    total = 0.0
    for i in range(len(ours)):
        views = []
        for dataset in (ours, exact):
            seed(i)
            views.append(dataset[i][0].int())
        total += (views[0] - views[1]).abs().float().mean().item()
    return total / len(ours)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        sizes = make_files(args.images, Path(folder), args.count, args.long_side, args.quality)
        result: dict[str, Any] = {
            "settings": {name: getattr(args, name) for name in ("long_side", "quality", "size", "rounds")},
            "files": len(sizes),
            "bytes_per_file": round(sum(sizes) / len(sizes)),
            "simplejpeg": getattr(decoding.simplejpeg, "__version__", None),
            "protocols": {},
        }
        for name, (official, ours, exact) in sides(Path(folder), args.size).items():
            theirs, fast, slow = rates([official, ours, exact], args.rounds)
            result["protocols"][name] = {
                "images_per_second": {"official": theirs, "ours": fast, "ours, data.decoder=pil": slow},
                "ratio": [b / a for a, b in zip(theirs, fast, strict=True)],
                "levels_apart": levels_apart(ours, exact),
                "milliseconds": {"official": stages_of_official(official), "ours": stages_of_ours(ours)},
            }
    return result


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    settings = result["settings"]
    lines = [
        f"{result['files']} JPEGs, long side {settings['long_side']}, quality {settings['quality']}, "
        f"{result['bytes_per_file'] / 1000:.0f} kB each; crops of {settings['size']}; one thread; "
        f"simplejpeg {result['simplejpeg'] or 'absent'}",
        "",
        "| protocol | pipeline | images/s a core: min | median | max | of the official: min | median | max |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, figures in result["protocols"].items():
        for side, readings in figures["images_per_second"].items():
            times = [b / a for a, b in zip(figures["images_per_second"]["official"], readings, strict=True)]
            lines.append(
                f"| {name} | {side} | {min(readings):.0f} | {median(readings):.0f} | {max(readings):.0f} "
                f"| {min(times):.2f} | {median(times):.2f} | {max(times):.2f} |"
            )
    for name, figures in result["protocols"].items():
        lines += ["", f"{name}: {figures['levels_apart']:.3f} of 255 levels apart on average, the draws being the same"]
        for side, stages in figures["milliseconds"].items():
            parts = ", ".join(f"{stage} {ms:.2f}" for stage, ms in stages.items())
            lines.append(f"- {side}, ms an image: {parts}")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """The command line."""
    data = Path(os.environ.get("MAE_BENCH_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--images", type=Path, default=data / "imagenet-sample", help="folder of JPEGs to make files of"
    )
    parser.add_argument("--count", type=int, default=64, help="files")
    parser.add_argument("--long-side", type=int, default=500, help="of the files, in pixels")
    parser.add_argument("--quality", type=int, default=92, help="of the files")
    parser.add_argument("--size", type=int, default=224, help="of the crops")
    parser.add_argument("--rounds", type=int, default=9, help="readings of each pipeline")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    args = parser.parse_args()
    if args.rounds < 1 or args.count < BATCH:
        parser.error(f"--rounds: give at least 1; --count: at least {BATCH}")
    if not args.images.is_dir():
        parser.error(f"--images {args.images}: no such folder")
    return args


def main() -> None:
    """Measures and prints."""
    args = parse()
    result = measure(args)
    print(json.dumps(result, indent=1) if args.json else table(result))


if __name__ == "__main__":
    main()
