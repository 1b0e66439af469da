"""Class folders and tars of them give the same samples; classes are numbered by the training split; bad files are named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbones.errors import UserError
from tasks.datasets.images import TransformedImages, open_split
from tests.tasks.pictures import make_folders, make_tars, save_picture, truncate


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    return make_folders(tmp_path / "folders")


def refusal(root: object, split: str = "train", class_to_idx: dict[str, int] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        open_split("mine", root if root is None else str(root), split, class_to_idx)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_classes_are_the_sorted_folder_names(folders: Path) -> None:
    images = open_split("mine", str(folders), "train")
    assert images.class_to_idx == {"ant": 0, "bee": 1, "cat": 2}
    assert len(images) == 12
    assert images.classes == 3
    for i in range(len(images)):
        image, label = images.read(i)
        path = Path(images.name(i))
        assert path.is_file()
        assert images.class_to_idx[path.parent.name] == label
        assert np.array_equal(np.asarray(image), np.asarray(Image.open(path)))


@pytest.mark.parametrize("split", ["train", "val"])
def test_tar_and_folder_give_the_same_samples(folders: Path, tmp_path: Path, split: str) -> None:
    tars = make_tars(folders, tmp_path / "tars")
    a, b = open_split("mine", str(folders), split), open_split("mine", str(tars), split)
    assert a.class_to_idx == b.class_to_idx
    assert len(a) == len(b)
    for i in range(len(a)):
        (left, left_label), (right, right_label) = a.read(i), b.read(i)
        assert left_label == right_label
        assert np.array_equal(np.asarray(left), np.asarray(right))


@pytest.mark.parametrize("kind", ["folders", "tars"])
def test_cached_images_are_the_ones_on_disk(folders: Path, tmp_path: Path, kind: str) -> None:
    root = folders if kind == "folders" else make_tars(folders, tmp_path / "tars")
    images = open_split("mine", str(root), "train")
    images.limit(5)
    before = [(np.asarray(image), label) for image, label in map(images.read, range(5))]
    images.cache()
    for i, (pixels, label) in enumerate(before):
        image, cached_label = images.read(i)
        assert cached_label == label
        assert np.array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize(
    ("present", "split", "chosen"),
    [
        (["train", "training"], "train", "train"),
        (["training", "test"], "train", "training"),
        (["train", "test"], "val", "test"),
        (["validation", "test"], "val", "validation"),
        (["pretrain", "train"], "pretrain", "pretrain"),
        (["train", "val"], "pretrain", "train"),
    ],
)
def test_first_known_split_name_is_taken(tmp_path: Path, present: list[str], split: str, chosen: str) -> None:
    for seed, name in enumerate(present):
        save_picture(tmp_path / name / "a" / f"{name}.png", seed)
    images = open_split("mine", str(tmp_path), split)
    assert Path(images.name(0)).parent.parent.name == chosen


@pytest.mark.parametrize("kind", ["folders", "tars"])
def test_validation_uses_the_class_numbers_of_training(folders: Path, tmp_path: Path, kind: str) -> None:
    shutil.rmtree(folders / "val" / "ant")  # a class without validation images moves nobody's number
    root = folders if kind == "folders" else make_tars(folders, tmp_path / "tars")
    train = open_split("mine", str(root), "train")
    val = open_split("mine", str(root), "val", train.class_to_idx)
    assert val.classes == 3
    assert sorted({val.read(i)[1] for i in range(len(val))}) == [1, 2]
    assert all(Path(val.name(i)).parent.name == ["ant", "bee", "cat"][val.read(i)[1]] for i in range(len(val)))


@pytest.mark.parametrize("kind", ["folders", "tars"])
def test_class_that_training_lacks_is_named(folders: Path, tmp_path: Path, kind: str) -> None:
    save_picture(folders / "val" / "dog" / "0.jpg", 1)
    root = folders if kind == "folders" else make_tars(folders, tmp_path / "tars")
    train = open_split("mine", str(root), "train")
    message = refusal(root, "val", train.class_to_idx)
    assert "'dog'" in message
    assert "val" in message


@pytest.mark.parametrize(("train", "val"), [("Cat", "cat"), ("cat", "cat "), ("\u00fcber", "u\u0308ber")])
def test_a_class_that_is_spelt_otherwise_is_shown_as_both(tmp_path: Path, train: str, val: str) -> None:
    for split, name in (("train", train), ("val", val)):
        for other in (name, "dog"):
            save_picture(tmp_path / split / other / "0.jpg", 1)
    index = open_split("mine", str(tmp_path), "train").class_to_idx
    assert f"training spells it {train!a}, this is {val!a}" in refusal(tmp_path, "val", index)


def test_tiny_imagenets_validation_as_unpacked_is_refused_with_its_list(tmp_path: Path) -> None:
    for name in ("train/n01/images/0.JPEG", "train/n02/images/0.JPEG", "val/images/val_0.JPEG"):
        save_picture(tmp_path / name, 1)
    (tmp_path / "val/val_annotations.txt").write_text("val_0.JPEG\tn01\t0\t0\t9\t9\n")
    index = open_split("mine", str(tmp_path), "train").class_to_idx
    assert "its labels are in val_annotations.txt?" in refusal(tmp_path, "val", index)


def test_numbers_for_names_are_refused_with_the_way_out(tmp_path: Path) -> None:
    for name in ("train/n01/0.JPEG", "train/n02/0.JPEG", "val/0.JPEG", "val/1.JPEG"):
        save_picture(tmp_path / name, 1)
    (tmp_path / "val.txt").write_text("0.JPEG 0\n1.JPEG 1\n")
    index = open_split("mine", str(tmp_path), "train").class_to_idx
    assert "give names, in a CSV list of path,label" in refusal(tmp_path, "val", index)


@pytest.mark.parametrize("kind", ["folders", "tars"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 0.95])
def test_truncated_jpeg_is_named(folders: Path, tmp_path: Path, kind: str, share: float) -> None:
    truncate(folders / "train" / "bee" / "2.jpg", share)
    root = folders if kind == "folders" else make_tars(folders, tmp_path / "tars")
    images = open_split("mine", str(root), "train")
    with pytest.raises(UserError, match=r"bee/2\.jpg: unreadable image .*data\.skip_broken=true") as caught:
        list(map(images.read, range(len(images))))
    assert "\n" not in str(caught.value)
    assert images.drop_broken() == 1
    assert len(images) == 11
    assert images.drop_broken() == 0


def test_text_file_named_as_an_image_is_named(folders: Path) -> None:
    (folders / "train" / "ant" / "0.jpg").write_text("not found")
    images = open_split("mine", str(folders), "train")
    with pytest.raises(UserError, match=r"ant/0\.jpg: unreadable image"):
        images.read(0)


def test_image_that_vanished_is_named(folders: Path) -> None:
    images = open_split("mine", str(folders), "train")
    (folders / "train" / "ant" / "0.jpg").unlink()
    with pytest.raises(UserError, match=r"ant/0\.jpg"):
        images.read(0)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_images_of_any_mode_are_rgb(tmp_path: Path, mode: str) -> None:
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    Image.new(mode, (9, 7)).save(folder / ("0.jpg" if mode == "CMYK" else "0.png"))
    image, _ = open_split("mine", str(tmp_path), "train").read(0)
    assert (image.mode, image.size) == ("RGB", (9, 7))


def test_limit_keeps_every_class(folders: Path) -> None:
    images = open_split("mine", str(folders), "train")
    images.limit(6)
    labels = [images.read(i)[1] for i in range(len(images))]
    assert labels == [0, 0, 1, 1, 2, 2]
    images.limit(100)
    assert len(images) == 6


def test_fingerprint_changes_with_names_and_sizes(folders: Path, tmp_path: Path) -> None:
    def fingerprint() -> str:
        return open_split("mine", str(folders), "train").fingerprint()

    first = fingerprint()
    shutil.copytree(folders, tmp_path / "elsewhere")
    assert open_split("mine", str(tmp_path / "elsewhere"), "train").fingerprint() == first
    (folders / "train" / "ant" / "0.jpg").rename(folders / "train" / "ant" / "9.jpg")
    renamed = fingerprint()
    truncate(folders / "train" / "bee" / "0.jpg", 0.9)
    assert len({first, renamed, fingerprint()}) == 3


def test_transformed_images_carry_their_label(folders: Path) -> None:
    data = TransformedImages(open_split("mine", str(folders), "val"), lambda image: image.size)
    assert len(data) == 6
    assert data[5] == ((40, 32), 2)


def test_bad_roots_are_named(tmp_path: Path) -> None:
    assert "--data mine=DIR" in refusal(None)
    assert f"--data mine={tmp_path}/none" in refusal(tmp_path / "none")
    assert "empty" in refusal(tmp_path)
    (tmp_path / "other").mkdir()
    assert "no train split there" in refusal(tmp_path)
    (tmp_path / "train" / "a").mkdir(parents=True)
    assert str(tmp_path / "train") in refusal(tmp_path)  # no images in it


@pytest.mark.parametrize("content", [b"", b"no tar at all", b"\0" * 2000])
def test_file_that_is_no_tar_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train.tar").write_bytes(content)
    assert str(tmp_path / "train.tar") in refusal(tmp_path)


def test_file_as_root_is_named(tmp_path: Path) -> None:
    (tmp_path / "file.zip").write_bytes(b"PK")
    assert "file.zip" in refusal(tmp_path / "file.zip")
