"""Files as people have them: each is read as the reference reads it (torchvision, WebDataset), or refused in a line."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from backbones.errors import UserError
from tasks.datasets.images import ImageSet, open_folder, open_split
from tasks.datasets.options import LayoutOptions
from tests.tasks.datasets.layouts import layouts
from tests.tasks.pictures import make_folders, save_picture

SPLITS = ("train", "val")


def opened(root: Path, split: str = "train", allow: Iterable[str] = (), **options: Any) -> ImageSet:
    images = open_split("mine", str(root), split, allow=set(allow), options=LayoutOptions(**options))
    images.account.check()
    return images


def refusal(root: Path, split: str = "train", **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        opened(root, split, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def samples(images: ImageSet) -> Counter[tuple[bytes, str]]:
    """(bytes, class name) of every image."""
    return Counter((images.encoded(i)[0], images.class_names[label]) for i, label in enumerate(images.labels))


def as_torchvision(root: Path) -> Counter[tuple[bytes, str]]:
    folder = ImageFolder(str(root))
    return Counter((Path(path).read_bytes(), folder.classes[label]) for path, label in folder.samples)


def left_out(images: ImageSet) -> dict[str, int]:
    (books,) = images.account.kinds.values()
    return {reason: entry.count for reason, entry in books.left_out.items()}


# Class folders


@pytest.mark.parametrize("below", ["cam1", "images", "a/b/c"])
def test_the_folder_under_the_split_is_the_class_whatever_lies_below(tmp_path: Path, below: str) -> None:
    for k, name in enumerate(("cat", "dog")):
        save_picture(tmp_path / "train" / name / below / "0.jpg", 2 * k)
        save_picture(tmp_path / "train" / name / "cam2" / "0.jpg", 2 * k + 1)
    images = opened(tmp_path)
    assert images.class_names == ["cat", "dog"]
    assert samples(images) == as_torchvision(tmp_path / "train")


def test_a_tar_of_nested_class_folders_has_the_same_classes(tmp_path: Path) -> None:
    names = [f"{wrap}{c}/{cam}/0.jpg" for wrap in ("",) for c in ("cat", "dog") for cam in ("cam1", "cam2")]
    layouts.write_tar(tmp_path / "a/train.tar", [(name, name.encode()) for name in names])
    layouts.write_tar(tmp_path / "b/train.tar", [(f"./train/{name}", name.encode()) for name in names])
    for folder in ("a", "b"):
        images = opened(tmp_path / folder)
        assert [images.class_names[label] for label in images.labels] == ["cat", "cat", "dog", "dog"]


@pytest.mark.parametrize(
    "classes",
    [[str(i) for i in range(12)], ["Zebra", "ant", "Bee"], ["a_1", "a-1", "a1", "a 1"], ["é", "e", "z"]],
    ids=["numbers", "case", "signs", "accents"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_classes_are_in_torchvisions_order(tmp_path: Path, classes: list[str], packed: bool) -> None:
    for k, name in enumerate(classes):
        save_picture(tmp_path / "train" / name / "0.jpg", k)
    expected = ImageFolder(str(tmp_path / "train")).class_to_idx
    if packed:
        with tarfile.open(tmp_path / "packed.tar", "w") as tar:
            tar.add(tmp_path / "train", arcname=".")
        shutil.rmtree(tmp_path / "train")
        (tmp_path / "packed.tar").rename(tmp_path / "train.tar")
    assert opened(tmp_path).class_to_idx == expected


def opens(path: str) -> bool:
    """PIL's own judgement of a file."""
    try:
        Image.open(path).verify()
    except (OSError, SyntaxError):
        return False
    return True


def test_all_that_can_be_read_is_read_and_the_rest_is_counted(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    for suffix in ("jpg", "JPEG", "webp", "tif", "bmp", "png", "gif", "avif"):
        for k, name in enumerate(("cat", "dog")):
            save_picture(folder / name / f"a.{suffix}", k)
    shutil.copy(folder / "cat/a.jpg", folder / "cat/without_suffix")
    shutil.copy(folder / "dog/a.png", folder / "dog/a.jpg_large")
    (folder / "cat/notes.csv").write_text("a,b\n")
    (folder / "about").write_text("text\n")
    (folder / "cat/.DS_Store").write_bytes(b"\0")
    save_picture(folder / ".cache/a.jpg", 9)
    save_picture(folder / "cat/.ipynb_checkpoints/a.jpg", 9)
    images = opened(tmp_path)
    assert len(images) == 18
    assert images.class_names == ["cat", "dog"]
    assert left_out(images) == {"hidden": 3, "not_image": 2}
    assert images.account.kinds["files"].found == 23
    for hidden in (folder / ".cache", folder / "cat/.ipynb_checkpoints"):
        shutil.rmtree(hidden)
    theirs = ImageFolder(str(folder), is_valid_file=opens)  # of the folder without tools' own folders
    assert theirs.classes == images.class_names
    assert samples(images) == Counter(
        (Path(path).read_bytes(), theirs.classes[label]) for path, label in theirs.samples
    )
    pixels = [
        Counter((image.tobytes(), label) for image, label in each) for each in (map(images.read, range(18)), theirs)
    ]
    assert pixels[0] == pixels[1]


def test_macos_files_beside_archives_and_shards_are_none(tmp_path: Path) -> None:
    for root in (tmp_path / "shards", tmp_path / "parts/train"):
        shard(root / "train-000000.tar", {**pair("a", 0), **pair("b", 1)})
        (root / "._train-000000.tar").write_bytes(b"\0\5\x16\7\0")
    assert (
        samples(opened(tmp_path / "shards")) == samples(opened(tmp_path / "parts")) == {(b"a", "0"): 1, (b"b", "1"): 1}
    )
    parquet(tmp_path / "hf/data/train-00000-of-00001.parquet", image=IMAGES, label=[0, 1, 0, 1])
    (tmp_path / "hf/data/._train-00000-of-00001.parquet").write_bytes(b"\0\5\x16\7\0")
    assert opened(tmp_path / "hf").labels == [0, 1, 0, 1]


def test_a_second_place_that_could_hold_the_split_is_noted(tmp_path: Path) -> None:
    root = make_folders(tmp_path / "set", classes=("cat", "dog"))
    assert opened(root).reader.notes == []
    layouts.write_tar(root / "train.tar", [("cat/1.jpg", b"1"), ("dog/1.jpg", b"2")])
    (root / "train.txt").write_text("train/cat/0.jpg 1\n")
    (root / "test").mkdir()
    assert opened(root).reader.notes == ["train is read, and not train.tar, train.txt beside it"]
    assert opened(root, "val").reader.notes == []


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda f: save_picture(f / "stray.jpg", 1), "no_label"),
        (lambda f: (f / "cat/x.heic").write_bytes(b"x"), "unknown_format"),
        (lambda f: (f / "cat/x.jpg").symlink_to("nowhere"), "missing"),
        (lambda f: (f / "cat/x.jpg").symlink_to("x.jpg"), "missing"),
        (lambda f: (f / "cat/x.jpg").symlink_to("nowhere/at/all"), "missing"),
    ],
)
def test_what_makes_figures_doubtful_is_refused_unless_it_is_allowed(tmp_path: Path, make: Any, reason: str) -> None:
    root = make_folders(tmp_path / "set", classes=("cat", "dog"))
    make(root / "train")
    assert f"--set data.allow=[{reason}]" in refusal(root)
    images = opened(root, allow=[reason])
    assert (len(images), left_out(images)) == (8, {reason: 1})
    assert images.class_names == ["cat", "dog"]


def test_what_is_no_file_is_counted_and_links_are_followed(tmp_path: Path) -> None:
    root = make_folders(tmp_path / "set", classes=("cat", "dog"))
    save_picture(tmp_path / "store/a.jpg", 1)
    save_picture(tmp_path / "more/b.jpg", 2)
    os.mkfifo(root / "train/cat/fifo.jpg")
    (root / "train/cat/up").symlink_to(root / "train")
    (root / "train/dog/a.jpg").symlink_to(tmp_path / "store/a.jpg")
    (root / "train/dog/linked").symlink_to(tmp_path / "more")
    os.link(root / "train/dog/0.jpg", root / "train/dog/hard.jpg")
    (root / "train/dog/folder.jpg").mkdir()
    images = opened(root)
    assert len(images) == 11
    assert left_out(images) == {"not_a_file": 1, "link_loop": 1}


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folders(tmp_path / "set")
    real = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("train/bee"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)  # as root, mode 000 keeps nobody out
    assert "train/bee: cannot be read (Permission denied)" in refusal(root)


def test_images_without_labels_are_looked_at_too(tmp_path: Path) -> None:
    for k in range(3):
        save_picture(tmp_path / "flat" / f"{k}.jpg", k)
    (tmp_path / "flat/phone.heic").write_bytes(b"x")
    with pytest.raises(
        UserError, match=r"1 of 4 files in an unsupported format.*phone.heic: mend that, .*--skip-broken"
    ):
        open_folder(tmp_path / "flat")
    assert len(open_folder(tmp_path / "flat", skip_broken=True)) == 3
    (tmp_path / "flat").rename(tmp_path / "train")
    pretraining = opened(tmp_path, "pretrain", allow=["unknown_format"])
    assert (len(pretraining), pretraining.class_names) == (3, [""])


# Tars


def damaged(path: Path, member: int) -> int:
    """Flips a bit in a member's header; returns its offset."""
    with tarfile.open(path) as tar:
        offset = tar.getmembers()[member].offset
    content = bytearray(path.read_bytes())
    content[offset + 3] ^= 1
    path.write_bytes(content)
    return offset


def test_a_damaged_header_is_an_error_with_its_offset(tmp_path: Path) -> None:
    tar = layouts.write_tar(tmp_path / "train.tar", [(f"{'ab'[i % 2]}/{i}.png", b"x" * 700) for i in range(8)])
    offset = damaged(tar, 4)
    assert f"damaged header at byte {offset:,}" in refusal(tmp_path)


def test_an_archive_that_stops_behind_a_member_is_an_error(tmp_path: Path) -> None:
    """As a download does that stopped there: what came after it is not known."""
    path = layouts.write_tar(tmp_path / "train.tar", [(f"{c}/{i}.jpg", b"x") for c in "ab" for i in range(4)])
    with tarfile.open(path) as tar:
        end = tar.getmembers()[4].offset
    os.truncate(path, end)
    assert f"stops at byte {end:,} without an archive's end" in refusal(tmp_path)
    path.write_bytes(path.read_bytes() + bytes(512))
    assert len(opened(tmp_path).labels) == 4


def test_headers_about_headers_without_end_are_an_error(tmp_path: Path) -> None:
    about = tarfile.TarInfo("x")
    about.type, about.size = tarfile.GNUTYPE_LONGNAME, 512
    path = layouts.write_tar(tmp_path / "train.tar", [("a/0.jpg", b"x")])
    path.write_bytes((about.tobuf(tarfile.GNU_FORMAT) + b"a" * 511 + b"\0") * 2000 + path.read_bytes())
    assert "headers without end" in refusal(tmp_path)


def test_one_archive_behind_another_is_an_error(tmp_path: Path) -> None:
    first = layouts.write_tar(tmp_path / "1.tar", [("a/1.jpg", b"1"), ("b/1.jpg", b"2")]).read_bytes()
    second = layouts.write_tar(tmp_path / "2.tar", [("a/2.jpg", b"3")]).read_bytes()
    (tmp_path / "train.tar").write_bytes(first + second)
    assert "another archive at byte" in refusal(tmp_path)


def test_hard_and_symbolic_links_in_a_tar_are_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        for name in ("a/1.jpg", "b/1.jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(name)
            tar.addfile(info, io.BytesIO(name.encode()))
        for name, kind, target in (("a/2.jpg", tarfile.LNKTYPE, "b/1.jpg"), ("a/3.jpg", tarfile.SYMTYPE, "../b/1.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    images = opened(tmp_path)
    found = {images.relative_name(i): images.encoded(i) for i in range(4)}
    assert found["a/2.jpg"] == (b"b/1.jpg", 0) == found["a/3.jpg"]


def test_a_link_that_leads_out_of_a_tar_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        for name, target in (("a/1.jpg", "/etc/passwd"), ("b/1.jpg", "../../x.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    assert "2 of 2 members named but not there" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["../x.jpg", "a/../../x.jpg"])
def test_a_member_that_leads_out_of_a_tar_is_refused(tmp_path: Path, name: str) -> None:
    layouts.write_tar(tmp_path / "train.tar", [("a/1.jpg", b"1"), ("b/1.jpg", b"2"), (name, b"3")])
    assert "--set data.allow=[outside]" in refusal(tmp_path)


def test_of_a_tar_that_was_appended_to_the_last_of_a_name_counts(tmp_path: Path) -> None:
    members = [("a/1.jpg", b"old"), ("b/1.jpg", b"b"), ("a/1.jpg", b"new")]
    layouts.write_tar(tmp_path / "train.tar", members)
    images = opened(tmp_path)
    assert samples(images) == {(b"new", "a"): 1, (b"b", "b"): 1}
    assert left_out(images) == {"replaced": 1}


def test_a_relabelled_tar_of_the_same_size_is_another_data_set(tmp_path: Path) -> None:
    prints = []
    for first, second in (("a", "b"), ("b", "a")):
        tar = layouts.write_tar(tmp_path / "val.tar", [(f"{first}/1.jpg", b"1"), (f"{second}/2.jpg", b"2")])
        prints.append((tar.stat().st_size, opened(tmp_path, "val").fingerprint()))
    assert prints[0][0] == prints[1][0]
    assert prints[0][1] != prints[1][1]


def test_archives_that_could_be_classes_or_parts_are_refused(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        layouts.write_tar(tmp_path / f"train/{name}.tar", [(f"{cam}/{name}.jpg", b"x") for cam in ("cam1", "cam2")])
    assert "are the classes its archives (cat.tar, …) or the folders in them (cam1, …)?" in refusal(tmp_path)


def test_numbered_parts_that_hold_class_folders_make_one_set(tmp_path: Path) -> None:
    for k in range(2):
        layouts.write_tar(tmp_path / f"train/part-{k}.tar", [(f"{c}/{k}.jpg", b"x") for c in ("cat", "dog")])
    images = opened(tmp_path)
    assert images.class_names == ["cat", "dog"]
    assert sorted(images.labels) == [0, 0, 1, 1]


# WebDataset shards


def shard(path: Path, members: dict[str, bytes]) -> Path:
    return layouts.write_tar(path, members.items())


def pair(key: str, label: int) -> dict[str, bytes]:
    return {f"{key}.jpg": key.encode(), f"{key}.cls": b"%d" % label}


@pytest.mark.parametrize("in_folder", [True, False])
def test_labels_that_are_not_cls_are_refused_and_read_where_they_are_named(tmp_path: Path, in_folder: bool) -> None:
    for k in range(2):
        members = {}
        for i in range(4):
            members |= {f"{i}.jpg": b"%d" % i, f"{i}.json": json.dumps({"meta": {"label": i % 2}}).encode()}
        shard(tmp_path / ("train" if in_folder else "") / f"train-{k:06d}.tar", members)
    assert "no .cls with the labels: name where they are" in refusal(tmp_path)
    images = opened(tmp_path, label="json:meta.label")
    assert sorted(samples(images).elements()) == sorted(2 * [(b"%d" % i, str(i % 2)) for i in range(4)])
    assert "expected a class index" in refusal(tmp_path, label="json:meta.nothing")


def test_shards_without_labels_are_no_classes(tmp_path: Path) -> None:
    for k in range(2):
        shard(tmp_path / f"train/shard-{k:04d}.tar", {f"{i}.jpg": b"x" for i in range(3)})
    assert "look like shards, and hold no labels" in refusal(tmp_path)


def test_the_key_ends_at_the_first_dot_as_in_webdataset(tmp_path: Path) -> None:
    members = {"22.05.jpg": b"a", "22.05.cls": b"0", "22.06.jpg": b"b", "22.06.cls": b"1", **pair("k", 0)}
    shard(tmp_path / "train-000000.tar", members)
    assert "sample '22' has 2 images (05.jpg, 06.jpg)" in refusal(tmp_path)


def test_without_a_label_that_a_dot_hides_the_dot_is_named(tmp_path: Path) -> None:
    shard(tmp_path / "train-000000.tar", {"22.05.jpg": b"a", "22.05.cls": b"0"})
    assert "a key ends at the first dot of the name" in refusal(tmp_path)


@pytest.mark.parametrize("labelled", [True, False], ids=["shards", "parts with class folders"])
def test_a_shard_that_is_missing_among_others_is_refused(tmp_path: Path, labelled: bool) -> None:
    for k in (1, 2, 4):
        members = pair(f"{k}", k % 2) if labelled else {f"{c}/{k}.jpg": b"%d" % k for c in "ab"}
        shard(tmp_path / f"train/shard-{k:04d}.tar", members)
    message = "1 of 4 archives named but not there: shard-0003.tar: complete the download"
    assert message in refusal(tmp_path)
    assert opened(tmp_path, allow=["missing"]).account.kinds["archives"].used == 3


def test_shards_of_two_sets_side_by_side_are_refused(tmp_path: Path) -> None:
    for name in ("one-train-000000", "two-train-000000"):
        shard(tmp_path / f"{name}.tar", {**pair("a", 0), **pair("b", 1)})
    assert "shards of several data sets lie together (one-train-…, two-train-…)" in refusal(tmp_path)


def test_keys_may_begin_anew_in_each_shard_but_not_within_one(tmp_path: Path) -> None:
    for k in range(2):
        members = {f"{i}.jpg": b"%d/%d" % (k, i) for i in range(3)} | {f"{i}.cls": b"%d" % (i % 2) for i in range(3)}
        shard(tmp_path / f"train-{k:06d}.tar", members)
    assert samples(opened(tmp_path)) == {(b"%d/%d" % (k, i), str(i % 2)): 1 for k in range(2) for i in range(3)}
    again = [*pair("0", 0).items(), *pair("1", 1).items(), *pair("0", 1).items()]
    layouts.write_tar(tmp_path / "train-000001.tar", again)
    assert "2 of 12 members found twice" in refusal(tmp_path)


def test_of_several_images_of_a_sample_the_plain_one_is_read(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for i in range(4):
        members |= {f"{i}.depth.png": b"depth", f"{i}.jpg": b"photo", f"{i}.cls": b"%d" % (i % 2)}
    shard(tmp_path / "train-000000.tar", members)
    assert samples(opened(tmp_path)) == {(b"photo", "0"): 2, (b"photo", "1"): 2}
    assert left_out(opened(tmp_path)) == {"other_view": 4}
    assert samples(opened(tmp_path, image="depth.png")) == {(b"depth", "0"): 2, (b"depth", "1"): 2}


def test_pickles_in_shards_are_not_read(tmp_path: Path) -> None:
    content = b"cos\nmkdir\n(V" + str(tmp_path / "made").encode() + b"\ntR."
    members: dict[str, bytes] = {}
    for i in range(4):
        members |= {
            f"{i}.jpg": b"photo",
            f"{i}.cls": b"%d" % (i % 2),
            f"{i}.pyd": content,
            f"{i}.pth": content,
            f"{i}.npy": content,
        }
    shard(tmp_path / "train-000000.tar", members)
    assert samples(opened(tmp_path)) == {(b"photo", "0"): 2, (b"photo", "1"): 2}
    assert not (tmp_path / "made").exists()
    assert pickle.loads(content) is None  # mkdir's
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("in_folder", [True, False])
def test_an_empty_first_shard_and_capitals_are_read(tmp_path: Path, in_folder: bool) -> None:
    folder = tmp_path / ("train" if in_folder else "")
    shard(folder / "train-000000.tar", {})
    shard(folder / "train-000001.tar", {"a.JPG": b"a", "a.CLS": b"0", "b.JPG": b"b", "b.CLS": b"1"})
    assert samples(opened(tmp_path)) == {(b"a", "0"): 1, (b"b", "1"): 1}


@pytest.mark.parametrize("label", ["1000000000", "9" * 30, "-1", "²"])
def test_a_label_that_is_no_class_number_is_a_line(tmp_path: Path, label: str) -> None:
    shard(tmp_path / "train-000000.tar", {**pair("a", 0), "b.jpg": b"b", "b.cls": label.encode()})
    message = refusal(tmp_path)
    assert "is outside 0 to 99999" in message or "expected a class index" in message


# Parquet


def parquet(path: Path, **columns: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


IMAGES = [{"bytes": b"%d" % i, "path": f"{i}.jpg"} for i in range(4)]


def test_parquet_that_comes_to_many_times_its_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry of a dictionary that every row names, and more rows than there are bytes for."""
    monkeypatch.setattr("tasks.datasets.layouts.parquet._SLACK", 1 << 18)
    monkeypatch.setattr("tasks.datasets.layouts.parquet._TEXT_SLACK", 1 << 18)
    monkeypatch.setattr("tasks.datasets.layouts.parquet._FEW_ROWS", 1000)
    rows = 500
    pa = pytest.importorskip("pyarrow")
    parquet(tmp_path / "pictures/train/0.parquet", image=[b"x" * 1024] * rows, label=[0, 1] * (rows // 2))
    images = opened(tmp_path / "pictures")
    with pytest.raises(UserError, match="image of a row group come to more than 0 MiB, many times what they take"):
        images.encoded(0)
    parquet(tmp_path / "labels/train/0.parquet", image=[b"x"] * rows, label=["a" * 1024] * rows)
    assert "label of a row group come to more than" in refusal(tmp_path / "labels")
    parquet(tmp_path / "rows/train/0.parquet", image=pa.nulls(10_000, pa.binary()), label=[0] * 10_000)
    assert "claims 10,000 rows, more than a file of its size can hold" in refusal(tmp_path / "rows")


def test_two_generations_of_parquet_are_refused(tmp_path: Path) -> None:
    for name in ("train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"):
        parquet(tmp_path / f"data/{name}.parquet", image=IMAGES, label=[0, 1, 0, 1])
    assert "several generations lie together" in refusal(tmp_path)


def test_parts_named_by_checksums_are_counted_as_others(tmp_path: Path) -> None:
    names = [tmp_path / f"data/train-{part}.parquet" for part in ("00000-of-00002-0a1b", "00001-of-00002-9c8d")]
    for name in names:
        parquet(name, image=IMAGES, label=[0, 1, 0, 1])
    assert opened(tmp_path).labels == 2 * [0, 1, 0, 1]
    parquet(names[0].with_name("train-00000-of-00002-ffff.parquet"), image=IMAGES, label=[0, 1, 0, 1])
    assert "several generations lie together (2 of train-00000-of-00002.parquet)" in refusal(tmp_path)
    for name in tmp_path.glob("data/train-00000*"):
        name.unlink()
    assert "train-00000-of-00002.parquet: missing" in refusal(tmp_path)


def test_shards_whose_metadata_name_other_classes_are_refused(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    (tmp_path / "data").mkdir()
    for part, names in enumerate((["cat", "dog"], ["dog", "cat"])):
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = pa.table({"image": IMAGES, "label": [0, 1, 0, 1]})
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
        pq.write_table(table, tmp_path / f"data/train-0000{part}-of-00002.parquet")
    assert "its classes are dog, cat (2), those of train-00000-of-00002.parquet cat, dog (2)" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["dog", "cat", "dog", "cat"], ["cat", "dog"]),
        ([["dog"], ["cat"], ["dog"], ["cat"]], ["cat", "dog"]),
        ([[1], [0], [1], [0]], ["0", "1"]),
    ],
)
def test_labels_as_texts_are_names(tmp_path: Path, labels: list[Any], names: list[str]) -> None:
    parquet(tmp_path / "train-00000-of-00001.parquet", image=IMAGES, label=labels)
    images = opened(tmp_path)
    assert (images.class_names, images.labels) == (names, [1, 0, 1, 0])


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0.0, 1.0, 0.5, 1.0], "column label is double"),
        ([[0, 1], [0], [1], [0]], "row 0 has 2 labels"),
        ([10**12, 0, 1, 0], "label 1000000000000 is outside 0 to 99999"),
        ([1, None, 1, 0], r"1 of 4 rows without a label"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path: Path, labels: list[Any], said: str) -> None:
    parquet(tmp_path / "train-00000-of-00001.parquet", image=IMAGES, label=labels)
    assert said in refusal(tmp_path)


@pytest.mark.parametrize(
    ("images", "columns"),
    [
        ([{"bytes": b"%d" % i} for i in range(4)], {"label": [0, 1, 0, 1]}),
        ([b"%d" % i for i in range(4)], {"label": [0, 1, 0, 1]}),
        (IMAGES, {"fine_label": [0, 1, 0, 1], "coarse_label": [0, 0, 0, 0]}),
    ],
    ids=["struct without path", "bytes", "fine_label"],
)
def test_other_columns_are_read(tmp_path: Path, images: list[Any], columns: dict[str, Any]) -> None:
    parquet(tmp_path / "train-00000-of-00001.parquet", img=images, **columns)
    assert samples(opened(tmp_path)) == {(b"%d" % i, str(i % 2)): 1 for i in range(4)}


def test_labels_that_were_not_taken_are_noted(tmp_path: Path) -> None:
    parquet(tmp_path / "train-00000-of-00001.parquet", img=IMAGES, fine_label=[0, 1, 0, 1], coarse_label=[0, 0, 0, 0])
    assert opened(tmp_path).reader.notes == ["labels are column fine_label; coarse_label is there as well"]
    assert opened(tmp_path, label="coarse_label").labels == [0, 0, 0, 0]


def test_columns_can_be_named(tmp_path: Path) -> None:
    parquet(tmp_path / "train-00000-of-00001.parquet", a=IMAGES, b=IMAGES, kind=[0, 1, 0, 1])
    assert "data.options.image=COLUMN" in refusal(tmp_path)
    assert opened(tmp_path, image="b", label="kind").labels == [0, 1, 0, 1]


def test_relabelled_parquet_of_the_same_size_is_another_data_set(tmp_path: Path) -> None:
    prints = []
    for labels in ([0, 1, 0, 1], [1, 0, 1, 0]):
        parquet(tmp_path / "val-00000-of-00001.parquet", image=IMAGES, label=labels)
        prints.append(opened(tmp_path, "val").fingerprint())
    assert prints[0] != prints[1]


# Lists


def listed(root: Path, text: str, name: str = "train.txt", files: Iterable[str] = "abcd") -> Path:
    for k, file in enumerate(files):
        save_picture(root / f"{file}.jpg", k)
    (root / name).write_bytes(text.encode())
    return root


@pytest.mark.parametrize(
    "text",
    [
        "a.jpg 0\nb.jpg 1\nc.jpg 0\nd.jpg 1\n",
        "\ufeffa.jpg 0\r\nb.jpg 1\r\nc.jpg 0\r\nd.jpg 1\r\n",
        "path,label\na.jpg,0\nb.jpg,1\nc.jpg,0\nd.jpg,1\n",
        '\ufefffilename;class\n"a.jpg",0\nb.jpg;1\nc.jpg\t0\n./d.jpg, 1\n',
        ".\\a.jpg 0\r\n.\\b.jpg 1\r\nc.jpg 0\r\nd.jpg 1\r\n",
        'sep=;\r\npath;label\r\n"a.jpg";"0"\r\nb.jpg;1\r\n"c.jpg";0\r\nd.jpg;1\r\n',
    ],
    ids=["plain", "BOM", "headings", "mixed", "Windows", "Excel"],
)
def test_lists_are_read_as_people_write_them(tmp_path: Path, text: str) -> None:
    assert opened(listed(tmp_path, text)).labels == [0, 1, 0, 1]


def test_a_csv_of_class_names(tmp_path: Path) -> None:
    images = opened(listed(tmp_path, "image,label\na.jpg,dog\nb.jpg,cat\nc.jpg,dog\n", "train.csv"))
    assert (images.class_names, images.labels) == (["cat", "dog"], [1, 0, 1])


def test_names_of_a_csv_may_hold_spaces_and_numbers(tmp_path: Path) -> None:
    images = opened(listed(tmp_path, "image,label\na.jpg,camera 2\nb.jpg,camera 1\n", "train.csv"))
    assert (images.class_names, images.labels) == (["camera 1", "camera 2"], [1, 0])


@pytest.mark.parametrize("line", ["0,a.jpg,dog", "a.jpg;dog;3", '"x","a.jpg","dog"'])
def test_of_more_than_two_columns_none_is_guessed(tmp_path: Path, line: str) -> None:
    said = refusal(listed(tmp_path, f"{line}\n", "train.csv"))
    assert "a list has two columns, path and label; this one has 3?" in said or "is not a path and a class" in said


def test_a_label_that_tools_write_for_none_is_refused(tmp_path: Path) -> None:
    """pandas' ``nan`` would be one class more."""
    said = refusal(listed(tmp_path, "path,label\na.jpg,dog\nb.jpg,nan\nc.jpg,cat\n", "train.csv"))
    assert "train.csv:3: 'nan' for the class of b.jpg is how tools write that there is none" in said


def test_two_lists_of_a_split_are_refused(tmp_path: Path) -> None:
    listed(tmp_path, "a.jpg,0\nb.jpg,1\n", "train.csv")
    assert "train.csv is there as well: which of them is meant?" in refusal(listed(tmp_path, "a.jpg 1\nb.jpg 0\n"))


def test_labels_from_1_are_read_where_the_user_says_so(tmp_path: Path) -> None:
    root = listed(tmp_path, "a.jpg 1\nb.jpg 2\nc.jpg 1\n")
    (root / "val.txt").write_text("d.jpg 2\n")
    assert "--set data.options.first_label=1" in refusal(root)
    train = opened(root, first_label=1)
    assert (train.class_names, train.labels) == (["1", "2"], [0, 1, 0])
    assert opened(root, "val", first_label=1).labels == [1]


def test_names_in_another_case_or_form_are_found(tmp_path: Path) -> None:
    composed, apart = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
    listed(tmp_path, f"a.JPG 0\n{apart}.jpg 1\n", files=["a", composed])
    images = opened(tmp_path)
    assert [images.encoded(i)[1] for i in range(2)] == [0, 1]
    assert images.reader.notes == ["train.txt: 2 names were found in another spelling (case, accents)"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("../secret.jpg 1", "outside"),
        ("sub/../../secret.jpg 1", "outside"),
        ("{secret} 1", "outside"),
        ("e.jpg 1", "missing"),
        ("x" * 300 + ".jpg 1", "missing"),
        ("a.jpg 1", "duplicate"),
        ("./a.jpg 1", "duplicate"),
    ],
)
def test_rows_that_cannot_be_used_are_refused(tmp_path: Path, line: str, reason: str) -> None:
    save_picture(tmp_path / "secret.jpg", 9)
    root = tmp_path / "set"
    listed(root, f"a.jpg 0\nb.jpg 1\n{line.format(secret=tmp_path / 'secret.jpg')}\n")
    message = refusal(root)
    assert f"--set data.allow=[{reason}]" in message
    assert "train.txt:3" in message
    assert len(opened(root, allow=[reason])) == 2


def test_files_outside_are_read_where_the_user_says_so(tmp_path: Path) -> None:
    save_picture(tmp_path / "other.jpg", 9)
    root = listed(tmp_path / "set", f"a.jpg 0\n{tmp_path}/other.jpg 1\n")
    images = opened(root, outside=True)
    assert images.encoded(1) == ((tmp_path / "other.jpg").read_bytes(), 1)
    inside = listed(tmp_path / "in", f"{tmp_path}/in/a.jpg 0\nb.jpg 1\n")
    assert opened(inside).labels == [0, 1]


@pytest.mark.parametrize("label", ["1000000000", "9" * 30, "-1"])
def test_a_label_of_a_list_that_is_no_class_is_a_line(tmp_path: Path, label: str) -> None:
    assert "is outside 0 to 99999" in refusal(listed(tmp_path, f"a.jpg 0\nb.jpg {label}\n"))


def test_kaggles_imagenet_is_read(tmp_path: Path) -> None:
    base = tmp_path / "ILSVRC/Data/CLS-LOC"
    for k, synset in enumerate(("n01440764", "n01443537")):
        save_picture(base / "train" / synset / f"{synset}_1.JPEG", k)
        save_picture(base / "val" / f"ILSVRC2012_val_0000000{k + 1}.JPEG", 5 + k)
    (tmp_path / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\nILSVRC2012_val_00000002,n01440764 1 2 3 4 n01440764 5 6 7 8 \n"
        "ILSVRC2012_val_00000001,n01443537 1 2 3 4 \n"
    )
    assert opened(tmp_path).class_names == ["n01440764", "n01443537"]
    val = opened(tmp_path, "val")
    assert [val.class_names[label] for label in val.labels] == ["n01443537", "n01440764"]


def test_inaturalists_ids_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    listing = layouts.inaturalist(make_folders(tmp_path / "folders"), tmp_path / "inat", "train")
    content = json.loads(listing.read_text())
    content["images"][1]["id"] = content["images"][0]["id"]
    listing.write_text(json.dumps(content))
    assert "image 10 is there 2 times" in refusal(tmp_path / "inat")
