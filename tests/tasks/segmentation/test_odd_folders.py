"""Folders as people have them: read right, refused by name, or used with a word of what is odd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features

from backbones.errors import UserError
from tasks.segmentation.classes import class_names
from tasks.segmentation.config import SegmentationConfig
from tasks.segmentation.evaluation import SegmentationEvaluator
from tasks.segmentation.folders import find_pairs
from tasks.segmentation.reading import read_image, read_labels
from tasks.segmentation.task import SegmentationTask

from .conftest import RecipeMaker, write_pair

CONFIG = SegmentationConfig()
FROM_ZERO = SegmentationConfig(reduce_zero_label=False)


def folder_of(root: Path, *values: int, classes: str = "ground\nroad\n") -> Path:
    """Three training and two validation pairs whose maps hold `values`."""
    rng = np.random.default_rng(0)
    for split, count in {"training": 3, "validation": 2}.items():
        for i in range(count):
            labels = np.array(values, np.uint8)[rng.integers(0, len(values), (40, 48))]
            write_pair(root, split, f"{split}_{i}", labels, seed=100 * len(split) + i)
    (root / "classes.txt").write_text(classes)
    return root


def looked_at(task: SegmentationTask) -> tuple[list[str], str]:
    """The lines for people, and the record's notes as one text."""
    lines = task.look_at_data()
    return lines, "\n".join(task.data.notes)


# Labels


def test_masks_of_0_and_255_are_one_class_and_refused(tmp_path: Path, recipe: RecipeMaker) -> None:
    task = SegmentationTask(recipe(folder_of(tmp_path, 0, 255), "segmentation.reduce_zero_label=false"))
    with pytest.raises(
        UserError, match=r"train: all labelled pixels are of one class, 'ground' in 3 maps.*255 is unlabelled"
    ):
        task.look_at_data()


def test_maps_of_zeros_under_reduce_zero_label_are_unlabelled_and_refused(tmp_path: Path, recipe: RecipeMaker) -> None:
    task = SegmentationTask(recipe(folder_of(tmp_path, 0)))
    with pytest.raises(UserError, match=r"train: no pixel is labelled in 3 maps.*so is 0 with segmentation.reduce"):
        task.look_at_data()


def test_a_part_that_the_user_asked_for_may_be_of_one_class(tmp_path: Path, recipe: RecipeMaker) -> None:
    root = folder_of(tmp_path, 1, 2)
    write_pair(root, "validation", "validation_0", np.ones((40, 48), np.uint8), seed=9)
    assert looked_at(SegmentationTask(recipe(root, "data.limit_val=1")))[0]
    write_pair(root, "validation", "validation_1", np.ones((40, 48), np.uint8), seed=10)
    with pytest.raises(UserError, match="val: all labelled pixels are of one class, 'ground'"):
        SegmentationTask(recipe(root)).look_at_data()


def test_classes_that_no_map_holds_are_noted_and_counted(tmp_path: Path, recipe: RecipeMaker) -> None:
    task = SegmentationTask(recipe(folder_of(tmp_path, 1, 3, classes="ground\nroad\ncar\ntree\n")))
    lines, notes = looked_at(task)
    assert "train: 2 of 4 classes are in none of 3 maps (road, tree)" in notes
    assert "val: 2 of 4 classes are in none of 2 maps (road, tree)" in notes
    books = task.data.account["val"]["classes"]
    assert books == {"found": 4, "used": 2, "left_out": {"absent": {"count": 2, "examples": ["road", "tree"]}}}
    assert len(lines) == 3
    assert lines[0].startswith(
        "data small: train: 3 images of 48x40 pixels (3 decoded); 2 of 4 classes, each in 3 of 3 maps"
    )


def test_values_that_fit_the_other_setting_are_noted(tmp_path: Path, recipe: RecipeMaker) -> None:
    root = folder_of(tmp_path, 0, 1, 2, classes="ground\nroad\ncar\n")
    _, notes = looked_at(SegmentationTask(recipe(root)))
    assert "maps hold the value 0, which is unlabelled, and never 3, the last class's: as with" in notes
    folder_of(root, 1, 2, classes="ground\nroad\ncar\n")
    _, notes = looked_at(SegmentationTask(recipe(root, "segmentation.reduce_zero_label=false")))
    assert "maps never hold the value 0, the first class's: as with segmentation.reduce_zero_label=true" in notes


def test_a_label_beyond_the_classes_stops_before_training(tmp_path: Path, recipe: RecipeMaker) -> None:
    task = SegmentationTask(recipe(folder_of(tmp_path, 1, 2, 9)))
    with pytest.raises(UserError, match=r"training_0.png holds label 9, but 2 classes allow labels up to 2"):
        task.look_at_data()


@pytest.mark.parametrize("count", [1, None])
def test_one_class_is_refused(tmp_path: Path, count: int | None) -> None:
    (tmp_path / "classes.txt").write_text("road\n") if count is None else None
    with pytest.raises(
        UserError, match=r"one class, .*: nothing can be told from it; list the background as the first class"
    ):
        class_names(tmp_path, "mine", SegmentationConfig(num_classes=count))


# Names of classes


def test_the_folders_classes_come_before_the_recipes(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("car\nperson\n")
    names, notes = class_names(tmp_path, "mine", SegmentationConfig(class_names=["person", "bicycle", "car"]))
    assert names == ["car", "person"]
    assert notes == ["the 2 classes are those of classes.txt, not the recipe's 3"]
    (tmp_path / "classes.txt").unlink()
    assert class_names(tmp_path, "mine", SegmentationConfig(class_names=["person", "bicycle"])) == (
        ["person", "bicycle"],
        [],
    )


@pytest.mark.parametrize("line", ["{} {}", "{}: {}", "{},{}", "{}\t{}", "{}. {}", " {}  {} "])
@pytest.mark.parametrize("first", [0, 1])
def test_labels_in_the_list_are_held_against_the_setting(tmp_path: Path, line: str, first: int) -> None:
    numbered = [line.format(first + i, name) for i, name in enumerate(["background", "ground 2", "car"])]
    (tmp_path / "classes.txt").write_text("\n".join([*numbered, line.format(255, "void")]))
    right, wrong = (CONFIG, FROM_ZERO) if first else (FROM_ZERO, CONFIG)
    assert class_names(tmp_path, "mine", right) == (["background", "ground 2", "car"], [])
    other = str(right.reduce_zero_label).lower()
    with pytest.raises(
        UserError, match=f"begins with label {first}, but .* --set segmentation.reduce_zero_label={other}"
    ):
        class_names(tmp_path, "mine", wrong)


def test_ade20ks_table_has_labels_too(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("Idx\tRatio\tName\n1\t0.5\twall\n2\t0.5\tsky\n")
    assert class_names(tmp_path, "mine", CONFIG)[0] == ["wall", "sky"]
    with pytest.raises(UserError, match="begins with label 1"):
        class_names(tmp_path, "mine", FROM_ZERO)


def test_labels_that_skip_are_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("1 road\n2 car\n7 tree\n")
    with pytest.raises(UserError, match=r"labels \[1, 2, 7\] skip or are out of order"):
        class_names(tmp_path, "mine", CONFIG)


@pytest.mark.parametrize("names", [["0", "1", "2"], ["2 wheels", "4 wheels"], ["1 storey", "house"]])
def test_names_with_digits_are_names(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(names))
    assert class_names(tmp_path, "mine", CONFIG) == (names, [])


# Files


def test_linked_folders_and_files_are_followed(tmp_path: Path) -> None:
    root, disk = folder_of(tmp_path / "set", 1, 2), tmp_path / "disk"
    for kind, suffix in (("images", "jpg"), ("annotations", "png")):
        for name in ("a", "b"):
            (disk / kind / name).mkdir(parents=True)
            content = (root / kind / "training" / f"training_0.{suffix}").read_bytes()
            (disk / kind / name / f"x.{suffix}").write_bytes(content)
            (root / kind / "training" / name).symlink_to(disk / kind / name)
        (root / kind / "training" / f"one.{suffix}").symlink_to(disk / kind / "a" / f"x.{suffix}")
        (root / kind / "training" / "up").symlink_to(root / kind / "training")
    found = find_pairs(root, CONFIG.train_images, CONFIG.train_maps, CONFIG)
    names = [pair.image.relative_to(root / "images" / "training").as_posix() for pair in found.pairs]
    assert names == ["a/x.jpg", "b/x.jpg", "one.jpg", "training_0.jpg", "training_1.jpg", "training_2.jpg"]
    assert found.account.to_json()["images"]["left_out"] == {"link_loop": {"count": 1, "examples": ["up"]}}


@pytest.mark.parametrize(("lone", "what"), [("maps", "images"), ("images", "maps")])
def test_what_has_no_partner_is_refused_or_left_out(tmp_path: Path, recipe: RecipeMaker, lone: str, what: str) -> None:
    root = folder_of(tmp_path, 1, 2)
    folder, suffix = ("images", "jpg") if what == "images" else ("annotations", "png")
    (root / folder / "training" / f"training_1.{suffix}").unlink()
    with pytest.raises(
        UserError, match=rf"1 of 3 {lone} without a partner: .*training_1.* has no .*data.allow=\[no_partner\]"
    ):
        SegmentationTask(recipe(root))
    task = SegmentationTask(recipe(root, "data.allow=[no_partner]"))
    assert task.data.train_count == 2
    books = task.data.account["train"][lone]
    assert (books["found"], books["used"], books["left_out"]["no_partner"]["count"]) == (3, 2, 1)
    assert any("without a partner" in note for note in task.data.notes)


def test_all_files_of_both_folders_are_in_the_account(tmp_path: Path) -> None:
    root = folder_of(tmp_path, 1, 2)
    images, maps = root / "images" / "training", root / "annotations" / "training"
    (images / "list.csv").write_text("x")
    (images / ".hidden.jpg").write_bytes(b"")
    (maps / "training_0_color.gif").write_bytes((maps / "training_0.png").read_bytes())
    account = find_pairs(root, CONFIG.train_images, CONFIG.train_maps, CONFIG).account
    account.check()
    said = account.to_json()
    assert {name: books["found"] for name, books in said.items()} == {"images": 5, "maps": 4}
    assert {name: sorted(books["left_out"]) for name, books in said.items()} == {
        "images": ["hidden", "not_image"],
        "maps": ["not_chosen"],
    }


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("m.jpg", {}), ("m.png", {"format": "JPEG"}), ("m.jp2", {}), ("m.webp", {}), ("m.png", {"format": "WEBP"})),
        pytest.param("m.avif", {}, marks=pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")),
    ],
)
def test_maps_in_lossy_formats_are_refused(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / name, **options)
    with pytest.raises(UserError, match=rf"{name}: a map in a lossy format: compression"):
        read_labels(tmp_path / name)


@pytest.mark.parametrize("options", [{}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}], ids=["simple", "extended"])
def test_lossless_webp_is_read_where_its_three_channels_are_one(tmp_path: Path, options: dict[str, Any]) -> None:
    """The format knows no grey files."""
    labels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(labels).save(tmp_path / "m.webp", lossless=True, exact=True, **options)
    np.testing.assert_array_equal(read_labels(tmp_path / "m.webp"), labels)
    for name, bands in (("colour", [labels, labels, 63 - labels]), ("clear", [labels, labels, labels, 255 - labels])):
        path = tmp_path / f"{name}.webp"
        Image.fromarray(np.stack(bands, axis=2)).save(path, lossless=True, exact=True, **options)
        with pytest.raises(UserError, match=rf"{name}.webp: a map must be one channel of 8-bit labels"):
            read_labels(path)


def test_a_tiff_is_lossy_only_when_it_is_compressed_so(tmp_path: Path) -> None:
    labels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(labels).save(tmp_path / "m.tif", compression="tiff_deflate")
    np.testing.assert_array_equal(read_labels(tmp_path / "m.tif"), labels)
    Image.fromarray(labels).save(tmp_path / "l.tif", compression="jpeg")
    with pytest.raises(UserError, match="lossy format"):
        read_labels(tmp_path / "l.tif")


def test_eight_bits_in_sixteen_are_said_and_scaled_when_asked_for(tmp_path: Path, recipe: RecipeMaker) -> None:
    root = folder_of(tmp_path, 1, 2)
    for split in ("training", "validation"):
        for k, path in enumerate(sorted((root / "images" / split).iterdir())):
            levels = np.random.default_rng(k + len(split)).integers(1, 256, (40, 48)).astype(np.uint16)
            path.unlink()
            Image.fromarray(levels).save(path.with_suffix(".png"))
    _, notes = looked_at(SegmentationTask(recipe(root)))
    assert "train: 3 of 3 images that were looked at are of 16 bits and hold levels up to 255 alone" in notes
    assert "--set data.white_level=255" in notes
    scaled = SegmentationTask(recipe(root, "data.white_level=255"))
    assert "of 16 bits" not in looked_at(scaled)[1]
    assert int(scaled.val_dataset()[0]["inputs"].max()) > 200
    assert int(SegmentationTask(recipe(root)).val_dataset()[0]["inputs"].max()) == 0
    path = next((root / "images" / "training").iterdir())
    np.testing.assert_array_equal(read_image(path, white=255)[..., 0], np.asarray(Image.open(path)))


# Two splits


@pytest.mark.parametrize("how", ["the same folder", "a link", "linked files", "hard links"])
def test_validation_that_is_training_is_refused_unless_it_is_meant(
    tmp_path: Path, recipe: RecipeMaker, how: str
) -> None:
    root, options = folder_of(tmp_path, 1, 2), []
    if how == "the same folder":
        options = ["segmentation.val_images=images/training", "segmentation.val_maps=annotations/training"]
    for kind in ("images", "annotations"):
        val = root / kind / "validation"
        for path in [*val.iterdir()]:
            path.unlink()
        val.rmdir()
        if how == "a link":
            val.symlink_to("training")
            continue
        val.mkdir()
        for path in (root / kind / "training").iterdir():
            (val / path.name).hardlink_to(path) if how == "hard links" else (val / path.name).symlink_to(path)
    with pytest.raises(UserError, match=r"val .*3 of 3 are training images too.*data.allow=\[val_in_train\]"):
        SegmentationTask(recipe(root, *options))
    task = SegmentationTask(recipe(root, *options, "data.allow=[val_in_train]"))
    assert any("3 of 3 are training images too" in note for note in task.data.notes)


def test_copies_of_training_images_are_noted(tmp_path: Path, recipe: RecipeMaker) -> None:
    root = folder_of(tmp_path, 1, 2)
    image = (root / "images" / "training" / "training_0.jpg").read_bytes()
    (root / "images" / "validation" / "validation_0.jpg").write_bytes(image)
    _, notes = looked_at(SegmentationTask(recipe(root)))
    assert "1 of 2 looked at have the very bytes of a training image" in notes


def test_pictures_are_drawn_at_the_white_level(tmp_path: Path) -> None:
    path = tmp_path / "dark.png"
    Image.fromarray(np.full((32, 32), 200, np.uint16)).save(path)
    brightest: dict[int, int] = {}
    for white in (255, 65535):
        evaluator = SegmentationEvaluator(["a", "b"], [str(path)], white)
        evaluator.add(torch.zeros(32, 32, dtype=torch.int64), torch.zeros(32, 32, dtype=torch.int64), str(path))
        (tmp_path / str(white)).mkdir()
        evaluator.write(evaluator.results(), tmp_path / str(white))
        (drawn,) = (tmp_path / str(white)).iterdir()
        pixels = np.asarray(Image.open(drawn).convert("RGB"))
        brightest[white] = int((pixels == 200).all(axis=-1).sum())
    assert brightest[255] >= 32 * 32  # the photograph; beside it the letters' edges
    assert brightest[65535] < 32 * 32


def test_images_that_their_exif_tag_turns_by_half_are_said(tmp_path: Path, recipe: RecipeMaker) -> None:
    """A map drawn on the picture as stored has the same size: nothing else tells."""
    root, turned = folder_of(tmp_path, 1, 2), Image.Exif()
    turned[0x0112] = 3
    path = root / "images" / "training" / "training_0.jpg"
    Image.open(path).save(path, exif=turned)
    _, notes = looked_at(SegmentationTask(recipe(root)))
    assert (
        f"train: 1 of 3 images that were looked at are turned by their EXIF tag, as mmseg does, such as {path}" in notes
    )


def test_ious_under_the_folders_own_classes_are_numpys(tmp_path: Path, recipe: RecipeMaker) -> None:
    """A recipe that names other classes, in another order: each figure bears the name of the class that it is of."""
    root = folder_of(tmp_path, 1, 2, classes="car\nperson\n")
    task = SegmentationTask(recipe(root, "segmentation.class_names=[person,bicycle,car]"))
    evaluator, rng = task.evaluator(), np.random.default_rng(5)
    assert isinstance(evaluator, SegmentationEvaluator)
    inter, union = np.zeros(2), np.zeros(2)
    for path in sorted((root / "annotations" / "validation").iterdir()):
        truth = np.asarray(Image.open(path)).astype(int) - 1
        guess = np.where(rng.random(truth.shape) < 0.7, truth, 0)
        evaluator.add(torch.from_numpy(guess), torch.from_numpy(truth))
        inter += [((guess == c) & (truth == c)).sum() for c in range(2)]
        union += [((guess == c) | (truth == c)).sum() for c in range(2)]
    found = evaluator.metrics(evaluator.results())
    ious = 100 * inter / union
    assert found["IoU.car"] == pytest.approx(ious[0])
    assert found["IoU.person"] == pytest.approx(ious[1])
    assert found["mIoU"] == pytest.approx(ious.mean())


def test_a_map_of_several_pages_is_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((8, 8), k, np.uint8)) for k in (1, 2)]
    for name in ("m.tif", "m.gif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        with pytest.raises(UserError, match=rf"{name}: unreadable map \(it has 2 frames or pages, and a map is one\)"):
            read_labels(tmp_path / name)
