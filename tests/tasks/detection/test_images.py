"""Images of every kind come as upright 8-bit RGB of the json's size, however small."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.data.detection_utils import read_image
from PIL import ExifTags, Image

from backbones.errors import UserError
from tasks.detection.data import CocoDataset, read_pixels, read_split, readable, turned_images
from tasks.detection.pictures import draw
from tasks.detection.task import DetectionTask

from .conftest import edit_json, small_config, small_recipe

GREY = np.add.outer(np.arange(40), np.arange(48)).astype(np.uint8)
COLOURS = np.stack([GREY, 2 * GREY, 255 - GREY], axis=2)
QUARTER_TURN, HALF_TURN = 6, 3


def record(path: Path, width: int = 48, height: int = 40) -> dict[str, Any]:
    return {"file_name": str(path), "width": width, "height": height}


def save_turned(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(COLOURS).save(path, exif=exif)


@pytest.mark.parametrize(
    "image", [Image.fromarray(GREY), Image.fromarray(GREY.astype(np.uint16) * 256 + 7)], ids=["8", "16"]
)
def test_grey_of_8_and_16_bits_becomes_three_equal_bands(tmp_path: Path, image: Image.Image) -> None:
    image.save(tmp_path / "a.png")
    pixels = read_pixels(record(tmp_path / "a.png"))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.stack([GREY] * 3, axis=2))


def test_levels_of_eight_bits_in_sixteen_are_said_and_scaled_where_asked_for(coco: Path) -> None:
    """``data.white_level`` in what trains, what is detected on, and the pictures drawn of it."""
    for split in ("train", "val"):
        for i in range(5):
            Image.fromarray(np.full((40, 48), 200, np.uint16)).save(coco / f"{split}2017" / f"{i}.png")
        edit_json(
            coco, split, lambda c: [image.update(file_name=f"{image['id'] % 10}.png") for image in c["images"][:5]]
        )
    recipe = small_recipe(coco)
    said = [DetectionTask(recipe).look_at_data()[2]]
    recipe.data.white_level = 255
    task = DetectionTask(recipe)
    said.append(task.look_at_data()[2])
    assert ["val: 5 of 5 images" in line and "--set data.white_level=255" in line for line in said] == [True, False]
    shown = task.val_dataset()[4]["image"].numpy()
    np.testing.assert_array_equal(shown, np.full_like(shown, 200))
    assert int(task.train_dataset()[0]["image"].max()) == 200
    for white, level in ((255, 200), (65535, 0)):
        drawn = np.asarray(Image.open(io.BytesIO(draw(task.val, task.val_records[4], [], white))).convert("RGB"))
        assert int((drawn == level).all(axis=-1).sum()) > drawn[..., 0].size / 2


def test_cmyk_and_palettes_become_rgb(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).convert("CMYK").save(tmp_path / "a.tif")
    np.testing.assert_allclose(read_pixels(record(tmp_path / "a.tif")).astype(int), COLOURS, atol=1)
    flat = Image.new("RGB", (48, 40), (10, 200, 30))
    flat.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_pixels(record(tmp_path / "b.png")), np.asarray(flat))


@pytest.mark.parametrize(("orientation", "size"), [(QUARTER_TURN, (40, 48)), (HALF_TURN, (48, 40))])
def test_an_oriented_image_is_turned_as_detectron2_turns_it(
    tmp_path: Path, orientation: int, size: tuple[int, int]
) -> None:
    save_turned(tmp_path / "a.png", orientation)
    pixels = read_pixels(record(tmp_path / "a.png", *size))
    np.testing.assert_array_equal(pixels, read_image(str(tmp_path / "a.png"), "RGB"))
    assert not np.array_equal(pixels, COLOURS)


def test_an_oriented_image_stays_as_stored_where_the_json_has_that_size(tmp_path: Path) -> None:
    save_turned(tmp_path / "a.png", QUARTER_TURN)
    np.testing.assert_array_equal(read_pixels(record(tmp_path / "a.png")), COLOURS)


def test_an_orientation_that_the_jsons_size_does_not_settle_is_said(tmp_path: Path) -> None:
    for name, orientation in (("quarter", QUARTER_TURN), ("half", HALF_TURN), ("none", 1)):
        save_turned(tmp_path / f"{name}.png", orientation)
    sure = [record(tmp_path / "quarter.png", 40, 48), record(tmp_path / "none.png")]
    assert turned_images("val", sure) == []
    stored, turned = turned_images("val", [*sure, record(tmp_path / "quarter.png"), record(tmp_path / "half.png")])
    assert stored.startswith(
        "val: 1 of 4 images that were looked at are not turned by their EXIF tag, since the json has"
    )
    assert stored.endswith("quarter.png")
    assert turned.startswith("val: 1 of 4 images that were looked at are turned by their EXIF tag, as in detectron2")
    assert turned.endswith("half.png")


def test_an_image_of_another_size_than_the_json_says_is_named_or_found_beforehand(coco: Path) -> None:
    Image.fromarray(COLOURS[:20]).save(coco / "train2017" / "1.jpg")
    records = read_split(coco, "train").records
    with pytest.raises(UserError, match=r"1\.jpg is 48x20 pixels, its json says 48x40.*data\.skip_broken=true"):
        read_pixels(records[1])
    assert readable(records)[1] == ["1.jpg"]


def resized(width: int, height: int) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["images"][0].update(width=width, height=height)
        for a in content["annotations"]:
            if a["image_id"] == 10:
                box = [0, 0, width, height]
                a.update(bbox=box, segmentation=[[0, 0, width, 0, width, height, 0, height]], area=width * height)

    return change


@pytest.mark.parametrize(("width", "height"), [(3, 2), (1, 1), (1, 300), (300, 1)])
def test_images_smaller_than_a_patch_and_very_narrow_ones_train_and_are_detected_on(
    coco: Path, width: int, height: int
) -> None:
    for split in ("train", "val"):
        edit_json(coco, split, resized(width, height))
        Image.new("RGB", (width, height)).save(coco / f"{split}2017" / "0.jpg")
    task = DetectionTask(small_recipe(coco, scale_range=[0.1, 2.0]))
    train: Any = task.train_dataset()
    np.random.seed(0)
    torch.manual_seed(0)
    losses = task.model.train()([train[0] for _ in range(4)])
    assert all(torch.isfinite(loss) for loss in losses.values())
    evaluator = task.evaluator()
    evaluator.update(task.model.eval(), [task.val_dataset()[0]])
    (result,) = evaluator.results()
    assert result["image_id"] == 10


def test_crowds_and_objects_without_area_do_not_train(coco: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0]["iscrowd"] = 1
        x, y, w, _ = content["annotations"][1]["bbox"]
        flat = [x, y, x + w, y, x, y]
        content["annotations"][1].update(bbox=[x, y, w, 0], segmentation=[flat], area=0)

    edit_json(coco, "train", change)
    config = small_config(img_size=48, scale_range=[1.0, 1.0], flip=False)
    dataset = CocoDataset(read_split(coco, "train").records, config, train=True)
    assert len(dataset[0]["instances"]) == 0
    assert len(dataset[1]["instances"]) == 2
