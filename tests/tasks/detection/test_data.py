"""COCO-layout folders of any class count are read as detectron2 reads them; what is wrong with one is said in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as run_length

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.structures import BitMasks, PolygonMasks
from PIL import Image

from backbones.errors import UserError
from tasks.detection.checks import has_objects
from tasks.detection.data import CocoDataset, read_split, readable, require_masks, splits_fingerprint

from .conftest import edit_json, small_config


def rectangle_mask(box: list[int]) -> np.ndarray:
    mask = np.zeros((40, 48), dtype=np.uint8)
    x, y, w, h = box
    mask[y : y + h, x : x + w] = 1
    return mask


def to_run_lengths(content: dict[str, Any]) -> None:
    for each in content["annotations"]:
        rle = run_length.encode(np.asfortranarray(rectangle_mask(each["bbox"])))
        each["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}


def test_category_ids_that_skip_become_classes_in_order_of_id(coco: Path) -> None:
    split = read_split(coco, "train")
    assert split.category_ids == (2, 7, 90)
    assert split.classes == ("two", "seven", "ninety")
    content = json.loads(split.json.read_text())
    wanted = {tuple(a["bbox"]): split.category_ids.index(a["category_id"]) for a in content["annotations"]}
    found = {tuple(a["bbox"]): a["category_id"] for r in split.records for a in r["annotations"]}
    assert found == wanted


def test_images_without_objects_or_with_crowds_only_do_not_train(coco: Path) -> None:
    split = read_split(coco, "train")
    assert len(split.records) == 6
    assert [has_objects(record) for record in split.records] == [True] * 5 + [False]

    def crowd(content: dict[str, Any]) -> None:
        for each in content["annotations"]:
            each["iscrowd"] = int(each["image_id"] == 10)

    edit_json(coco, "train", crowd)
    assert [r["image_id"] for r in read_split(coco, "train").records if has_objects(r)] == [11, 12, 13, 14]


def test_without_jitter_boxes_and_masks_are_those_of_the_json(coco: Path) -> None:
    split = read_split(coco, "train")
    config = small_config(img_size=48, scale_range=[1.0, 1.0], flip=False)
    item = CocoDataset(split.records, config, train=True)[0]
    assert item["image"].shape == (3, 40, 48)
    assert item["image"].dtype == torch.uint8
    pixels = np.asarray(Image.open(split.images / "0.jpg"))
    np.testing.assert_array_equal(item["image"].permute(1, 2, 0).numpy(), pixels)
    boxes = [a["bbox"] for a in json.loads(split.json.read_text())["annotations"] if a["image_id"] == 10]
    wanted = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes], dtype=torch.float)
    torch.testing.assert_close(item["instances"].gt_boxes.tensor, wanted)
    assert isinstance(item["instances"].gt_masks, PolygonMasks)


def test_run_length_masks_give_the_same_targets(coco: Path) -> None:
    config = small_config(img_size=96, scale_range=[1.0, 1.0], flip=False)
    polygons = CocoDataset(read_split(coco, "train").records, config, train=True)[0]["instances"]
    edit_json(coco, "train", to_run_lengths)
    bitmaps = CocoDataset(read_split(coco, "train").records, config, train=True)[0]["instances"]
    assert isinstance(bitmaps.gt_masks, BitMasks)
    torch.testing.assert_close(bitmaps.gt_boxes.tensor, polygons.gt_boxes.tensor, atol=1.0, rtol=0)


def test_polygons_and_run_lengths_may_stand_side_by_side(coco: Path) -> None:
    def every_other(content: dict[str, Any]) -> None:
        polygons = [a["segmentation"] for a in content["annotations"]]
        to_run_lengths(content)
        for i, each in enumerate(content["annotations"]):
            each["segmentation"] = polygons[i] if i % 2 else each["segmentation"]

    edit_json(coco, "train", every_other)
    dataset = CocoDataset(read_split(coco, "train").records, small_config(img_size=48), train=True)
    for _ in range(10):
        assert not dataset[0]["instances"].has("gt_masks") or isinstance(dataset[0]["instances"].gt_masks, BitMasks)


def test_the_same_seed_draws_the_same_sample_and_another_draws_another(coco: Path) -> None:
    dataset = CocoDataset(read_split(coco, "train").records, small_config(), train=True)

    def draw(seed: int) -> list[Any]:
        np.random.seed(seed)
        items = [dataset[i] for i in range(4)]
        return [(item["image"], item["instances"].gt_boxes.tensor) for item in items]

    torch.testing.assert_close(draw(0), draw(0), atol=0, rtol=0)
    assert any(a.shape != b.shape or not torch.equal(a, b) for (a, _), (b, _) in zip(draw(0), draw(1), strict=True))


def test_jitter_never_exceeds_the_input_size_and_keeps_boxes_inside(coco: Path) -> None:
    np.random.seed(0)
    dataset = CocoDataset(read_split(coco, "train").records, small_config(scale_range=[0.1, 3.0]), train=True)
    for i in range(60):
        item = dataset[i % 6]
        height, width = item["image"].shape[1:]
        assert max(height, width) <= 64
        boxes = item["instances"].gt_boxes.tensor
        assert (boxes >= 0).all()
        assert (boxes[:, [0, 2]] <= width).all()
        assert (boxes[:, [1, 3]] <= height).all()


def test_cached_images_are_the_same(coco: Path) -> None:
    records = read_split(coco, "train").records
    plain, cached = (CocoDataset(records, small_config(), train=True, cache=cache) for cache in (False, True))
    cached[1]
    (coco / "train2017" / "1.jpg").rename(coco / "away.jpg")
    np.random.seed(0)
    again = cached[1]["image"]
    (coco / "away.jpg").rename(coco / "train2017" / "1.jpg")
    np.random.seed(0)
    torch.testing.assert_close(again, plain[1]["image"], atol=0, rtol=0)


def test_test_images_are_resized_by_their_longer_side_and_carry_their_original_size(coco: Path) -> None:
    item = CocoDataset(read_split(coco, "val").records, small_config(img_size=96), train=False)[0]
    assert item["image"].shape == (3, 80, 96)
    assert (item["height"], item["width"]) == (40, 48)
    assert "instances" not in item


def test_the_fingerprint_notices_another_label_and_another_image(coco: Path) -> None:
    def now() -> str:
        return splits_fingerprint((read_split(coco, "train"), read_split(coco, "val")))

    first = now()
    assert now() == first
    edit_json(coco, "train", lambda content: content["annotations"][0].update(category_id=2))
    second = now()
    Image.new("RGB", (48, 40)).save(coco / "val2017" / "0.jpg")
    assert len({first, second, now()}) == 3


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xd8\xff\xe0 a picture", b"[1, 2]", b"<html></html>"])
def test_a_file_that_is_no_json_is_named(coco: Path, content: bytes) -> None:
    path = coco / "annotations" / "instances_val2017.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"instances_val2017\.json is not") as error:
        read_split(coco, "val")
    assert "\n" not in str(error.value)


def test_what_is_missing_is_named(coco: Path) -> None:
    (coco / "train2017" / "2.jpg").unlink()
    with pytest.raises(UserError, match=r"train2017/2\.jpg: no such image, but .*instances_train2017\.json names it"):
        read_split(coco, "train")
    (coco / "val2017").rename(coco / "elsewhere")
    with pytest.raises(UserError, match=r"0\.jpg: no such image in .*instances_val2017\.json names it.*val_images=DIR"):
        read_split(coco, "val")


def test_objects_without_masks_are_named(coco: Path) -> None:
    require_masks(read_split(coco, "train"))
    edit_json(coco, "train", lambda content: content["annotations"][3].pop("segmentation"))
    with pytest.raises(UserError, match=r"annotation 4 \(1\.jpg\) has no segmentation.*detection\.with_masks=false"):
        require_masks(read_split(coco, "train"))


def test_a_truncated_image_is_named_or_found_beforehand(coco: Path) -> None:
    path = coco / "train2017" / "3.jpg"
    path.write_bytes(path.read_bytes()[:400])
    records = read_split(coco, "train").records
    with pytest.raises(UserError, match=r"3\.jpg: unreadable image.*data\.skip_broken=true"):
        CocoDataset(records, small_config(), train=True)[3]
    good, bad = readable(records)
    assert bad == ["3.jpg"]
    assert [r["image_id"] for r in good] == [10, 11, 12, 14, 15]


def test_a_json_that_gives_another_size_than_the_image_is_named(coco: Path) -> None:
    edit_json(coco, "train", lambda content: content["images"][0].update(width=40, height=48))
    records = read_split(coco, "train").records
    with pytest.raises(UserError, match=r"0\.jpg is 48x40 pixels, its json says 40x48"):
        CocoDataset(records, small_config(), train=True)[0]
