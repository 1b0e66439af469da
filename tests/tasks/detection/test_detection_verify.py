"""`mae-bench data verify` on a COCO or LVIS folder: everything that is wrong at once, and the account."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from tests.conftest import REPO, data_folder

from .conftest import edit_json

Cli = Callable[..., Any]


def test_a_sound_folder_has_an_account_and_no_problem(coco: Path, cli: Cli) -> None:
    done = cli("data", "verify", "mine", coco)
    assert done.out.splitlines() == [
        "train  6 images, 3 classes, labels 2 to 90, 5 decoded",
        "       3 to 4 objects a class; 48x40 pixels",
        "       annotations  10 found = 10 used + 0 left out",
        "       images       6 found = 5 used + 1 left out",
        "                    1 without objects: 5.jpg",
        "       classes      3 found = 3 used + 0 left out",
        "val    5 images, 3 classes, labels 2 to 90, 5 decoded",
        "       2 to 3 objects a class; 48x40 pixels",
        "       annotations  8 found = 8 used + 0 left out",
        "       images       5 found = 5 used + 0 left out",
        "       classes      3 found = 3 used + 0 left out",
        "no published counts of mine to compare with",
        "nothing wrong (--full decodes every image)",
    ]
    assert done.code == 0


def test_all_that_is_wrong_is_said_at_once(coco: Path, cli: Cli) -> None:
    def spoil(content: Any) -> None:
        objects = content["annotations"]
        objects[0]["bbox"] = [1, 2, 3]
        objects[1]["category_id"] = "2"
        objects[2]["image_id"] = 999
        objects[3]["segmentation"] = [[1, 2, 3, 4]]
        objects[4]["iscrowd"] = 1

    edit_json(coco, "train", spoil)
    (coco / "train2017" / "3.jpg").write_bytes(b"junk")
    (coco / "val2017" / "1.jpg").unlink()
    (coco / "val2017" / "1.jpg").hardlink_to(coco / "train2017" / "4.jpg")
    done = cli("data", "verify", "coco", coco, "--json")
    report = json.loads(done.out)
    books = report["splits"][0]["account"]
    assert books["annotations"]["found"] == 10
    assert {name: entry["count"] for name, entry in books["annotations"]["left_out"].items()} == {
        "broken": 2,
        "unlisted": 1,
        "no_mask": 1,
        "crowd": 1,
    }
    assert books["images"]["left_out"]["unreadable"] == {"count": 1, "examples": ["3.jpg"]}
    problems = "\n".join(report["problems"])
    assert (
        "train: 2 of 10 annotations malformed: instances_train2017.json: annotation 1 (0.jpg) has the box" in problems
    )
    assert "train: 6 images, 118281 fewer than published" in problems
    assert "3 classes are declared, 80 are published" in problems
    assert "3.jpg: unreadable image" in problems
    assert "1 of 5 are training images too, such as 1.jpg" in problems
    assert done.code == 1


def test_a_folder_without_a_json_cannot_be_looked_at(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "x.txt").write_text("x")
    done = cli("data", "verify", "coco", tmp_path)
    assert done.code == 2
    assert "no json for train or val" in done.err


def test_options_of_the_recipe_say_what_the_layout_does_not(coco: Path, cli: Cli) -> None:
    (coco / "annotations" / "instances_val2017.json").rename(coco / "held_out.json")
    done = cli("data", "verify", "coco", coco, "--set", "data.options.val_json=held_out.json")
    assert "val    5 images" in done.out


def test_lvis_that_does_not_say_what_is_absent_is_a_problem(coco: Path, cli: Cli) -> None:
    for split in ("train", "val"):
        (coco / "annotations" / f"instances_{split}2017.json").rename(coco / "annotations" / f"lvis_v1_{split}.json")
    done = cli("data", "verify", "lvis", coco)
    assert "problem: val: " in done.out
    assert "its images have no neg_category_ids, which LVIS's AP needs" in done.out


def test_the_account_of_the_subset_of_coco_is_the_one_in_the_docs(cli: Cli) -> None:
    done = cli("data", "verify", "mine", data_folder("coco-subset"))
    shown = (REPO / "docs" / "detection.md").read_text().split("with 421 images:\n\n```\n")[1].split("```")[0]
    assert shown in done.out
    assert done.code == 0
