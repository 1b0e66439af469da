"""The same images in any layout give the same bytes, labels and classes; what is wrong with one is named in a line."""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from backbones.errors import UserError
from tasks.datasets.images import open_split
from tasks.datasets.layouts import tar_index as tar_module
from tests.tasks.datasets.layouts import layouts
from tests.tasks.pictures import make_folders, save_picture

Maker = Callable[[Path, Path, str], object]


def _tar(folders: Path, root: Path, split: str) -> object:
    members = [(f"{name}/{file.name}", file.read_bytes()) for name, _, file in layouts.samples(folders, split)]
    return layouts.write_tar(root / f"{split}.tar", members)


def _parquet(folders: Path, root: Path, split: str) -> object:
    pytest.importorskip("pyarrow")
    return layouts.parquet(folders, root, split)


MAKERS: dict[str, Maker] = {
    "tar": _tar,
    "tars in a folder": lambda f, r, s: layouts.tars_of_classes(f, r / s, s),
    "official tar of tars": lambda f, r, s: layouts.tar_of_tars(
        f, r / f"ILSVRC2012_img_{s}.tar" if s == "train" else r / "val.tar", s
    ),
    "parquet": _parquet,
    "shards": layouts.shards,
    "timm's shards": lambda f, r, s: layouts.shards(f, r, s, prefix="imagenet1k-"),
    "shards in folders": lambda f, r, s: layouts.shards(f, r / s, s),
    "inaturalist": layouts.inaturalist,
    "places365": layouts.places365,
    "places205": layouts.places205,
}
NUMBERED = ("shards", "timm's shards", "shards in folders", "places365", "places205")
any_layout = pytest.mark.parametrize("layout", MAKERS)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    return make_folders(tmp_path / "folders")


@pytest.fixture
def make(folders: Path, tmp_path: Path) -> Callable[[str], str]:
    def call(layout: str) -> str:
        for split in ("train", "val"):
            MAKERS[layout](folders, tmp_path / "made", split)
        return str(tmp_path / "made")

    return call


@any_layout
@pytest.mark.parametrize("split", ["train", "val"])
def test_bytes_and_labels_are_those_of_the_folders(
    folders: Path, make: Callable[[str], str], layout: str, split: str
) -> None:
    expected = Counter((file.read_bytes(), label) for _, label, file in layouts.samples(folders, split))
    images = open_split("mine", make(layout), split)
    assert Counter(images.encoded(i) for i in range(len(images))) == expected
    assert images.class_names == (["0", "1", "2"] if layout in NUMBERED else ["ant", "bee", "cat"])
    assert images.labels == [images.label(i) for i in range(len(images))]
    picture, label = images.read(3)
    assert picture.size == (40, 32)
    assert label == images.labels[3]


@any_layout
def test_validation_has_the_numbers_of_training(make: Callable[[str], str], layout: str) -> None:
    root = make(layout)
    train = open_split("mine", root, "train")
    val = open_split("mine", root, "val", train.class_to_idx)
    assert val.class_to_idx == train.class_to_idx
    assert sorted(val.labels) == [0, 0, 1, 1, 2, 2]


@any_layout
def test_opened_twice_it_is_the_same_and_limits_keep_every_class(make: Callable[[str], str], layout: str) -> None:
    root = make(layout)
    first, second = open_split("mine", root, "train"), open_split("mine", root, "train")
    assert first.fingerprint() == second.fingerprint() != open_split("mine", root, "val").fingerprint()
    assert [first.relative_name(i) for i in range(12)] == [second.relative_name(i) for i in range(12)]
    assert len({first.relative_name(i) for i in range(12)}) == 12
    copy = pickle.loads(pickle.dumps(first))  # as worker processes get it
    assert copy.encoded(5) == second.encoded(5)


@any_layout
def test_pretraining_reads_the_training_images(make: Callable[[str], str], layout: str) -> None:
    assert len(open_split("mine", make(layout), "pretrain")) == 12


def read_all(root: str, split: str, class_to_idx: dict[str, int] | None) -> None:
    images = open_split("mine", root, split, class_to_idx)
    for i in range(len(images)):
        images.encoded(i)


def refusal(root: object, split: str = "train", class_to_idx: dict[str, int] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        read_all(str(root), split, class_to_idx)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Tars


def test_an_archive_cut_short_is_named(make: Callable[[str], str], tmp_path: Path) -> None:
    tar = Path(make("tar")) / "train.tar"
    tar.write_bytes(tar.read_bytes()[:5000])
    assert f"{tar}: not readable as an uncompressed tar" in refusal(tar.parent)


def test_a_compressed_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.tar").write_bytes(b"\x1f\x8b" + bytes(2000))
    assert "not readable as an uncompressed tar" in refusal(tmp_path)


def test_archive_that_shrank_after_it_was_opened_is_named(make: Callable[[str], str]) -> None:
    tar = Path(make("tar")) / "train.tar"
    images = open_split("mine", str(tar.parent), "train")
    tar.write_bytes(tar.read_bytes()[:600])
    with pytest.raises(
        UserError, match=r"train\.tar/cat/3\.jpg: unreadable image \(the archive ends within this file\)"
    ):
        images.read(11)


def test_a_class_archive_without_images_is_named(make: Callable[[str], str]) -> None:
    root = Path(make("tars in a folder"))
    layouts.write_tar(root / "train" / "dog.tar", [])
    assert "class 'dog' has no images (1 such of 3)" in refusal(root)


def test_the_index_of_a_large_archive_is_kept_until_it_changes(
    make: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = Path(make("tar")) / "train.tar"
    monkeypatch.setattr(tar_module, "_CACHED_BYTES", 0)
    first = open_split("mine", str(tar.parent), "train")
    monkeypatch.setattr(tar_module, "_members", None)  # a second scan would fail
    second = open_split("mine", str(tar.parent), "train")
    assert [first.encoded(i) for i in range(12)] == [second.encoded(i) for i in range(12)]
    assert [first.name(i) for i in range(12)] == [second.name(i) for i in range(12)]
    os.utime(tar, (1, 1))
    with pytest.raises(TypeError):
        open_split("mine", str(tar.parent), "train")


@pytest.mark.parametrize("left", [0, 3, 200, -30])
def test_a_damaged_index_is_made_anew(
    make: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, cache: Path, left: int
) -> None:
    root = make("tar")
    monkeypatch.setattr(tar_module, "_CACHED_BYTES", 0)
    before = set((cache / "tar-index").glob("*"))
    open_split("mine", root, "train")
    (kept,) = set((cache / "tar-index").glob("*")) - before
    kept.write_bytes(kept.read_bytes()[:left])
    assert len(open_split("mine", root, "train")) == 12
    monkeypatch.setattr(tar_module, "_members", None)
    assert len(open_split("mine", root, "train")) == 12  # from the one that was written anew


def test_a_cache_that_cannot_be_written_does_not_stop_anything(
    make: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MAE_BENCH_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(tar_module, "_CACHED_BYTES", 0)
    assert len(open_split("mine", make("tar"), "train")) == 12


# WebDataset shards


def test_a_sample_without_label_is_named(folders: Path, tmp_path: Path) -> None:
    shard = layouts.shards(folders, tmp_path / "w", "train", count=1)[0]
    layouts.write_tar(shard, [("a.cls", b"0"), ("a.jpg", b"x"), ("b.jpg", b"x")])
    message = refusal(tmp_path / "w")
    assert "1 of 3 members without a label" in message
    assert "train-000000.tar: b.jpg (no b.cls)" in message


def test_a_label_that_is_no_number_is_named(folders: Path, tmp_path: Path) -> None:
    layouts.write_tar(tmp_path / "w" / "train-000000.tar", [("a.cls", b"cat"), ("a.jpg", b"x")])
    assert "train-000000.tar: a.cls holds b'cat': expected a class index" in refusal(tmp_path / "w")


def test_a_class_number_without_images_is_named(folders: Path, tmp_path: Path) -> None:
    layouts.write_tar(
        tmp_path / "w" / "train-000000.tar", [("a.cls", b"0"), ("a.jpg", b"x"), ("b.cls", b"2"), ("b.jpg", b"")]
    )
    assert "class '1' has no images" in refusal(tmp_path / "w")


# Parquet


@pytest.fixture
def pyarrow() -> None:
    pytest.importorskip("pyarrow")


@pytest.mark.usefixtures("pyarrow")
def test_parquet_without_names_numbers_its_classes(folders: Path, tmp_path: Path) -> None:
    layouts.parquet(folders, tmp_path, "train", names=False)
    assert open_split("mine", str(tmp_path), "train").class_names == ["0", "1", "2"]


@pytest.mark.usefixtures("pyarrow")
def test_parquet_is_read_in_any_order_and_in_forked_workers(folders: Path, tmp_path: Path) -> None:
    from torch.utils.data import DataLoader

    from tasks.datasets.images import TransformedImages

    layouts.parquet(folders, tmp_path, "train", shards=3)
    images = open_split("mine", str(tmp_path), "train")
    expected = [images.encoded(i) for i in range(12)]
    order = np.random.default_rng(0).permutation(12).tolist()
    assert [images.encoded(i) for i in order] == [expected[i] for i in order]
    data = TransformedImages(images, lambda image: image.size[0])
    loaded = list(DataLoader(data, batch_size=None, num_workers=2, sampler=order))
    assert [int(label) for _, label in loaded] == [expected[i][1] for i in order]


@pytest.mark.usefixtures("pyarrow")
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_corrupt_shard_is_named(folders: Path, tmp_path: Path, share: float) -> None:
    shard = layouts.parquet(folders, tmp_path, "train")[1]
    content = shard.read_bytes()
    shard.write_bytes(content[: int(share * len(content))])
    assert f"{shard}: not readable as parquet" in refusal(tmp_path)


@pytest.mark.usefixtures("pyarrow")
def test_a_shard_damaged_inside_is_named(folders: Path, tmp_path: Path) -> None:
    shard = layouts.parquet(folders, tmp_path, "train", shards=1, group=12)[0]
    content = bytearray(shard.read_bytes())
    start = content.find(b"\xff\xd8\xff")  # within the column of images, whose page header comes before it
    content[max(start - 60, 4) : start] = b"\xff" * (start - max(start - 60, 4))
    shard.write_bytes(bytes(content))
    assert shard.name in refusal(tmp_path)


@pytest.mark.usefixtures("pyarrow")
def test_a_missing_shard_is_named(folders: Path, tmp_path: Path) -> None:
    shard = layouts.parquet(folders, tmp_path, "train", shards=3)[1]
    shard.unlink()
    assert f"{shard}: missing: complete the download (3 shards)" in refusal(tmp_path)


@pytest.mark.usefixtures("pyarrow")
@pytest.mark.parametrize(("label", "said"), [(3, "label 3 is outside 0 to 2"), (-1, "label -1 is outside 0 to 2")])
def test_a_label_outside_the_names_is_named(folders: Path, tmp_path: Path, label: int, said: str) -> None:
    layouts.parquet(folders, tmp_path, "train", label=label)
    message = refusal(tmp_path)
    assert said in message
    assert str(tmp_path / "data") in message


@pytest.mark.usefixtures("pyarrow")
def test_columns_that_are_not_images_are_named(folders: Path, tmp_path: Path) -> None:
    layouts.parquet(folders, tmp_path, "train", image="text")
    assert "column image is string: expected a struct of bytes and path" in refusal(tmp_path)


@pytest.mark.usefixtures("pyarrow")
@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("n01440764_10026_n01440764.JPEG", "n01440764_10026.JPEG"),
        ("ILSVRC2012_val_00000001_n01751748.JPEG", "ILSVRC2012_val_00000001.JPEG"),
        ("n01440764_10026.JPEG", "n01440764_10026.JPEG"),
        ("some_n01440764.jpg", "some_n01440764.jpg"),
    ],
)
def test_names_are_imagenets_own_without_the_synset_that_was_added(
    folders: Path, tmp_path: Path, path: str, name: str
) -> None:
    layouts.parquet(folders, tmp_path, "train", image={"bytes": b"x", "path": path})
    assert open_split("mine", str(tmp_path), "train").relative_name(0) == name


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    for module in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    assert "pip install 'mae-bench[parquet]'" in refusal(tmp_path)


# iNaturalist


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["annotations"][0].update(category_id=77), "has category 77, which is not among its 3 categories"),
        (lambda c: c["annotations"][0].update(image_id=1), "annotation of image 1, which is not among its 12 images"),
        (lambda c: c["annotations"].pop(), "has no annotation"),
        (lambda c: c["categories"].append({"id": 9, "name": "dog"}), "class 'dog' has no images"),
        (lambda c: c.pop("categories"), "not iNaturalist's annotations (KeyError: 'categories')"),
    ],
)
def test_annotations_that_do_not_fit_are_named(
    folders: Path, tmp_path: Path, change: Callable[[dict], object], said: str
) -> None:
    path = layouts.inaturalist(folders, tmp_path / "inat", "train")
    edit(path, change)
    message = refusal(path.parent)
    assert said in message
    assert "inat" in message


def test_names_that_two_categories_share_stay_apart(folders: Path, tmp_path: Path) -> None:
    path = layouts.inaturalist(folders, tmp_path, "train")
    edit(path, lambda c: [category.update(name="same") for category in c["categories"]])
    assert open_split("mine", str(tmp_path), "train").classes == 3


def test_a_listed_image_that_is_missing_is_named(folders: Path, tmp_path: Path) -> None:
    layouts.inaturalist(folders, tmp_path, "train")
    images = open_split("mine", str(tmp_path), "train")
    missing = Path(images.name(4))
    missing.unlink()
    with pytest.raises(UserError, match="listed but not there"):
        images.fingerprint()
    with pytest.raises(UserError, match=str(missing)):
        images.read(4)


def test_two_years_in_one_folder_are_named(folders: Path, tmp_path: Path) -> None:
    for year in (2018, 2019):
        layouts.inaturalist(folders, tmp_path, "train", year)
    assert "several years there (train2018.json, train2019.json)" in refusal(tmp_path)


# Lists


def test_categories_name_the_classes_and_bound_the_labels(folders: Path, tmp_path: Path) -> None:
    layouts.places365(folders, tmp_path, "train")
    (tmp_path / "categories_places365.txt").write_text("/a/ant 0\n/b/bee 1\n/c/cat 2\n")
    assert open_split("mine", str(tmp_path), "train").class_names == ["a/ant", "b/bee", "c/cat"]
    (tmp_path / "categories_places365.txt").write_text("/a/ant 0\n/b/bee 1\n")
    assert "places365_train_standard.txt: label 2 is outside 0 to 1 (4 such of 12)" in refusal(tmp_path)


def test_a_line_without_label_is_named(folders: Path, tmp_path: Path) -> None:
    listing = layouts.places365(folders, tmp_path, "train")
    listing.write_text(listing.read_text() + "/c/cat/9.jpg\n")
    assert "places365_train_standard.txt:13: '/c/cat/9.jpg' is not a path and a class index" in refusal(tmp_path)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_list_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "train.txt").write_text(content)
    assert "train.txt: no images in this list" in refusal(tmp_path)


def test_images_that_were_not_unpacked_are_named(tmp_path: Path) -> None:
    (tmp_path / "places365_val.txt").write_text("Places365_val_00000001.jpg 0\n")
    assert "is in none of val_256, val_large, val under" in refusal(tmp_path, "val")


def test_a_flat_split_folder_goes_by_its_list_and_class_folders_by_themselves(folders: Path, tmp_path: Path) -> None:
    root = tmp_path / "flat"
    for k in range(4):
        save_picture(root / "val" / f"{k}.jpg", k)
    (root / "val.txt").write_text("".join(f"{k}.jpg {k // 2}\n" for k in range(4)))
    assert open_split("mine", str(root), "val").labels == [0, 0, 1, 1]
    (folders / "val.txt").write_text("ant/0.jpg 9\n")
    assert open_split("mine", str(folders), "val").class_names == ["ant", "bee", "cat"]


# Class folders


def test_an_empty_class_folder_is_named(folders: Path) -> None:
    (folders / "train" / "dog").mkdir()
    assert "train: class 'dog' has no images (1 such of 3)" in refusal(folders)
    (folders / "val" / "dog").mkdir()
    assert "val: class 'dog' has no images" in refusal(folders, "val")
    (folders / "train" / "dog").rmdir()
    classes = open_split("mine", str(folders), "train").class_to_idx
    assert len(open_split("mine", str(folders), "val", classes)) == 6  # numbered by training, it shifts nothing
    assert len(open_split("mine", str(folders), "pretrain")) == 12
