"""`mae-bench data verify` says what a data set lacks: counts, unreadable files, classes, labels; exit codes 0, 1 and 2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.datasets import imagenet
from tasks.datasets.verify import PUBLISHED, Published, verify
from tests.tasks.datasets.layouts import layouts
from tests.tasks.pictures import make_folders, save_picture, truncate

Cli = Callable[..., Any]


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    return make_folders(tmp_path / "mine")


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small published figures, so that tests can make a whole data set."""
    monkeypatch.setitem(PUBLISHED, "inat2018", Published(3, 12, 6))
    monkeypatch.setitem(PUBLISHED, "imagenet_c", Published(1000, val=2))


def problems(name: str, root: Path, **options: Any) -> str:
    return "\n".join(verify(name, str(root), **options).problems)


def test_a_sound_data_set_exits_with_0(folders: Path, cli: Cli) -> None:
    done = cli("data", "verify", "mine", folders)
    assert done.code == 0
    assert done.out.splitlines() == [
        "train  12 images, 3 classes, labels 0 to 2, 12 decoded",
        "       4 to 4 images a class; 40x32 pixels",
        "       files  12 found = 12 used + 0 left out",
        "val    6 images, 3 classes, labels 0 to 2, 6 decoded",
        "       2 to 2 images a class; 40x32 pixels",
        "       files  6 found = 6 used + 0 left out",
        "no published counts of mine to compare with",
        "nothing wrong (--full decodes every image)",
    ]


def test_problems_exit_with_1_and_come_as_json_as_well(folders: Path, cli: Cli) -> None:
    truncate(folders / "train" / "bee" / "2.jpg")
    (folders / "val" / "dog").mkdir()
    done = cli("data", "verify", "mine", folders, "--full", "--json")
    assert done.code == 1
    report = json.loads(done.out)
    assert report["problems"] == [
        f"train: unreadable images: {folders}/train/bee/2.jpg",
        "val: classes without images: dog",
    ]
    assert [(split["images"], split["decoded"]) for split in report["splits"]] == [(12, 12), (6, 6)]
    assert "problem: train: unreadable images" in cli("data", "verify", "mine", folders).out


@pytest.mark.parametrize("kind", ["missing", "empty", "without splits"])
def test_what_cannot_be_looked_at_exits_with_2(tmp_path: Path, cli: Cli, kind: str) -> None:
    root = tmp_path / "there"
    if kind != "missing":
        root.mkdir()
    if kind == "without splits":
        (root / "notes.txt").write_text("x")
    done = cli("data", "verify", "imagenet", root)
    assert done.code == 2
    assert str(root) in done.err
    assert not done.out


def test_counts_and_classes_differ_from_the_published_ones(folders: Path) -> None:
    assert problems("places205", folders) == "\n".join(
        [
            "train: 12 images, 2448861 fewer than published",
            "train: 3 classes, 205 are published",
            "val: 6 images, 20494 fewer than published",
            "val: 3 classes, 205 are published",
        ]
    )


@pytest.mark.usefixtures("published")
def test_the_published_set_is_sound(folders: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        layouts.inaturalist(folders, tmp_path / "inat", split)
    assert problems("inat2018", tmp_path / "inat", full=True) == ""


@pytest.mark.usefixtures("published")
def test_listed_images_that_are_not_there_are_named_without_decoding(folders: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        layouts.inaturalist(folders, tmp_path / "inat", split)
    (tmp_path / "inat/train_val2018/Animalia/bee/train_1.jpg").unlink()
    found = problems("inat2018", tmp_path / "inat", sample=0)
    assert "train: 1 of 12 rows named but not there: image 25: train_val2018/Animalia/bee/train_1.jpg" in found


def test_a_layout_that_is_damaged_is_a_problem_of_its_split(folders: Path, tmp_path: Path, cli: Cli) -> None:
    for split in ("train", "val"):
        layouts.shards(folders, tmp_path / "w", split)
    shard = tmp_path / "w" / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    done = cli("data", "verify", "mine", tmp_path / "w")
    assert done.code == 1
    assert "train  could not be read" in done.out
    assert f"problem: train: {shard}: not readable as an uncompressed tar" in done.out
    assert "val    6 images" in done.out


def test_a_label_outside_the_map_is_a_problem(folders: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        layouts.places365(folders, tmp_path / "p", split)
    (tmp_path / "p" / "categories_places365.txt").write_text("/a/ant 0\n/b/bee 1\n")
    assert "val: " in problems("places365", tmp_path / "p")
    assert "label 2 is outside 0 to 1" in problems("places365", tmp_path / "p")


def test_parquet_is_looked_at_too(folders: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    truncate(folders / "train" / "bee" / "2.jpg")
    for split in ("train", "val"):
        layouts.parquet(folders, tmp_path / "hf", split)
    assert "unreadable images" in problems("mine", tmp_path / "hf")
    assert "bee_2.jpg" in problems("mine", tmp_path / "hf")


def test_synsets_that_are_absent_or_not_of_the_subset_are_named(tmp_path: Path) -> None:
    synsets = imagenet.synsets()
    for i in (*imagenet.class_subset("imagenet_a")[1:], 0):
        save_picture(tmp_path / synsets[i] / "0.jpg", i, size=(4, 4))
    found = problems("imagenet_a", tmp_path)
    assert "val: 200 images, 7300 fewer than published" in found
    assert f"val: classes that are absent: {synsets[6]}" in found
    assert f"val: classes that are not this data set's: {synsets[0]}" in found
    assert "unreadable" not in found


def test_a_folder_that_is_no_synset_of_imagenet_is_a_problem(tmp_path: Path) -> None:
    save_picture(tmp_path / "train" / "n01440764" / "0.jpg", 0)
    save_picture(tmp_path / "train" / "n00000001" / "0.jpg", 0)
    assert "train: classes that are not this data set's: n00000001" in problems("imagenet", tmp_path)


def test_a_split_that_is_missing_is_a_problem_where_one_is_published(folders: Path) -> None:
    (folders / "train").rename(folders / "elsewhere")
    assert problems("places365", folders).splitlines()[-1] == "train: no train split there"
    assert problems("mine", folders) == ""


def test_many_names_are_counted(tmp_path: Path) -> None:
    save_picture(tmp_path / "val" / "n01440764" / "0.jpg", 0)
    found = problems("imagenet", tmp_path)
    assert "val: classes that are absent: n01443537, n01484850, n01491361, n01494475, n01496331, … (999 such)" in found


@pytest.mark.usefixtures("published")
def test_each_corruption_and_severity_is_looked_at(tmp_path: Path) -> None:
    for corruptions in imagenet.CORRUPTIONS.values():
        for corruption in corruptions:
            for severity in imagenet.SEVERITIES:
                for i in range(2):
                    save_picture(tmp_path / corruption / str(severity) / "n01440764" / f"{i}.JPEG", i, size=(4, 4))
    report = verify("imagenet_c", str(tmp_path), sample=150)
    assert len(report.splits) == 75
    assert {split.decoded for split in report.splits} == {2}
    assert all("absent" in problem for problem in report.problems)
    truncate(tmp_path / "fog" / "3" / "n01440764" / "1.JPEG")
    (tmp_path / "snow" / "5" / "n01440764" / "0.JPEG").unlink()
    (tmp_path / "frost" / "4").rename(tmp_path / "frost" / "6")
    found = problems("imagenet_c", tmp_path, full=True)
    assert f"fog 3: unreadable images: {tmp_path}/fog/3/n01440764/1.JPEG" in found
    assert "snow 5: 1 images, 1 fewer than published" in found
    assert f"frost 4: {tmp_path}/frost/4 is missing" in found


def test_a_sample_is_spread_over_the_split(folders: Path, cli: Cli) -> None:
    done = cli("data", "verify", "mine", folders, "--sample", 4)
    assert "12 images, 3 classes, labels 0 to 2, 4 decoded" in done.out
    assert cli("data", "verify", "mine", folders, "--sample", -1).code == 2


def test_progress_ends_at_what_was_announced(folders: Path) -> None:
    totals, told = [], []

    def begin(total: int) -> Callable[[int], None]:
        totals.append(total)
        return told.append

    verify("mine", str(folders), full=True, progress=begin)
    assert totals == [18]
    assert told == [12, 18]
