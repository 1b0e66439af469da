"""ImageNet's test sets keep the numbers of its 1000 classes; what is missing in one is named in a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from timm.data.real_labels import RealLabelsImagenet

from backbones.errors import UserError
from tasks.datasets import imagenet
from tasks.datasets.images import open_split
from tests.tasks.pictures import save_picture


def refusal(root: object) -> str:
    with pytest.raises(UserError) as caught:
        open_split("mine", str(root), "val")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_synsets_are_sorted_as_in_timm_and_torchvision() -> None:
    assert len(imagenet.synsets()) == 1000
    assert list(imagenet.synsets()) == sorted(imagenet.synsets())
    assert imagenet.synsets()[0] == "n01440764"
    assert imagenet.synsets()[999] == "n15075141"


@pytest.mark.parametrize("name", imagenet.SUBSETS)
def test_subsets_have_200_ascending_classes(name: str) -> None:
    indices = imagenet.class_subset(name)
    assert len(set(indices)) == 200
    assert indices == sorted(indices)


def test_first_classes_of_the_subsets_are_the_published_ones() -> None:
    assert imagenet.class_subset("imagenet_a")[:5] == [6, 11, 13, 15, 17]  # hendrycks/natural-adv-examples, eval.py
    assert imagenet.class_subset("imagenet_r")[:5] == [1, 2, 4, 6, 8]  # hendrycks/imagenet-r, eval.py
    with pytest.raises(UserError, match="unknown class subset"):
        imagenet.class_subset("imagenet_b")


def test_folders_named_by_synset_give_the_index_among_all_classes(tmp_path: Path) -> None:
    chosen = imagenet.class_subset("imagenet_a")[:3]
    for i in chosen:
        save_picture(tmp_path / imagenet.synsets()[i] / "0.jpg", i)
    (tmp_path / "README.txt").write_text("of the archive")
    images = open_split("imagenet_a", str(tmp_path), "val")
    assert images.labels == chosen
    assert images.class_names == list(imagenet.synsets())
    assert [images.read(i)[1] for i in range(3)] == chosen


def test_test_sets_take_the_numbers_of_training(tmp_path: Path) -> None:
    synsets = imagenet.synsets()
    save_picture(tmp_path / synsets[70] / "0.jpg", 0)
    assert open_split("mine", str(tmp_path), "val", {synsets[7]: 0, synsets[70]: 1}).labels == [1]
    with pytest.raises(UserError, match=f"class '{synsets[70]}' is not in the training split"):
        open_split("mine", str(tmp_path), "val", {synsets[7]: 0})


def test_a_folder_that_is_no_class_of_imagenet_is_named(tmp_path: Path) -> None:
    save_picture(tmp_path / imagenet.synsets()[6] / "0.jpg", 0)
    save_picture(tmp_path / "n00000001" / "0.jpg", 0)
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path}/n00000001: no class of ImageNet's 1000 has this name")


def test_an_empty_folder_and_a_stray_image_are_named(tmp_path: Path) -> None:
    save_picture(tmp_path / imagenet.synsets()[6] / "0.jpg", 0)
    (tmp_path / imagenet.synsets()[7]).mkdir()
    assert f"class '{imagenet.synsets()[7]}' has no images" in refusal(tmp_path)
    (tmp_path / imagenet.synsets()[7]).rmdir()
    save_picture(tmp_path / "0.jpg", 0)
    assert "1 of 2 files without a label" in refusal(tmp_path)


@pytest.mark.parametrize("inside", [".", "imagenetv2-matched-frequency-format-val"])
def test_imagenet_v2_is_numbered_by_its_folders(tmp_path: Path, inside: str) -> None:
    for i in (0, 2, 10, 999):
        save_picture(tmp_path / inside / str(i) / "a.jpeg", i)
    images = open_split("imagenet_v2", str(tmp_path), "val")
    assert images.labels == [0, 2, 10, 999]  # neither sorted as text nor counted
    assert images.classes == 1000


def test_a_number_beyond_imagenet_is_named(tmp_path: Path) -> None:
    for name in ("n01440764", "1000"):
        save_picture(tmp_path / name / "a.jpeg", 0)
    assert "/1000: no class of ImageNet's 1000 has this name" in refusal(tmp_path)


def test_folders_of_other_names_are_no_test_set(tmp_path: Path) -> None:
    save_picture(tmp_path / "ant" / "a.jpeg", 0)
    assert "no val split there" in refusal(tmp_path)


# ImageNet-C


def make_corruptions(root: Path, grouped: bool) -> Path:
    for group, corruptions in imagenet.CORRUPTIONS.items():
        for corruption in corruptions:
            for severity in imagenet.SEVERITIES:
                place = root / group / corruption if grouped else root / corruption
                (place / str(severity) / "n01443537").mkdir(parents=True)
    return root


@pytest.mark.parametrize("grouped", [False, True])
def test_all_75_corruptions_are_found(tmp_path: Path, grouped: bool) -> None:
    found = imagenet.corruption_folders(make_corruptions(tmp_path, grouped))
    assert len(found) == len({(c, s) for c, s, _ in found}) == 75
    assert all(path.name == str(severity) and path.parent.name == corruption for corruption, severity, path in found)
    save_picture(found[7][2] / "n01443537" / "a.JPEG", 0)
    assert open_split("imagenet_c", str(found[7][2]), "val").labels == [1]


def test_a_missing_severity_and_a_missing_corruption_are_named(tmp_path: Path) -> None:
    make_corruptions(tmp_path, grouped=False)
    (tmp_path / "fog" / "3" / "n01443537").rmdir()
    (tmp_path / "fog" / "3").rmdir()
    with pytest.raises(
        UserError, match=rf"{tmp_path}/fog/3: no such folder: severities are 1 to 5, unpack weather\.tar"
    ):
        imagenet.corruption_folders(tmp_path)
    (tmp_path / "motion_blur").rename(tmp_path / "other")
    with pytest.raises(
        UserError, match=r"motion_blur: no such folder: ImageNet-C has 15 corruptions, unpack blur\.tar"
    ):
        imagenet.corruption_folders(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        imagenet.corruption_folders(tmp_path / "none")


# ReaL labels


def test_real_labels_are_timms(tmp_path: Path) -> None:
    names = [f"ILSVRC2012_val_{i + 1:08d}.JPEG" for i in range(50_000)]
    theirs = RealLabelsImagenet(names).real_labels
    assert imagenet.real_labels(names) == [theirs[name] for name in names]


def test_real_labels_go_by_the_number_in_the_name(tmp_path: Path) -> None:
    file = tmp_path / "real.json"
    file.write_text(json.dumps([[i % 1000] if i % 3 else [] for i in range(50_000)]))
    names = [
        "n01440764/ILSVRC2012_val_00000003.JPEG",
        "ILSVRC2012_val_00050000_n01440764.jpg",
        "ILSVRC2012_val_00000001.JPEG",
    ]
    assert imagenet.real_labels(names, file) == [[2], [999], []]


@pytest.mark.parametrize("name", ["0.jpg", "ILSVRC2012_val_00050001.JPEG", "ILSVRC2012_val_00000000.JPEG"])
def test_an_image_without_number_is_named(name: str) -> None:
    with pytest.raises(UserError, match=name):
        imagenet.real_labels([name])


@pytest.mark.parametrize(
    "content", ["[[1], [2]]", "{}", "nonsense", json.dumps([[1000]] * 50_000), json.dumps([1] * 50_000)]
)
def test_a_file_that_is_no_real_labels_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "real.json").write_text(content)
    with pytest.raises(UserError, match=r"real\.json"):
        imagenet.real_labels(["ILSVRC2012_val_00000001.JPEG"], tmp_path / "real.json")
