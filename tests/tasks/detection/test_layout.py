"""A data set's jsons and images are found by what lies there; what is not clear is asked for in one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from backbones.errors import UserError
from mae_bench.recipes.load import load_recipe
from tasks import check_recipe
from tasks.detection.data import read_split

from .conftest import COUNTS


def move(coco: Path, jsons: Mapping[str, str], images: Mapping[str, str]) -> Path:
    """The folder rearranged: where each split's json and its images shall lie."""
    root = coco.parent / "mine"
    for split in ("train", "val"):
        json, folder = root / jsons[split], root / images[split]
        json.parent.mkdir(parents=True, exist_ok=True)
        (coco / "annotations" / f"instances_{split}2017.json").rename(json)
        if folder.is_dir():
            for image in (coco / f"{split}2017").iterdir():
                image.rename(folder / image.name)
        else:
            folder.parent.mkdir(parents=True, exist_ok=True)
            (coco / f"{split}2017").rename(folder)
    return root


LAYOUTS = {
    "COCO 2017": ("annotations/instances_{}2017.json", "{}2017"),
    "COCO 2014": ("annotations/instances_{}2014.json", "{}2014"),
    "jsons in annotations": ("annotations/{}.json", "{}"),
    "jsons beside the folders": ("{}.json", "{}"),
    "jsons beside, images/train": ("instances_{}.json", "images/{}"),
    "jsons inside the folders": ("{}/annotations.json", "{}"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_are_known_by_what_lies_there(coco: Path, name: str) -> None:
    json, images = ({s: text.format(s) for s in ("train", "val")} for text in LAYOUTS[name])
    root = move(coco, json, images)
    for split, count in COUNTS.items():
        found = read_split(root, split)
        assert (found.json, found.images) == (root / json[split], root / images[split])
        assert len(found.records) == count


def test_roboflows_layout(coco: Path) -> None:
    root = move(
        coco,
        {"train": "train/_annotations.coco.json", "val": "valid/_annotations.coco.json"},
        {"train": "train_images", "val": "valid_images"},
    )
    for folder in ("train", "valid"):
        for image in (root / f"{folder}_images").iterdir():
            image.rename(root / folder / image.name)
    assert read_split(root, "train").images == root / "train"
    assert read_split(root, "val").images == root / "valid"


def test_other_jsons_of_coco_do_not_confuse(coco: Path) -> None:
    for name in ("captions", "person_keypoints", "stuff"):
        (coco / "annotations" / f"{name}_train2017.json").write_text("{}")
    assert read_split(coco, "train").json.name == "instances_train2017.json"
    (coco / "annotations" / "instances_train2017.json").rename(coco / "annotations" / "instances_train2014.json")
    assert read_split(coco, "train").json.name == "instances_train2014.json"


def test_several_that_may_be_meant_are_named_and_one_can_be_chosen(coco: Path) -> None:
    annotations = coco / "annotations"
    (annotations / "instances_train2017.json").rename(annotations / "train_a.json")
    (annotations / "train_b.json").write_text((annotations / "train_a.json").read_text())
    with pytest.raises(UserError, match=r"several jsons for train .*train_a\.json.*data\.options\.train_json=FILE"):
        read_split(coco, "train")
    assert read_split(coco, "train", {"train_json": "annotations/train_b.json"}).json == annotations / "train_b.json"
    assert read_split(coco, "train", {"train_json": str(annotations / "train_a.json")}).json.name == "train_a.json"


def test_one_json_for_both_is_not_taken_for_either(coco: Path) -> None:
    root = move(coco, {"train": "data.json", "val": "away/val.json"}, {"train": "images", "val": "away/images"})
    (root / "away" / "val.json").unlink()
    for split in ("train", "val"):
        with pytest.raises(UserError, match=rf"no json for {split} \(its only json is data\.json\).*{split}_json=FILE"):
            read_split(root, split)
    with pytest.raises(UserError, match="one file, but training and validation need a json each"):
        read_split(root / "data.json", "train")


def test_options_are_checked(coco: Path) -> None:
    recipe = load_recipe("detection/vit_base_patch16_coco", ["data.options.train_jsn=x.json"])
    with pytest.raises(UserError, match=r'unknown option "train_jsn" in data\.options'):
        check_recipe(recipe)
    with pytest.raises(UserError, match=r"data\.options\.train_json=nowhere\.json: no such file"):
        read_split(coco, "train", {"train_json": "nowhere.json"})
    with pytest.raises(UserError, match=r"data\.options\.train_images=nowhere: no such folder"):
        read_split(coco, "train", {"train_images": "nowhere"})


def test_backslashes_in_file_names_are_folders(coco: Path) -> None:
    path = coco / "annotations" / "instances_train2017.json"
    path.write_text(path.read_text().replace('"file_name": "', '"file_name": "train2017\\\\'))
    assert read_split(coco, "train").images == coco


def test_fiftyones_folders_and_macos_files(coco: Path) -> None:
    root = move(
        coco,
        {"train": "train/labels.json", "val": "validation/labels.json"},
        {"train": "train/data", "val": "validation/data"},
    )
    (root / "__MACOSX").mkdir()
    for name in ("__MACOSX/train.json", "train/._labels.json"):
        (root / name).write_bytes(b"\0\5\x16\7\0")
    assert read_split(root, "train").images == root / "train/data"
    assert read_split(root, "val").json == root / "validation/labels.json"
