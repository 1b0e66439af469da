"""Folders of images and class maps: which image goes with which map, and the names of the classes. Opens no image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backbones.errors import UserError
from tasks.segmentation.config import SegmentationConfig
from tasks.segmentation.mm import ADE20KDataset

IGNORE = 255  # label of pixels that count neither in the loss nor in the metric
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")  # in lower case
ADE_FOLDER = "ADEChallengeData2016"
ADE_CLASSES: tuple[str, ...] = tuple(ADE20KDataset.METAINFO["classes"])
CLASS_LIST = "classes.txt"


@dataclass(frozen=True)
class Pair:
    """An image and its map of classes."""

    image: Path
    map: Path


def layout_root(root: Path, config: SegmentationConfig) -> Path:
    """`root`, or the folder ADEChallengeData2016 in it when the layout is there."""
    inside = root / ADE_FOLDER
    return inside if not (root / config.val_images).is_dir() and inside.is_dir() else root


def find_pairs(root: Path, images: str, maps: str, config: SegmentationConfig) -> list[Pair]:
    """The images of a folder and of those below it with their maps, in order of path.

    Raises:
        UserError: a folder is missing or holds no image, an image has no map, or two images would share one.
    """
    image_folder, map_folder = root / images, root / maps
    for folder in (image_folder, map_folder):
        if not folder.is_dir():
            raise UserError(
                f"{folder}: no such folder; segmentation reads {images} and {maps} below the data set's folder "
                "(--set segmentation.train_images=… and the like name others)"
            )
    found = sorted(path for path in image_folder.rglob("*") if _is_image(path, config.image_suffix))
    if not found:
        wanted = f"*{config.image_suffix}" if config.image_suffix else " or ".join(SUFFIXES)
        raise UserError(f"{image_folder}: the folder holds no {wanted} (see segmentation.image_suffix)")
    owner: dict[Path, Path] = {}
    for image in found:
        stem = image.relative_to(image_folder).as_posix().removesuffix(config.image_suffix or image.suffix)
        map_file = map_folder / f"{stem}{config.map_suffix}"
        if map_file in owner:
            raise UserError(
                f"{owner[map_file]} and {image.name} would share the map {map_file.name}: remove or rename one, "
                "or name the images' suffix by segmentation.image_suffix"
            )
        owner[map_file] = image
    for map_file, image in owner.items():
        if not map_file.is_file():
            raise UserError(f"{image} has no map: {map_file} is missing (see segmentation.map_suffix)")
    return [Pair(image, map_file) for map_file, image in owner.items()]


def _is_image(path: Path, suffix: str | None) -> bool:
    if path.name.startswith("."):
        return False  # such as macOS's ._x.jpg, which is no image
    return path.name.endswith(suffix) if suffix else path.suffix.lower() in SUFFIXES


def class_names(root: Path, data_name: str, num_classes: int | None, told: Sequence[str] | None = None) -> list[str]:
    """Names of the classes, in order of label: `told`, else those of ``classes.txt``, else ADE20K's for the data set ade20k.

    Their number is `num_classes` where it is given; names that are another number then give way to "0", "1", ….
    """
    names = _checked(list(told), "segmentation.class_names") if told else _read_class_list(root / CLASS_LIST)
    if names is None and data_name == "ade20k":
        names = list(ADE_CLASSES)
    if num_classes is None:
        if names is None:
            raise UserError(f"{root}: no {CLASS_LIST} and no --set segmentation.num_classes=…: give one of them")
        return names
    if not 1 <= num_classes <= IGNORE:
        raise UserError(f"segmentation.num_classes must lie in 1..{IGNORE}, not {num_classes}")
    return names if names and len(names) == num_classes else [str(i) for i in range(num_classes)]


def _read_class_list(path: Path) -> list[str] | None:
    """A name a line, or a tab-separated table as ADE20K's objectInfo150.txt: headed ``Idx``, the name last."""
    if not path.is_file():
        return None
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: the list of classes is not UTF-8 ({e.reason}): save it as such") from e
    if lines and lines[0].startswith("Idx"):
        lines = [line.split("\t")[-1] for line in lines[1:]]
    if not lines:
        raise UserError(f"{path}: the list of classes is empty")
    return _checked([line.strip() for line in lines], str(path))


def _checked(names: list[str], where: str) -> list[str]:
    if len(names) > IGNORE:
        raise UserError(f"{where} names {len(names)} classes: at most {IGNORE} are possible: {IGNORE} means unlabelled")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{where} names {twice[0]!r} twice: every class needs a name of its own")
    return names
