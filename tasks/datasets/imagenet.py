"""ImageNet's 1000 classes and what other test sets have to do with them: subsets of classes, ReaL labels, corruptions.

No reading of images. Class order is that of timm and torchvision: synsets sorted.
"""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from timm.data.imagenet_info import ImageNetInfo

from backbones.errors import UserError, unknown
from backbones.plain_files import parse_json, read_plain

SUBSETS = ("imagenet_a", "imagenet_r")
"""Test sets of 200 of the 1000 classes, as timm names their lists."""

CORRUPTIONS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
"""ImageNet-C's 15 corruptions by the archive that they come in (arXiv 1903.12261, Sec. 4.1; hendrycks/robustness)."""
SEVERITIES = (1, 2, 3, 4, 5)

_VAL_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")


@cache
def synsets() -> tuple[str, ...]:
    """WordNet ids of the 1000 classes, by class index."""
    return tuple(ImageNetInfo("imagenet-1k").label_names())


def class_subset(name: str) -> list[int]:
    """Indices among the 1000 of the 200 classes of ``imagenet_a`` or ``imagenet_r``, ascending (timm's lists)."""
    if name not in SUBSETS:
        raise unknown("class subset", name, SUBSETS)
    return [int(line) for line in _timm_file(f"{name}_indices.txt").split()]


def real_labels(names: Iterable[str], file: str | Path | None = None) -> list[list[int]]:
    """ReaL labels (arXiv 2006.07159) of validation images, any number of them each; those without any do not count.

    Args:
        names: file names that hold the image's number, as in ``ILSVRC2012_val_00000293.JPEG``.
        file: ``real.json``; by default the copy that timm ships.

    Raises:
        UserError: a name without number, or `file` is no list of 50,000 lists of class indices.
    """
    labels = _read_real(Path(file).expanduser()) if file else json.loads(_timm_file("imagenet_real_labels.json"))
    found = []
    for name in names:
        number = _VAL_NUMBER.search(name)
        if number is None or not 1 <= int(number[1]) <= len(labels):
            raise UserError(
                f"{name}: ReaL labels go by the number in ILSVRC2012_val_00000001.JPEG, which this name lacks: use "
                "ImageNet's validation images under their own names"
            )
        found.append(labels[int(number[1]) - 1])
    return found


def corruption_folders(root: str | Path) -> list[tuple[str, int, Path]]:
    """(corruption, severity, class folders) of ImageNet-C, all 75: under `root`, or there under noise/, blur/ and so on.

    Raises:
        UserError: a corruption or a severity is missing; it is named.
    """
    places = corruption_places(root)
    for corruption, _, folder in places:
        if not folder.is_dir():
            group = next(group for group, members in CORRUPTIONS.items() if corruption in members)
            what = "severities are 1 to 5" if folder.parent.is_dir() else "ImageNet-C has 15 corruptions"
            missing = folder if folder.parent.is_dir() else folder.parent
            raise UserError(f"{missing}: no such folder: {what}, unpack {group}.tar{_meant(Path(root).expanduser())}")
    return places


def corruption_places(root: str | Path) -> list[tuple[str, int, Path]]:
    """As `corruption_folders`, with the places where those that are missing are expected.

    Raises:
        UserError: no such root.
    """
    base = Path(root).expanduser()
    if not base.is_dir():
        raise UserError(f"{root}: no such folder: give ImageNet-C's, with a folder a corruption")
    found = []
    for group, corruptions in CORRUPTIONS.items():
        for corruption in corruptions:
            grouped = base / group / corruption
            place = grouped if grouped.is_dir() else base / corruption
            found += [(corruption, severity, place / str(severity)) for severity in SEVERITIES]
    return found


def _meant(base: Path) -> str:
    """The folder near `base` that was probably meant: one above it, or one in it, that has whole corruptions."""
    below = sorted(path for path in base.iterdir() if path.is_dir())[:100]
    for folder in (base.parent, base.parent.parent, *below):
        if folder.is_dir() and all(place.is_dir() for *_, place in corruption_places(folder)):
            return f"; {folder} has all: is that meant?"
    return ""


def _timm_file(name: str) -> str:
    content = pkgutil.get_data("timm.data", f"_info/{name}")
    assert content is not None
    return content.decode()


def _read_real(path: Path) -> list[list[int]]:
    try:
        labels = parse_json(read_plain(path))
    except (OSError, ValueError) as e:
        raise UserError(
            f"{path}: not readable as JSON ({e}): give real.json of google-research/reassessed-imagenet"
        ) from e
    top = len(synsets())
    if (
        not isinstance(labels, list)
        or len(labels) != 50_000
        or not all(isinstance(x, list) and all(isinstance(k, int) and 0 <= k < top for k in x) for x in labels)
    ):
        raise UserError(f"{path}: not ReaL labels: expected 50,000 lists of class indices from 0 to {top - 1}")
    return labels
