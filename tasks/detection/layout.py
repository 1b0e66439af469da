"""Which json and which folder of images a data set's split has, in the layouts that COCO jsons come in. Reads no json.

``--data NAME=DIR`` is enough for COCO 2017 and 2014, for jsons in DIR or ``annotations/`` whose names say train and val,
and for Roboflow's ``train/_annotations.coco.json``. ``data.options`` names what a layout does not tell: ``train_json``,
``val_json``, ``train_images``, ``val_images``, relative to DIR or to the current folder; ``outside: true`` takes images from
anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from tasks.datasets.suffixes import is_hidden
from tasks.detection.files import hits

OPTIONS = (*(f"{split}_{what}" for split in ("train", "val") for what in ("json", "images")), "outside")

_WORDS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "minival")}
# Jsons that lie beside those of objects.
_OTHERS = {"captions", "person", "keypoints", "stuff", "panoptic", "image", "lvis", "test", "results"}
_HITS = 20  # images that are looked for to choose their folder


def find_json(root: Path, split: str, options: Mapping[str, Any]) -> Path | None:
    """The json of `split` (train or val); None when nothing there says so.

    Raises:
        UserError: an option that is none, or names no file; or several jsons that might be meant.
    """
    if given := options.get(f"{split}_json"):
        return _given(root, f"{split}_json", given)
    if root.is_file():
        raise UserError(
            f"{root} is one file, but training and validation need a json each: give the folder, and where its names do "
            "not tell, --set data.options.train_json=FILE and --set data.options.val_json=FILE"
        )
    usual = root / "annotations" / f"instances_{split}2017.json"
    if usual.is_file():
        return usual
    found = [path for path in _jsons(root) if _split(root, path) == split]
    found = [path for path in found if "instances" in _tokens(path.stem)] or found
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(root)) for path in found[:4])
        raise UserError(
            f"{root} has several jsons for {split} ({names}): name one with --set data.options.{split}_json=FILE"
        )
    return found[0] if found else None


def no_json(root: Path, split: str) -> UserError:
    """What to say when `find_json` found none."""
    jsons = [str(path.relative_to(root)) for path in _jsons(root)]
    there = f"its only json is {jsons[0]}" if len(jsons) == 1 else f"it has {', '.join(jsons[:4]) or 'no json'}"
    return UserError(
        f"{root}: no json for {split} ({there}): name it like annotations/instances_{split}2017.json, {split}.json or "
        f"{split}/_annotations.coco.json, or give it with --set data.options.{split}_json=FILE"
    )


def find_images(root: Path, split: str, json: Path, names: Sequence[str], options: Mapping[str, Any]) -> Path:
    """The folder that the json's file names (`names`) are relative to.

    Raises:
        UserError: none of them lies in any folder of a layout that we know.
    """
    if given := options.get(f"{split}_images"):
        return _given(root, f"{split}_images", given)
    folders = [folder for folder in _image_folders(root, split, json) if folder.is_dir()]
    for loosely in (False, True):
        found = {folder: hits(folder, names[:_HITS], loosely=loosely) for folder in folders}
        best = max(folders, key=lambda folder: found[folder], default=None)
        if best is not None and found[best]:
            break
    else:
        looked = ", ".join(str(folder) for folder in folders)
        raise UserError(
            f"{names[0]}: no such image in {looked or root}, but {json} names it: "
            f"give its folder with --set data.options.{split}_images=DIR"
        )
    return best


def _given(root: Path, key: str, value: Any) -> Path:
    path = Path(str(value)).expanduser()
    base = root.parent if root.is_file() else root
    for candidate in (base / path, path):
        if candidate.is_dir() if key.endswith("_images") else candidate.is_file():
            return candidate
    kind = "folder" if key.endswith("_images") else "file"
    raise UserError(f"data.options.{key}={value}: no such {kind}, neither under {base} nor in the current folder")


def _jsons(root: Path) -> list[Path]:
    """Jsons in `root` and one folder deeper that may list objects."""
    found = [*root.glob("*.json"), *root.glob("*/*.json")]
    return sorted(
        path
        for path in found
        if not _OTHERS & set(_tokens(path.stem)) and not any(map(is_hidden, path.relative_to(root).parts))
    )


def _split(root: Path, path: Path) -> str | None:
    """train or val, by the file's name or else by its folder's; None when neither or both."""
    places = [path.stem] if path.parent == root else [path.stem, path.parent.name]
    for place in places:
        said = {split for split, words in _WORDS.items() if set(words) & set(_tokens(place))}
        if said:
            return said.pop() if len(said) == 1 else None
    return None


def _tokens(name: str) -> list[str]:
    return re.split(r"[^a-z]+", name.lower())


def _image_folders(root: Path, split: str, json: Path) -> Iterable[Path]:
    """Where images may lie, the most telling first."""
    if root.is_file():
        root = root.parent
    own = json.stem.removeprefix("instances_")
    names = list(dict.fromkeys([own, f"{split}2017", *_WORDS[split]]))
    yield from (root / name for name in names)
    yield from (root / "images" / name for name in names)
    yield from (json.parent, json.parent / "images", json.parent / "data")  # the last is FiftyOne's
    yield from (root / "images", root / "JPEGImages", root)
