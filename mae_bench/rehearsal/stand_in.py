"""What a rehearsal puts in the place of data and checkpoints that are not given: the classes of the true set and an image each,
and tensors of the published shape without content. Neither says anything of the user's own; `Rehearsal.notes` names them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from backbones.checkpoints.architecture import Architecture
from backbones.checkpoints.checkpoint import Checkpoint
from backbones.vit.arch import parse_arch
from tasks.datasets.imagenet import CORRUPTIONS, SEVERITIES, SUBSETS, class_subset, synsets
from tasks.recipe import DataConfig, Recipe

# Classes by data set, as their papers count them; ImageNet's are by name (`synsets`).
CLASSES = {
    "cifar10": 10,
    "embedded": 10,
    "inat2017": 5089,
    "inat2018": 8142,
    "inat2019": 1010,
    "places205": 205,
    "places365": 365,
    "coco": 80,
    "lvis": 1203,
}
_NEIGHBOURS = 256  # training images at least: k-NN compares with up to 200
_SIZE = (640, 480)  # pixels, width and height: COCO's usual photograph


def has_stand_in(recipe: Recipe) -> bool:
    """Whether the classes of its data set are known here; anybody's own set has its own."""
    return recipe.data.name in {*CLASSES, "imagenet", "ade20k"} and not recipe.data.options


def data_for(recipe: Recipe, root: Path) -> DataConfig:
    """`recipe`'s data in a folder below `root`: a stand-in of the set, without shares and limits, which it cannot give."""
    data = recipe.data
    about = [
        recipe.task,
        data.name,
        getattr(recipe, "test_set", None),
        data.options,
        getattr(recipe, "segmentation", None),
    ]
    folder = root / hashlib.sha256(repr(about).encode()).hexdigest()[:16]
    if not folder.exists():
        root.mkdir(parents=True, exist_ok=True)
        {"detection": _coco, "segmentation": _maps}.get(recipe.task, _classes)(recipe, folder)
    options = recipe.data.options if recipe.data.name != "embedded" else {}
    empty = {"limit_train": None, "limit_val": None, "label_share": None, "label_list": None}
    return replace(recipe.data, root=str(folder), options=options, **empty)  # type: ignore[arg-type]


def checkpoint_for(recipe: Recipe, classes: int | None = None) -> Checkpoint:
    """An encoder of the recipe's architecture as it is published: MAE's at 224 px, or the recipe's own size of small ones.

    Args:
        classes: of a head; it is then a model that was fine-tuned at the recipe's size.
    """
    arch = recipe.encoder.arch
    published = parse_arch(arch)[0] >= 768 and classes is None
    size = 224 if published else recipe.encoder.img_size
    shape = Architecture(arch, (size, size), final_norm=classes is None)
    with torch.device("meta"):
        state = shape.build().state_dict()
        width = state["cls_token"].shape[-1]
        head = {
            "fc_norm.weight": (width,),
            "fc_norm.bias": (width,),
            "head.weight": (classes, width),
            "head.bias": (classes,),
        }
        tensors = {} if classes is None else {name: torch.empty(of) for name, of in head.items()}
    name = f"stand-in for a {arch} at {size} px"
    task = None if classes is None else "classification"
    return Checkpoint(Path(name), "", "mae_bench", "MAE", shape, state, head=tensors, task=task, source=name)


def _classes(recipe: Recipe, folder: Path) -> None:
    name, test_set = recipe.data.name, getattr(recipe, "test_set", None)
    if test_set is not None:
        chosen = class_subset(test_set) if test_set in SUBSETS else range(len(synsets()))
        return _test_set(test_set, [synsets()[k] for k in chosen], folder)
    count = CLASSES.get(name, len(synsets()))
    names = synsets() if count == len(synsets()) else [f"{k:05}" for k in range(count)]
    each = -(-_NEIGHBOURS // count)
    folder.mkdir()
    _archive(folder / "train.tar", (f"{label}/t{k}.jpg" for label in names for k in range(each)), blue=90)
    _archive(folder / "val.tar", (f"{label}/v.jpg" for label in names), blue=60)


def _archive(path: Path, names: Iterable[str], blue: int) -> None:
    """A small picture under many names, in one file: tens of thousands of folders take minutes on some disks."""
    content = io.BytesIO()
    Image.new("RGB", (64, 48), (90, 120, blue)).save(content, "jpeg")
    with tarfile.open(path, "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(content.getvalue())
            content.seek(0)
            tar.addfile(member, content)


def _test_set(kind: str, names: list[str], folder: Path) -> None:
    if kind == "imagenet_c":
        kinds = [corruption for group in CORRUPTIONS.values() for corruption in group]
        one = ((c, s) for c in kinds for s in SEVERITIES)
        return _photographs(folder, (f"{c}/{s}/{names[0]}/v.jpg" for c, s in one))
    numbered = (f"val/{name}/ILSVRC2012_val_{k:08}.JPEG" for k, name in enumerate(names, 1))
    return _photographs(folder, numbered)


def _photographs(folder: Path, names: Iterable[str]) -> None:
    """A picture under many names, another one for training and for validation."""
    for name in names:
        path = folder / name
        split = "train" if "train" in name else "val"
        picture = folder.with_name(f"{folder.name}-{split}.jpg")
        if not picture.exists():
            Image.new("RGB", _SIZE, (90, 120, 90 if split == "train" else 60)).save(picture)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(picture, path)


def _coco(recipe: Recipe, folder: Path) -> None:
    options: dict[str, Any] = recipe.data.options if recipe.data.name != "embedded" else {}
    count = CLASSES.get(recipe.data.name, CLASSES["coco"])
    numbers = range(1, count + 1)
    about = {"frequency": "f", "image_count": 1, "instance_count": 1}
    categories = [{"id": k, "name": f"class {k}", **about} for k in numbers]
    for number, split in enumerate(("train", "val"), 1):
        image = {"id": number, "file_name": f"{number:012}.jpg", "width": _SIZE[0], "height": _SIZE[1]}
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []} if recipe.data.name == "lvis" else {}
        box = [40 * number, 40, 200, 160]
        x, y, width, height = box
        outline = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        object_ = {"id": 1, "image_id": number, "category_id": 1, "bbox": box, "area": width * height, "iscrowd": 0}
        content = {"images": [image], "annotations": [{**object_, "segmentation": outline}], "categories": categories}
        path = folder / options.get(f"{split}_json", f"annotations/instances_{split}2017.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        _photographs(folder, [f"{options.get(f'{split}_images', f'{split}2017')}/{image['file_name']}"])


def _maps(recipe: Any, folder: Path) -> None:
    config = recipe.segmentation
    for split in ("train", "val"):
        _photographs(folder, [f"{getattr(config, f'{split}_images')}/{split}{k}.jpg" for k in (0, 1)])
        for k in (0, 1):
            path = folder / getattr(config, f"{split}_maps") / f"{split}{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ones((_SIZE[1], _SIZE[0]), np.uint8)).save(path)
    if recipe.data.name not in ("ade20k",) and not config.class_names and config.num_classes is None:
        (folder / "classes.txt").write_text("\n".join(f"class {k}" for k in range(11)))
