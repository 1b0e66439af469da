"""A COCO json is refused in one line that names file and id, or used as detectron2 and pycocotools use it, with a note."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as run_length

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import load_coco_json

from backbones.errors import UserError
from tasks.detection.annotations import Content, read_content
from tasks.detection.data import read_split
from tasks.detection.masks import runs_total
from tests.conftest import data_folder

from .conftest import edit_json

Change = Callable[[dict[str, Any]], Any]


def first(**changes: Any) -> Change:
    return lambda content: content["annotations"][0].update(changes)


def first_image(**changes: Any) -> Change:
    return lambda content: content["images"][0].update(changes)


def without(kind: str, key: str) -> Change:
    return lambda content: content[kind][0].pop(key)


def again(kind: str, **changes: Any) -> Change:
    return lambda content: content[kind].append({**content[kind][0], **changes})


def rle(height: int, width: int, counts: Any = None) -> dict[str, Any]:
    return {"size": [height, width], "counts": [height * width] if counts is None else counts}


REFUSED: dict[str, tuple[Change, str]] = {
    "no images": (lambda c: c.update(images=[]), "lists no images"),
    "no categories": (lambda c: c.update(categories=[]), "lists no categories"),
    "empty annotations": (lambda c: c.update(annotations=[]), "holds no annotations.*needs a json with boxes"),
    "no categories key": (lambda c: c.pop("categories"), "not in COCO's format .*no list of categories"),
    "strings for images": (lambda c: c.update(images=["a.jpg"]), "images that are no objects"),
    "image without height": (without("images", "height"), r"images\[0\] \(id 10\) has no height"),
    "image of no pixels": (first_image(width=0), r"image 10 \(0\.jpg\) is 0x40 pixels"),
    "image id twice": (again("images", file_name="x.jpg"), "ids of images are not unique: 10 more than once"),
    "category id twice": (again("categories", name="other"), "ids of categories are not unique: 7 more"),
    "annotation id twice": (again("annotations"), "ids of annotations are not unique: 1 more than once"),
    "ids of two kinds": (first_image(id="ten"), "ids of images must be whole numbers"),
    "all of unknown images": (
        lambda c: [a.update(image_id=999) for a in c["annotations"]],
        "no annotations of its images",
    ),
    "unknown category": (first(category_id=5), r"annotation 1 \(0\.jpg\) has category_id=5.*does not list"),
    "no box": (without("annotations", "bbox"), r"annotation 1 \(0\.jpg\) has no bbox"),
    "no image id": (without("annotations", "image_id"), "annotation 1 has no image_id"),
    "ignored": (first(ignore=1), "annotation 1 .* has ignore=1"),
    "three numbers": (first(bbox=[1, 2, 3]), "has the box .*four numbers"),
    "texts for numbers": (first(bbox=["1", "2", "3", "4"]), "has the box .*four numbers"),
    "NaN box": (first(bbox=[1, 2, math.nan, 4]), "annotation 1 .*not finite"),
    "endless box": (first(bbox=[1, 2, math.inf, 4]), "annotation 1 .*not finite"),
    "negative width": (first(bbox=[30, 20, -10, 4]), "must not be negative"),
    "box outside": (
        first(bbox=[100, 100, 10, 10]),
        r"annotation 1 \(0\.jpg\) has the box \[100, 100, 10, 10\] outside its image of 48x40",
    ),
    "box left of the image": (first(bbox=[-30, 3, 10, 10]), "outside its image"),
    "corners for sizes": (first(bbox=[36, 30, 46, 38]), "outside its image.*x, y, width, height"),
    "shares for pixels": (
        lambda c: [a.update(bbox=[0.1, 0.2, 0.5, 0.5]) for a in c["annotations"]],
        "shares of the image",
    ),
    "area in words": (first(area="big"), 'annotation 1 .* has area="big", a text: a number'),
    "run lengths of another size": (
        first(segmentation=rle(48, 40)),
        r"annotation 1 .*size \[48, 40\], its image is \[40, 48\] \(height, width\)",
    ),
    "run lengths too short": (first(segmentation=rle(40, 48, [5, 5])), "of 10 pixels, its image has 1920"),
    "compressed, too short": (first(segmentation=rle(40, 48, "01X10")), "annotation 1 .*run lengths"),
    "compressed, of another alphabet": (first(segmentation=rle(40, 48, "~~~")), "run lengths that cannot be read"),
    "run lengths without counts": (first(segmentation={"size": [40, 48]}), "run lengths that cannot be read"),
    "a flat polygon": (first(segmentation=[1, 2, 3, 4, 5, 6]), "no list of polygons"),
    "a polygon with NaN": (first(segmentation=[[1, 2, 3, math.nan, 5, 6]]), "no finite numbers"),
    "a mask in words": (first(segmentation="mask"), "no list of polygons"),
}
ONE_OBJECT = [name for name, (_, message) in REFUSED.items() if "annotation 1 " in message or "has the box" in message]


@pytest.mark.parametrize("name", REFUSED)
def test_what_breaks_training_or_a_figure_is_refused_in_one_line(coco: Path, name: str) -> None:
    change, message = REFUSED[name]
    edit_json(coco, "train", change)
    with pytest.raises(UserError, match=f"instances_train2017.json.*{message}") as error:
        read_split(coco, "train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ONE_OBJECT)
def test_broken_objects_are_left_out_and_noted_when_asked_for(coco: Path, name: str) -> None:
    edit_json(coco, "train", REFUSED[name][0])
    split = read_split(coco, "train", skip_broken=True)
    assert [a["id"] for a in split.content.annotations] == list(range(2, 11))
    books = split.content.account.kinds["annotations"]
    assert (books.found, books.used, books.left_out["broken"].count) == (10, 9, 1)
    split.content.account.check()


def changed(coco: Path, *changes: Change, **options: Any) -> Content:
    for change in changes:
        edit_json(coco, "train", change)
    return read_content(coco / "annotations" / "instances_train2017.json", **options)


def test_a_sound_json_has_no_notes(coco: Path) -> None:
    assert changed(coco).notes == []


def test_annotations_of_images_that_are_not_listed_are_left_out_with_a_note(coco: Path) -> None:
    content = changed(coco, first(image_id=999))
    assert [a["id"] for a in content.annotations] == list(range(2, 11))
    (note,) = content.account.notes("train")
    assert note == (
        "train: left out 1 of 10 annotations (of images that are not listed): instances_train2017.json: annotation 1"
    )


def test_polygons_without_three_points_go_and_the_box_stays(coco: Path) -> None:
    good = [1, 1, 9, 1, 9, 9]
    content = changed(coco, first(segmentation=[[1, 2, 3, 4], good, [1, 2, 3, 4, 5, 6, 7]], bbox=[1, 1, 8, 8], area=32))
    assert content.annotations[0]["segmentation"] == [good]
    assert content.notes == []
    content = changed(coco, first(segmentation=[[1, 2, 3, 4]]))
    assert content.annotations[0]["id"] == 1
    assert "segmentation" not in content.annotations[0]
    assert content.maskless == {1}
    assert content.notes[0].startswith(
        "instances_train2017.json: 1 of 10 objects have no polygon of 3 points or more (ids 1): as in detectron2"
    )
    assert changed(coco, with_masks=False).notes == []


def test_boxes_over_the_border_stay_and_only_more_than_rounding_is_noted(coco: Path) -> None:
    def boxed(*box: float) -> Change:
        x, y, w, h = box
        return first(bbox=list(box), segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]], area=w * h)

    assert changed(coco, boxed(-0.4, 3, 48.9, 37.5)).notes == []
    content = changed(coco, boxed(30, 3, 25, 10))
    assert content.annotations[0]["bbox"] == [30, 3, 25, 10]
    assert "1 boxes that reach out of their image" in content.notes[0]


def test_objects_without_area_stay_for_the_metric_and_are_noted(coco: Path) -> None:
    content = changed(coco, first(bbox=[10, 10, 12, 0], area=0, segmentation=[[10, 10, 22, 10, 16, 10]]))
    assert content.annotations[0]["id"] == 1
    assert "1 objects without area, which do not train (ids 1)" in content.notes[0]


def test_area_and_crowd_flag_may_be_absent(coco: Path) -> None:
    content = changed(coco, without("annotations", "area"), without("annotations", "iscrowd"))
    box = content.annotations[0]["bbox"]
    assert content.annotations[0]["area"] == box[2] * box[3]  # the polygon is the box
    assert content.annotations[0]["iscrowd"] == 0


def test_uncompressed_run_lengths_are_compressed(coco: Path) -> None:
    mask = np.zeros((40, 48), np.uint8)
    mask[3:20, 5:30] = 1
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    content = changed(coco, first(segmentation=rle(40, 48, counts), iscrowd=1))
    np.testing.assert_array_equal(run_length.decode(content.annotations[0]["segmentation"]), mask)


@given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=30), min_size=1, max_size=12).filter(
        lambda rows: len({len(row) for row in rows}) == 1
    )
)
@settings(max_examples=40)
def test_compressed_run_lengths_cover_the_image(rows: list[list[bool]]) -> None:
    mask = np.asfortranarray(rows, np.uint8)
    assert runs_total(run_length.encode(mask)["counts"]) == mask.size


@pytest.mark.parametrize("seed", range(3))
def test_long_run_lengths_cover_the_image(seed: int) -> None:
    mask = np.asfortranarray(np.random.default_rng(seed).random((300, 500)) < 0.5 * seed, np.uint8)
    counts = run_length.encode(mask)["counts"]
    assert runs_total(counts) == runs_total(counts.decode()) == mask.size


def detectron2s_records(path: Path, images: Path) -> Any:
    try:
        records = load_coco_json(str(path), str(images), "ours-alone")
    finally:
        MetadataCatalog.remove("ours-alone")
    for record in records:
        for each in record["annotations"]:
            each.setdefault("iscrowd", 0)
    return records


def test_records_equal_detectron2s(coco: Path) -> None:
    split = read_split(coco, "val")
    assert split.records == detectron2s_records(split.json, split.images)


@pytest.mark.parametrize("name", ["train", "val"])
def test_real_coco_passes_without_a_note_and_equals_detectron2s(name: str) -> None:
    split = read_split(data_folder("coco-subset"), name)
    assert split.notes == []
    assert any(a["iscrowd"] for a in split.content.annotations)
    assert split.records == detectron2s_records(split.json, split.images)


def test_results_given_for_truth_are_named(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps([{"image_id": 1, "score": 0.5}]))
    with pytest.raises(UserError, match=r"results\.json is not in COCO's format \(a list, as results are\)"):
        read_content(tmp_path / "results.json")
