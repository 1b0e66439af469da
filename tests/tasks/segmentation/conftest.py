"""A small data set in ADE20K's layout, made here, and a recipe that reads it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae_bench.recipes.load import load_recipe
from tasks.segmentation.config import SegmentationRecipe

RecipeMaker = Callable[..., SegmentationRecipe]


def write_pair(folder: Path, split: str, name: str, labels: np.ndarray, seed: int = 0) -> None:
    """An image of noise and its map, `labels` (H, W) uint8."""
    noise = np.random.default_rng(seed).integers(0, 256, (*labels.shape, 3), dtype=np.uint8)
    for kind, content, suffix in (("images", noise, "jpg"), ("annotations", labels, "png")):
        path = folder / kind / split / f"{name}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(content).save(path)


@pytest.fixture
def ade(tmp_path: Path) -> Path:
    """Five training and three validation pairs of unequal sizes; map values 0 (unlabelled) to 3, three classes."""
    generator = np.random.default_rng(0)
    for split, count in {"training": 5, "validation": 3}.items():
        for i in range(count):
            labels = generator.integers(0, 4, (40 + 8 * i, 48), dtype=np.uint8)
            write_pair(tmp_path / "ade", split, f"{split}_{i}", labels, seed=i)
    (tmp_path / "ade" / "classes.txt").write_text("sky\nsea\nsand\n")
    return tmp_path / "ade"


@pytest.fixture
def recipe() -> RecipeMaker:
    """``recipe(root, "a.b=c", ...)``: the shipped embedded recipe cut down to 32 pixels, on the data set in `root`."""

    def make(root: Path | None, *overrides: str) -> SegmentationRecipe:
        small = ["encoder.img_size=32", "segmentation.resize_scale=[64,32]", "segmentation.channels=8"]
        small += ["segmentation.aux_channels=8", "train.batch_size=2", "train.workers=0", "schedule.iterations=2"]
        small += ["segmentation.class_weight=null"]
        small += ["data.name=small", f"data.root={root}"] if root else []
        loaded = load_recipe("segmentation/vit_micro_patch8_embedded", [*small, *overrides])
        assert isinstance(loaded, SegmentationRecipe)
        return loaded

    return make


@pytest.fixture
def shared_data() -> Path:
    """Real data beside the checkout, or where MAE_BENCH_DATA says."""
    default = Path(__file__).resolve().parents[4] / "shared" / "data"
    path = Path(os.environ.get("MAE_BENCH_DATA", default))
    if not path.is_dir():
        pytest.skip(f"no reference data in {path} (MAE_BENCH_DATA names another folder)")
    return path
