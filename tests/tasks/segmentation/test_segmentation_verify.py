"""`mae-bench data verify` on folders of images and maps: everything that is wrong at once, and the account."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.conftest import data_folder

from .conftest import write_pair

Cli = Callable[..., Any]


def test_a_sound_folder_has_an_account_and_no_problem(ade: Path, cli: Cli) -> None:
    for i in range(3):  # other noise than training's
        labels = np.asarray(Image.open(ade / "annotations" / "validation" / f"validation_{i}.png"))
        write_pair(ade, "validation", f"validation_{i}", labels, seed=100 + i)
    done = cli("data", "verify", "mine", ade)
    assert done.out.splitlines() == [
        "train  5 images, 3 classes, labels 1 to 3, 5 decoded",
        "       5 to 5 maps a class; 48x40 to 48x72 pixels",
        "       images   5 found = 5 used + 0 left out",
        "       maps     5 found = 5 used + 0 left out",
        "       classes  3 found = 3 used + 0 left out",
        "val    3 images, 3 classes, labels 1 to 3, 3 decoded",
        "       3 to 3 maps a class; 48x40 to 48x56 pixels",
        "       images   3 found = 3 used + 0 left out",
        "       maps     3 found = 3 used + 0 left out",
        "       classes  3 found = 3 used + 0 left out",
        "no published counts of mine to compare with",
        "nothing wrong (--full decodes every image)",
    ]
    assert done.code == 0


def test_all_that_is_wrong_is_said_at_once(ade: Path, cli: Cli) -> None:
    maps = ade / "annotations" / "training"
    write_pair(ade, "training", "beyond", np.full((8, 8), 9, np.uint8))
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(maps / "training_0.png")
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(maps / "training_1.png", format="JPEG")
    (ade / "images" / "training" / "training_2.jpg").write_bytes(b"junk")
    (ade / "images" / "training" / "lone.jpg").write_bytes((ade / "images/training/training_3.jpg").read_bytes())
    (ade / "images" / "training" / "notes.txt").write_text("x")
    done = cli("data", "verify", "mine", ade, "--json")
    report = json.loads(done.out)
    problems = "\n".join(report["problems"])
    for said in (
        "beyond.png holds label 9, but 3 classes allow",
        "training_0.png is 5x5 pixels and its image 48x40",
        "training_1.png: a map in a lossy format",
        "training_2.jpg: unreadable image",
        "1 of 8 images without a partner: ",
    ):
        assert said in problems
    books = report["splits"][0]["account"]["images"]
    assert (books["found"], books["used"]) == (8, 2)
    assert {name: entry["count"] for name, entry in books["left_out"].items()} == {
        "not_image": 1,
        "no_partner": 1,
        "unreadable": 4,
    }
    assert done.code == 1


def test_masks_of_0_and_255_are_a_problem(ade: Path, cli: Cli) -> None:
    for split in ("training", "validation"):
        for path in (ade / "annotations" / split).iterdir():
            values = np.asarray(Image.open(path))
            Image.fromarray(np.where(values > 1, 255, 0).astype(np.uint8)).save(path)
    done = cli("data", "verify", "mine", ade, "--set", "segmentation.reduce_zero_label=false")
    assert "problem: train: all labelled pixels are of one class, 'sky' in 5 maps" in done.out


def test_a_recipe_says_which_folders_are_meant(cli: Cli) -> None:
    folder = data_folder("coco-subset")
    done = cli(
        "data", "verify", "cocosubset", folder, "--recipe", "segmentation/vit_micro_patch8_cocosubset", "--sample", 20
    )
    assert "train  300 images" in done.out
    assert "images   121 found = 121 used + 0 left out" in done.out
    assert done.code == 0


def test_ade20k_is_compared_with_what_is_published(cli: Cli) -> None:
    done = cli("data", "verify", "ade20k", data_folder("ade20k-sample"))
    assert "val    3 images (published: 2,000), 15 classes (published: 150)" in done.out
    assert "problem: val: 3 images, 1997 fewer than published" in done.out
    assert done.code == 1


def test_a_folder_in_which_no_image_has_a_map_is_told_of(ade: Path, cli: Cli) -> None:
    for split in ("training", "validation"):
        for path in sorted((ade / "annotations" / split).iterdir()):
            path.rename(path.with_name(f"{path.stem}_mask.png"))
    done = cli("data", "verify", "mine", ade)
    assert done.code == 1
    assert "images  5 found = 0 used + 5 left out" in done.out
    assert "problem: val: 3 of 3 images without a partner" in done.out
    assert cli("data", "verify", "mine", ade, "--set", "segmentation.map_suffix=_mask.png").out.count("0 left out") == 6
