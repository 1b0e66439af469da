"""ImageNet's official validation archive is labelled by the development kit that comes with it."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from backbones.errors import UserError
from tasks.datasets.imagenet import synsets
from tasks.datasets.images import open_split
from tests.tasks.datasets.layouts.layouts import write_tar
from tests.tasks.pictures import save_picture

KIT = "ILSVRC2012_devkit_t12"


def make_kit(root: Path, truth: list[int]) -> Path:
    """A kit whose class numbers run against the order of the synsets, with inner nodes after the classes."""
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(i + 1, name, "word", 0) for i, name in enumerate(reversed(synsets()))]
    rows += [(1001 + i, f"n0000000{i}", "inner node", 3) for i in range(3)]
    data = root / KIT / "data"
    data.mkdir(parents=True)
    savemat(data / "meta.mat", {"synsets": np.array(rows, dtype=fields)})
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{number}\n" for number in truth))
    return root / KIT


def archive(root: Path, *numbers: int) -> None:
    members = []
    for number in numbers:
        save_picture(root / "one.jpg", number)
        members.append((f"ILSVRC2012_val_{number:08d}.JPEG", (root / "one.jpg").read_bytes()))
    write_tar(root / "ILSVRC2012_img_val.tar", members)
    (root / "one.jpg").unlink()


def packed(kit: Path) -> None:
    with tarfile.open(kit.with_name(f"{KIT}.tar.gz"), "w:gz") as tar:
        tar.add(kit, KIT)
    for path in sorted(kit.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    kit.rmdir()


@pytest.mark.parametrize("as_archive", [False, True])
def test_labels_are_the_kits_in_the_order_of_synsets(tmp_path: Path, as_archive: bool) -> None:
    kit = make_kit(tmp_path, truth=[1000, 1, 999, 2])
    if as_archive:
        packed(kit)
    archive(tmp_path, 3, 1, 2)
    images = open_split("imagenet", str(tmp_path), "val")
    assert [images.relative_name(i)[-7:] for i in range(3)] == ["01.JPEG", "02.JPEG", "03.JPEG"]
    assert images.labels == [0, 999, 1]
    assert images.class_names == list(synsets())
    assert images.read(2)[0].size == (40, 32)


def test_a_flat_folder_works_as_well(tmp_path: Path) -> None:
    make_kit(tmp_path, truth=[7])
    save_picture(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG", 0)
    assert open_split("imagenet", str(tmp_path), "val").labels == [993]


def test_without_the_kit_it_is_asked_for(tmp_path: Path) -> None:
    archive(tmp_path, 1)
    with pytest.raises(
        UserError, match=rf"ILSVRC2012_img_val\.tar: .* carry no labels: put {KIT}\.tar\.gz beside them"
    ):
        open_split("imagenet", str(tmp_path), "val")


def test_an_image_beyond_the_kit_is_named(tmp_path: Path) -> None:
    make_kit(tmp_path, truth=[1])
    archive(tmp_path, 1, 2)
    with pytest.raises(UserError, match=r"ILSVRC2012_val_00000002\.JPEG: the development kit has labels"):
        open_split("imagenet", str(tmp_path), "val")


@pytest.mark.parametrize("damage", ["meta", "number", "archive"])
def test_a_kit_that_cannot_be_read_is_named(tmp_path: Path, damage: str) -> None:
    kit = make_kit(tmp_path, truth=[1001] if damage == "number" else [1])
    if damage == "meta":
        (kit / "data" / "meta.mat").write_bytes(b"MATLAB 5.0 not really")
    if damage == "archive":
        packed(kit)
        (tmp_path / f"{KIT}.tar.gz").write_bytes(b"not packed")
    archive(tmp_path, 1)
    with pytest.raises(UserError, match="development kit not readable") as caught:
        open_split("imagenet", str(tmp_path), "val")
    assert "\n" not in str(caught.value)
