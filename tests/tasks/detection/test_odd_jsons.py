"""Jsons as people's tools write them: the figure is pycocotools' on the json put right, or a line names the mistake."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from pycocotools import mask as run_length
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbones.errors import UserError
from tasks.detection.annotations import read_content
from tasks.detection.data import CocoSplit, read_split, require_masks
from tasks.detection.evaluation import RESULTS_FILE, DetectionEvaluator
from tests.conftest import data_folder

from .conftest import edit_json

Json = dict[str, Any]
Change = Callable[[Json], Any]
IMAGES, OBJECTS = 5, 8  # of the validation json


def content_of(root: Path) -> Json:
    return json.loads((root / "annotations" / "instances_val2017.json").read_text())  # type: ignore[no-any-return]


def results(split: CocoSplit) -> list[Json]:
    """Noisy detections by place of the image and of the class, in COCO's format for results: the same whatever the ids."""
    rng, found = np.random.default_rng(0), []
    for record in split.records:
        instances = []
        for box in [*([5, 5, 20, 18], [12, 4, 16, 20]), *([i, 2 * i, 14, 15] for i in range(4))]:
            x, y, w, h = (float(v) for v in np.array(box) + rng.normal(scale=2, size=4))
            mask = np.zeros((40, 48), np.uint8)
            mask[round(max(y, 0)) : round(y + h), round(max(x, 0)) : round(x + w)] = 1
            instances.append(
                {
                    "image_id": record["image_id"],
                    "category_id": split.category_ids[rng.integers(3)],
                    "bbox": [x, y, w, h],
                    "segmentation": {
                        "size": [40, 48],
                        "counts": run_length.encode(np.asfortranarray(mask))["counts"].decode(),
                    },
                    "score": float(rng.random()),
                }
            )
        found.append({"image_id": record["image_id"], "instances": instances})
    return found


def ours(root: Path) -> dict[str, float]:
    split = read_split(root, "val")
    return DetectionEvaluator(split, split.records).metrics(results(split))


def pycocotools_ap(truth: Json, found: list[Json], kind: str) -> float:
    """Of a json that pycocotools bears, without any code of ours."""
    coco = COCO()
    coco.dataset = {"info": {}, **truth}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        plain = [
            {key: each[key] for key in each if key != ("segmentation" if kind == "bbox" else "bbox")} for each in found
        ]
        evaluation = COCOeval(coco, coco.loadRes(plain), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(100 * evaluation.stats[0])


def plain_results(root: Path) -> list[Json]:
    return [each for image in results(read_split(root, "val")) for each in image["instances"]]


def each_id(kind: str, change: Callable[[int], Any], *references: str) -> Change:
    """Ids of `kind` become others, and what refers to them follows."""

    def edit(content: Json) -> None:
        for item in content[kind]:
            item["id"] = change(item["id"])
        for a in content["annotations"]:
            for key in references:
                a[key] = change(a[key])

    return edit


def some(change: Callable[[int], Any], key: str) -> Change:
    """On half of the objects `key` is written otherwise."""

    def edit(content: Json) -> None:
        for a in content["annotations"][::2]:
            a[key] = change(a[key])

    return edit


HUGE = 2**64
ODD_IDS: dict[str, Change] = {
    "float annotation ids": each_id("annotations", float),
    "text annotation ids": each_id("annotations", lambda i: f"a{i}"),
    "negative annotation ids": each_id("annotations", lambda i: -i),
    "annotation ids from 0": each_id("annotations", lambda i: i - 1),
    "mixed annotation ids": each_id("annotations", lambda i: i if i % 2 else f"a{i}"),
    "annotation ids beyond int64": each_id("annotations", lambda i: HUGE + i),
    "float image ids": each_id("images", float, "image_id"),
    "float image ids on half of the objects": some(float, "image_id"),
    "text image ids": each_id("images", lambda i: f"im{i}", "image_id"),
    "negative image ids": each_id("images", lambda i: i - 100, "image_id"),
    "image ids beyond int64": each_id("images", lambda i: HUGE + i, "image_id"),
    "image ids that float64 does not tell apart": each_id("images", lambda i: 2**60 + i, "image_id"),
    "float category ids on half of the objects": some(float, "category_id"),
    "text category ids": each_id("categories", lambda i: f"{i:03d}", "category_id"),
    "negative category ids": each_id("categories", lambda i: i - 50, "category_id"),
    "category ids from 0": each_id("categories", lambda i: i - 2, "category_id"),
}


@pytest.mark.parametrize("name", ODD_IDS)
def test_figures_do_not_depend_on_how_ids_are_written(coco: Path, name: str) -> None:
    truth, found = content_of(coco), plain_results(coco)
    edit_json(coco, "val", ODD_IDS[name])
    metrics = ours(coco)
    assert read_content(coco / "annotations" / "instances_val2017.json").account.kinds["annotations"].used == OBJECTS
    for kind, prefix in (("bbox", "box"), ("segm", "mask")):
        expected = pycocotools_ap(truth, found, kind)
        assert 1 < expected < 99
        assert metrics[f"{prefix}_ap"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["text image ids", "text category ids", "negative image ids"])
def test_results_bear_the_ids_of_the_json(coco: Path, name: str, tmp_path: Path) -> None:
    edit_json(coco, "val", ODD_IDS[name])
    split = read_split(coco, "val")
    DetectionEvaluator(split, split.records).write(results(split), tmp_path)
    written, wanted = json.loads((tmp_path / RESULTS_FILE).read_text()), content_of(coco)
    assert {each["image_id"] for each in written} == {image["id"] for image in wanted["images"]}
    assert {each["category_id"] for each in written} <= {category["id"] for category in wanted["categories"]}


REFUSED: dict[str, tuple[Change, str]] = {
    "text image ids on half": (
        some(str, "image_id"),
        r'annotation 1 has image_id="10", a text, while .* whole numbers',
    ),
    "text category ids on half": (
        some(str, "category_id"),
        r'annotation 1 \(0.jpg\) has category_id="\d+", a text, while',
    ),
    "an image id in a list": (some(lambda i: [i], "image_id"), r"annotation 1 has image_id=\[10\], while"),
    "half an id": (some(lambda i: i + 0.5, "image_id"), r"annotation 1 has image_id=10.5, while"),
    "true for an id": (some(lambda i: True, "image_id"), "annotation 1 has image_id=True, while"),
    "an annotation id in a list": (
        some(lambda i: [i], "id"),
        r"annotation \[1\] .* has id=\[1\]: a whole number or a text",
    ),
    "an image id that is none": (
        each_id("images", lambda i: {"a": i}),
        r"images\[0\] has id={'a': 10}: a whole number",
    ),
    "iscrowd in words": (
        some(lambda i: "false", "iscrowd"),
        r'annotation 1 \(0.jpg\) has iscrowd="false", a text: 0 or 1',
    ),
    "iscrowd in a list": (some(lambda i: [0], "iscrowd"), r"has iscrowd=\[0\]: 0 or 1"),
    "iscrowd of 2": (some(lambda i: 2, "iscrowd"), "has iscrowd=2: 0 or 1"),
    "width as a text": (
        lambda c: c["images"][0].update(width="48"),
        r'image 10 \(0.jpg\) has width="48", a text: write numbers without quotes',
    ),
    "half a pixel": (lambda c: c["images"][0].update(width=47.5), "image 10 .* is 47.5x40 pixels"),
    "true for a width": (lambda c: c["images"][0].update(width=True), "image 10 .* is Truex40 pixels"),
    "an image that cannot be": (
        lambda c: c["images"][0].update(width=10**9, height=10**9),
        "pixels, more than are read",
    ),
    "a name that is a number": (
        lambda c: c["images"][0].update(file_name=5),
        "image 10 has file_name=5: a text is wanted",
    ),
    "a box beyond floats": (some(lambda b: [0, 0, 10**400, 1], "bbox"), "the box .*: it is not finite"),
    "negative run lengths": (
        some(lambda m: {"size": [40, 48], "counts": [-5, 1925]}, "segmentation"),
        r"annotation 1 \(0.jpg\) has run lengths that cannot be read",
    ),
    "fractions of runs": (
        some(lambda m: {"size": [40, 48], "counts": [0.5, 1919.5]}, "segmentation"),
        "has run lengths that cannot be read",
    ),
    "run lengths of a size in words": (
        some(lambda m: {"size": "40x48", "counts": [1920]}, "segmentation"),
        "has run lengths of size 40x48, its image is",
    ),
    "polygons far out": (
        some(lambda m: [[1e8, 1e8, 2e8, 1e8, 2e8, 2e8]], "segmentation"),
        "a polygon that reaches out by more than its image's size",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_clear_is_refused_by_annotation_and_field(coco: Path, name: str) -> None:
    change, message = REFUSED[name]
    edit_json(coco, "val", change)
    with pytest.raises(UserError, match=message) as error:
        read_split(coco, "val")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["[" * 200_000, '{"images": [{"id": ' + "9" * 5000 + "}]}", "{", '{"a": "\\ud800'])
def test_a_json_that_nobody_writes_is_refused_in_a_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=r"x.json is not a json file in COCO's format") as error:
        read_content(tmp_path / "x.json")
    assert "\n" not in str(error.value)


def test_whole_numbers_may_be_written_with_a_point(coco: Path) -> None:
    def points(content: Json) -> None:
        content["images"][0].update(width=48.0, height=40.0)
        content["annotations"][0].update(iscrowd=0.0)
        content["annotations"][1].update(iscrowd=False)

    truth, found = content_of(coco), plain_results(coco)
    edit_json(coco, "val", points)
    assert ours(coco)["box_ap"] == pytest.approx(pycocotools_ap(truth, found, "bbox"), abs=1e-9)
    assert read_split(coco, "val").records[0]["width"] == 48


def test_objects_without_a_drawable_polygon_count_for_boxes_and_are_in_no_mask(coco: Path) -> None:
    """As detectron2 has it: its loader leaves such objects out, while pycocotools' box AP counts them."""
    truth, found = content_of(coco), plain_results(coco)
    edit_json(coco, "val", some(lambda _: [[5, 5, 10, 10]], "segmentation"))
    metrics, split = ours(coco), read_split(coco, "val")
    assert metrics["box_ap"] == pytest.approx(pycocotools_ap(truth, found, "bbox"), abs=1e-9)
    drawn = {**truth, "annotations": truth["annotations"][1::2]}
    assert metrics["mask_ap"] == pytest.approx(pycocotools_ap(drawn, found, "segm"), abs=1e-9)
    assert metrics["box_ap"] != pytest.approx(pycocotools_ap(drawn, found, "bbox"), abs=1e-3)
    assert sum(len(record["annotations"]) for record in split.records) == OBJECTS / 2
    require_masks(split)
    assert "4 of 8 objects have no polygon of 3 points or more" in split.notes[0]


def corners(box: list[int]) -> list[int]:
    x, y, w, h = box
    return [x, y, x + w, y + h]


def test_corners_in_place_of_sizes_beside_masks_are_refused(coco: Path) -> None:
    edit_json(coco, "val", lambda c: c["annotations"][3].update(bbox=corners(c["annotations"][3]["bbox"])))
    with pytest.raises(
        UserError, match=r"annotation 4 .*has the box .*its mask's left, top, right, bottom: COCO's boxes are"
    ):
        read_split(coco, "val")


def test_a_json_whose_objects_are_all_broken_is_refused_for_that(coco: Path) -> None:
    edit_json(coco, "train", lambda c: [a.update(bbox=corners(a["bbox"])) for a in c["annotations"]])
    with pytest.raises(UserError, match=r"10 of 10 annotations malformed: .* its mask's left, top, right, bottom"):
        read_split(coco, "train", skip_broken=True)


def test_corners_in_place_of_sizes_without_masks_are_refused(coco: Path) -> None:
    def edit(content: Json) -> None:
        for a in content["annotations"]:
            del a["segmentation"]
            a["bbox"] = [20, 15, 32, 28]  # fits 48 x 40 as corners, and reaches out as sizes

    edit_json(coco, "val", edit)
    with pytest.raises(UserError, match="fit their images as left, top, right, bottom"):
        read_split(coco, "val", with_masks=False)


def test_boxes_elsewhere_than_their_masks_are_noted_and_most_of_them_refused(coco: Path) -> None:
    def centres(a: Json) -> None:
        x, y, w, h = a["bbox"]
        a["bbox"] = [x + w / 2, y + h / 2, w, h]

    edit_json(coco, "val", lambda c: centres(c["annotations"][0]))
    assert "1 boxes that lie elsewhere than their masks" in " ".join(read_split(coco, "val").notes)
    edit_json(coco, "val", lambda c: [centres(a) for a in c["annotations"][1:]])
    with pytest.raises(UserError, match=r"8 of 8 boxes lie elsewhere than their masks, such as .* of annotation 1"):
        read_split(coco, "val")


@pytest.mark.parametrize("area", [0, 1e-4, 1e6, -5, 0.3])
def test_areas_of_neither_mask_nor_box_are_computed_anew(coco: Path, area: float) -> None:
    truth = content_of(coco)
    edit_json(coco, "val", lambda c: [a.update(area=area) for a in c["annotations"]])
    split = read_split(coco, "val")
    assert [a["area"] for a in split.content.annotations] == [a["area"] for a in truth["annotations"]]
    assert f"area of 8 of 8 objects is neither their mask's nor their box's, such as {area:g} for" in split.notes[0]


def test_the_areas_of_masks_and_of_boxes_are_both_taken(coco: Path) -> None:
    def diagonal(content: Json) -> None:
        a = content["annotations"][0]
        a.update(bbox=[4, 4, 30, 30], segmentation=[[4, 4, 8, 4, 34, 34, 30, 34]])

    edit_json(coco, "val", diagonal)
    for area in (120, 900, 130.5):
        edit_json(coco, "val", lambda c, area=area: c["annotations"][0].update(area=area))
        split = read_split(coco, "val")
        assert (split.content.annotations[0]["area"], split.notes) == (area, [])
    edit_json(coco, "val", lambda c: c["annotations"][0].update(area=400))
    assert read_split(coco, "val").content.annotations[0]["area"] == pytest.approx(120, abs=8)


def test_objects_that_are_there_twice_are_noted(coco: Path) -> None:
    """As after a merge of exports; pycocotools counts the second as missed."""
    found, truth = plain_results(coco), content_of(coco)
    edit_json(coco, "val", lambda c: c["annotations"].extend([{**a, "id": a["id"] + 50} for a in c["annotations"][:3]]))
    split = read_split(coco, "val")
    assert "3 objects that are there twice (image, class and box), of which one is found at most" in " ".join(
        split.notes
    )
    figures = [pycocotools_ap(each, found, "bbox") for each in (content_of(coco), truth)]
    assert ours(coco)["box_ap"] == pytest.approx(figures[0], abs=1e-9)
    assert figures[0] < figures[1]


def test_many_crowds_are_noted(coco: Path) -> None:
    """As CVAT exports masks; figures are then of the other objects alone."""
    edit_json(coco, "val", some(lambda _: 1, "iscrowd"))
    said = " ".join(read_split(coco, "val").notes)
    assert "4 of 8 objects are crowds (iscrowd=1), which do not train and which the metric ignores" in said


def test_shares_among_pixels_are_refused(coco: Path) -> None:
    edit_json(coco, "val", lambda c: c["annotations"][2].update(bbox=[0.1, 0.2, 0.5, 0.4]))
    with pytest.raises(UserError, match=r"annotation 3 .*\[0.1, 0.2, 0.5, 0.4\], shares of its image"):
        read_split(coco, "val")


def test_categories_of_the_same_name_are_noted(coco: Path) -> None:
    edit_json(coco, "val", lambda c: c["categories"][0].update(name="Two"))
    assert "classes 'two' and 'Two' have names that look alike" in " ".join(read_split(coco, "val").notes)


def move(root: Path, old: str, new: Path) -> None:
    new.parent.mkdir(parents=True, exist_ok=True)
    (root / "val2017" / old).rename(new)


def test_an_absolute_name_in_the_data_folder_is_read(coco: Path) -> None:
    move(coco, "0.jpg", coco / "elsewhere" / "0.jpg")
    edit_json(coco, "val", lambda c: c["images"][0].update(file_name=str(coco / "elsewhere" / "0.jpg")))
    assert read_split(coco, "val").records[0]["file_name"] == str(coco / "elsewhere" / "0.jpg")


@pytest.mark.parametrize("absolute", [True, False])
def test_a_name_that_leads_out_is_read_only_when_that_is_meant(coco: Path, absolute: bool) -> None:
    secret = coco.parent / "secret.jpg"
    move(coco, "0.jpg", secret)
    name = str(secret) if absolute else "../../secret.jpg"
    edit_json(coco, "val", lambda c: c["images"][0].update(file_name=name))
    with pytest.raises(
        UserError, match=r"file_name=.*secret.jpg.* leads out of the data folder.*data.options.outside=true"
    ):
        read_split(coco, "val")
    split = read_split(coco, "val", {"outside": True})
    assert Path(split.records[0]["file_name"]).samefile(secret)


def test_a_linked_folder_is_followed(coco: Path) -> None:
    move(coco, "", coco.parent / "disk" / "val2017")
    (coco / "val2017").symlink_to(coco.parent / "disk" / "val2017")
    assert len(read_split(coco, "val").records) == IMAGES


@pytest.mark.parametrize(
    ("disk", "said"),
    [
        (b"caf\xe9.jpg", "caf\u00e9.jpg"),  # Latin-1 on disk
        (b"caf\xe9.jpg", "caf\udce9.jpg"),  # as Python lists it
        ("cafe\u0301.jpg".encode(), "caf\u00e9.jpg"),  # decomposed, as macOS writes it
        (b"0.JPG", "0.jpg"),
        (b"x y.jpg", "x y.jpg"),
    ],
)
def test_names_are_found_in_the_spelling_of_the_disk(coco: Path, disk: bytes, said: str) -> None:
    os.rename(os.fsencode(coco / "val2017" / "0.jpg"), os.fsencode(coco / "val2017") + b"/" + disk)
    edit_json(coco, "val", lambda c: c["images"][0].update(file_name=said))
    found = read_split(coco, "val").records[0]["file_name"]
    assert os.fsencode(found) == os.fsencode(coco / "val2017") + b"/" + disk


@pytest.mark.parametrize("name", ["x" * 5000 + ".jpg", "a\0b.jpg", "", ".", "\ud800.jpg"])
def test_a_name_that_is_none_is_missing(coco: Path, name: str) -> None:
    edit_json(coco, "val", lambda c: c["images"][1].update(file_name=name))
    with pytest.raises(UserError, match="no such image"):
        read_split(coco, "val")


@pytest.mark.parametrize("split", ["train", "val"])
def test_real_coco_needs_no_correction(split: str) -> None:
    read = read_split(data_folder("coco-subset"), split)
    given = {a["id"]: a["area"] for a in json.loads(read.json.read_text())["annotations"]}
    assert {a["id"]: a["area"] for a in read.content.annotations} == given
    assert not read.content.file_ids
    assert not math.isnan(sum(given.values()))
