"""A COCO-layout folder made in a blink, and recipes small enough for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.detection.config import DetectionConfig, DetectionRecipe
from tasks.recipe import DataConfig, EncoderConfig

CATEGORIES = [{"id": 7, "name": "seven"}, {"id": 2, "name": "two"}, {"id": 90, "name": "ninety"}]  # skip, and unsorted
COUNTS = {"train": 6, "val": 5}


def annotation(number: int, image: int, category: int, box: list[int]) -> dict[str, Any]:
    x, y, w, h = box
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "segmentation": [polygon],
        "area": w * h,
        "iscrowd": 0,
    }


def write_split(root: Path, split: str, count: int) -> None:
    """`count` images of 48 x 40 pixels with two rectangles each, except the last, which has none."""
    rng = np.random.default_rng(len(split))
    folder = root / f"{split}2017"
    folder.mkdir(parents=True)
    images, annotations = [], []
    for i in range(count):
        pixels = rng.integers(0, 90, (40, 48, 3), dtype=np.uint8)
        for k in range(2 if i < count - 1 else 0):
            box = [int(rng.integers(0, 20)), int(rng.integers(0, 14)), *(int(v) for v in rng.integers(12, 24, 2))]
            category = CATEGORIES[(i + k) % 3]
            pixels[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = [80 * ((i + k) % 3), 250, 200]
            annotations.append(annotation(len(annotations) + 1, 10 + i, int(str(category["id"])), box))
        Image.fromarray(pixels).save(folder / f"{i}.jpg")
        images.append({"id": 10 + i, "file_name": f"{i}.jpg", "height": 40, "width": 48})
    (root / "annotations").mkdir(exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


def edit_json(root: Path, split: str, change: Callable[[dict[str, Any]], None]) -> None:
    path = root / "annotations" / f"instances_{split}2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    root = tmp_path / "coco"
    for split, count in COUNTS.items():
        write_split(root, split, count)
    return root


def small_config(**changes: Any) -> DetectionConfig:
    values: dict[str, Any] = {
        "img_size": 64,
        "window_size": 3,
        "global_blocks": [3],
        "channels": 16,
        "anchor_sizes": [4, 8, 16, 32, 64],
        "rpn_batch_per_image": 32,
        "rpn_pre_nms_topk": [50, 50],
        "rpn_post_nms_topk": [50, 20],
        "roi_batch_per_image": 16,
        "box_fc": 32,
    }
    return DetectionConfig(**{**values, **changes})


def small_recipe(root: Path, **changes: Any) -> DetectionRecipe:
    recipe = DetectionRecipe(
        encoder=EncoderConfig("vit_micro_patch8", img_size=48),
        data=DataConfig(name="coco", root=str(root)),
        detection=small_config(**changes),
    )
    recipe.optimizer.lr = 1e-3
    recipe.train.batch_size = 2
    recipe.train.workers = 0
    return recipe
