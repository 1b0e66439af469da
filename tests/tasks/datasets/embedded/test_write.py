"""What lies in the folder: class folders, COCO json and ADE20K maps, agreeing with each other."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from torchvision.datasets import ImageFolder

from tasks.datasets.embedded import EmbeddedConfig
from tasks.datasets.embedded.__main__ import main
from tasks.datasets.embedded.scenes import Scene, many_digits
from tasks.datasets.embedded.sources import load_pools

SPLITS = {"train": "training", "val": "validation"}


@pytest.fixture(scope="module")
def scenes(small: EmbeddedConfig) -> dict[str, list[Scene]]:
    """The scenes as rendered, before any layout."""
    pools, counts = load_pools(), {"train": small.scene_train_count, "val": small.scene_val_count}
    return {
        split: [many_digits(small, pools[split], f"scene_{split}", index) for index in range(count)]
        for split, count in counts.items()
    }


@pytest.fixture(scope="module", params=["train", "val"])
def split(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def coco(embedded: Path, split: str) -> COCO:
    return COCO(str(embedded / f"coco/annotations/instances_{split}2017.json"))


def test_class_folders_are_balanced_and_hold_the_counts_asked_for(embedded: Path) -> None:
    for name, per_class in {"train": 4, "val": 2}.items():
        folder = ImageFolder(str(embedded / "imagenet" / name))
        assert folder.classes == list("0123456789")
        assert np.bincount(folder.targets).tolist() == [per_class] * 10
        assert {folder[index][0].size for index in range(len(folder))} == {(48, 48)}
    unlabelled = ImageFolder(str(embedded / "imagenet" / "pretrain"))
    assert (unlabelled.classes, len(unlabelled)) == (["unlabelled"], 12)


def test_coco_lists_the_digits_as_categories_1_to_10_and_every_picture(
    embedded: Path, coco: COCO, split: str, small: EmbeddedConfig
) -> None:
    assert [(c["id"], c["name"]) for c in coco.dataset["categories"]] == [(i + 1, str(i)) for i in range(10)]
    assert len(coco.imgs) == {"train": small.scene_train_count, "val": small.scene_val_count}[split]
    for image in coco.imgs.values():
        with Image.open(embedded / f"coco/{split}2017" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == (96, 96)


def test_coco_masks_boxes_and_areas_are_those_of_the_scene(
    coco: COCO, split: str, scenes: dict[str, list[Scene]]
) -> None:
    for image_id, scene in zip(sorted(coco.imgs), scenes[split], strict=True):
        annotations = coco.imgToAnns[image_id]
        assert [a["category_id"] for a in annotations] == [i.label + 1 for i in scene.instances]
        for annotation, instance in zip(annotations, scene.instances, strict=True):
            mask = coco.annToMask(annotation).astype(bool)
            np.testing.assert_array_equal(mask, instance.mask)
            left, top, width, height = (int(value) for value in annotation["bbox"])
            assert mask[top : top + height, left : left + width].sum() == mask.sum() == annotation["area"]
            assert mask[top, left : left + width].any()
            assert mask[top + height - 1, left : left + width].any()
            assert mask[top : top + height, left].any()
            assert mask[top : top + height, left + width - 1].any()


def test_ids_are_unique_over_both_splits(embedded: Path) -> None:
    both = [COCO(str(embedded / f"coco/annotations/instances_{split}2017.json")) for split in SPLITS]
    for ids in ([*both[0].imgs, *both[1].imgs], [*both[0].anns, *both[1].anns]):
        assert len(ids) == len(set(ids))


def test_ade_maps_say_what_the_coco_masks_say(embedded: Path, coco: COCO, split: str) -> None:
    maps = sorted((embedded / "ADEChallengeData2016/annotations" / SPLITS[split]).glob("*.png"))
    seen = set()
    for path, image_id in zip(maps, sorted(coco.imgs), strict=True):
        found = np.asarray(Image.open(path))
        expected = np.ones((96, 96), dtype=np.uint8)
        for annotation in coco.imgToAnns[image_id]:
            expected[coco.annToMask(annotation).astype(bool)] = annotation["category_id"] + 1
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.uint8
        seen |= set(np.unique(found).tolist())
    assert seen <= set(range(1, 12))
    assert 1 in seen
    assert len(seen) > 8


def test_ade_pictures_are_the_coco_pictures(embedded: Path, coco: COCO, split: str) -> None:
    ade = sorted((embedded / "ADEChallengeData2016/images" / SPLITS[split]).glob("*.jpg"))
    maps = sorted((embedded / "ADEChallengeData2016/annotations" / SPLITS[split]).glob("*.png"))
    assert [path.stem for path in ade] == [path.stem for path in maps]
    for path, image_id in zip(ade, sorted(coco.imgs), strict=True):
        twin = embedded / f"coco/{split}2017" / coco.imgs[image_id]["file_name"]
        assert path.read_bytes() == twin.read_bytes()


def test_the_class_list_has_the_columns_of_ade20k_and_true_figures(embedded: Path) -> None:
    root = embedded / "ADEChallengeData2016"
    with (root / "classes.txt").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [(row["Idx"], row["Name"]) for row in rows] == [
        (str(i), name) for i, name in enumerate(["background", *"0123456789"], start=1)
    ]
    maps = {
        split: [np.asarray(Image.open(path)) for path in sorted((root / "annotations" / split).glob("*.png"))]
        for split in SPLITS.values()
    }
    pixels = np.stack(maps["training"] + maps["validation"])
    for value, row in enumerate(rows, start=1):
        assert float(row["Ratio"]) == pytest.approx((pixels == value).mean(), abs=6e-5)
        assert int(row["Train"]) == sum((picture == value).any() for picture in maps["training"])
        assert int(row["Val"]) == sum((picture == value).any() for picture in maps["validation"])


def test_the_readme_says_that_it_is_a_composite_and_names_sources_and_licences(embedded: Path) -> None:
    text = (embedded / "README.txt").read_text(encoding="utf-8")
    for needed in (
        "composite",
        "MNIST",
        "CC BY-SA 3.0",
        "scikit-image",
        "coffee.png",
        "Rachel Michetti, CC0",
    ):
        assert needed in text


def test_the_contact_sheet_shows_pictures_outlines_and_maps(
    embedded: Path, small: EmbeddedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.datasets.embedded.__main__.EmbeddedConfig", lambda: small)
    out = tmp_path / "sheet.png"
    monkeypatch.setattr("sys.argv", ["embedded", "--out", str(out), "--cache", str(embedded.parent)])
    assert main() == 0
    rows = np.array_split(np.asarray(Image.open(out).convert("RGB")).astype(int), 4)
    strong = [(row.max(axis=-1) - row.min(axis=-1) > 180).mean() for row in rows]
    assert strong[2] > 0.005, "boxes and polygons are drawn in saturated colours"
    assert strong[3] > 0.03, "maps show the digits in saturated colours"
    assert strong[1] < strong[2] / 2, "the pictures themselves are not drawn on"
