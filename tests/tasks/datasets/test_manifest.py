"""What the samples of a split tell, whatever layout they lie in."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from backbones.errors import UserError
from tasks.datasets.manifest import Manifest, alike, check_alone, check_pair, copies, place_of, same_content

NAMES = ["bee", "cat", "dog"]


def manifest(where: str, files: Sequence[tuple[str, str, bytes]], *, sized: bool = True) -> Manifest:
    """Files as (class, name, content); the place is the name."""
    counts = np.array([sum(c == name for c, _, _ in files) for name in NAMES])
    return Manifest(
        where,
        NAMES,
        counts,
        np.array([place_of(name) for _, name, _ in files], np.int64),
        name=lambda i: files[i][1],
        content=lambda i: files[i][2],
        sizes=np.array([len(content) for *_, content in files]) if sized else None,
    )


TRAIN = [("bee", "bee/1.jpg", b"one"), ("cat", "cat/2.jpg", b"four"), ("dog", "dog/3.jpg", b"three")]


def test_one_class_alone_is_refused() -> None:
    with pytest.raises(UserError, match=r"DIR/train: 1 images all of one class, 'bee': .*needs two"):
        check_alone(manifest("DIR/train", TRAIN[:1]))
    assert check_alone(manifest("DIR/train", TRAIN)) == []


def test_folders_of_images_and_masks_are_no_classes() -> None:
    own = dataclasses.replace(manifest("train", TRAIN), class_names=["images", "Masks", "labels"])
    with pytest.raises(UserError, match="train: its folders are 'images', 'Masks', 'labels', which name no classes"):
        check_alone(own)


def test_the_same_sample_twice_is_noted() -> None:
    twice = [*TRAIN, ("dog", "dog/3.jpg", b"three")]
    assert check_alone(manifest("train", twice)) == ["train: 1 of 4 are there twice, such as dog/3.jpg"]


def test_validation_that_is_training_is_refused_unless_it_is_meant() -> None:
    train, val = manifest("train", TRAIN), manifest("val", TRAIN)
    with pytest.raises(UserError, match=r"val: 3 of 3 are training images too, such as bee/1.jpg: .*\[val_in_train\]"):
        check_pair(train, val)
    assert check_pair(train, val, {"val_in_train"}) == ["val: 3 of 3 are training images too, such as bee/1.jpg"]


@pytest.mark.parametrize("sized", [True, False])
def test_copies_of_training_images_are_noted(sized: bool) -> None:
    copied = [(c, f"copy/{name}", content) for c, name, content in TRAIN]
    train, val = manifest("train", TRAIN, sized=sized), manifest("val", copied, sized=sized)
    assert same_content(train, val) == [(0, 0), (1, 1), (2, 2)]
    assert check_pair(train, val) == []
    assert copies(train, val) == [
        "val: 3 of 3 looked at have the very bytes of a training image, such as copy/bee/1.jpg and bee/1.jpg"
    ]


def test_copies_under_other_names_are_found_by_their_size() -> None:
    renamed = [("bee", "a.jpg", b"one"), ("cat", "b.jpg", b"fore"), ("dog", "c.jpg", b"other")]
    assert same_content(manifest("train", TRAIN), manifest("val", renamed)) == [(0, 0)]


def test_classes_without_validation_images_are_noted() -> None:
    val = manifest("val", [("cat", "v/1.jpg", b"unlike"), ("dog", "v/2.jpg", b"unlike too")])
    assert check_pair(manifest("train", TRAIN), val) == ["val: 1 of 3 classes have no validation image, such as 'bee'"]


def test_a_class_that_training_never_sees_is_refused() -> None:
    val = manifest("val", [("cat", "v/1.jpg", b"unlike"), ("dog", "v/2.jpg", b"unlike too")])
    train = dataclasses.replace(manifest("train", TRAIN), class_names=["bee", "cat", "cow"])
    with pytest.raises(UserError, match=r"val: class 'dog' is not in the training split \(1 such\)"):
        check_pair(train, val)


def test_classes_whose_names_look_alike_are_noted() -> None:
    """ImageFolder has two classes then, and so have we: a person wrote one in two ways, as a rule."""
    composed, apart = "caf\u00e9", "cafe\u0301"
    assert alike("DIR", ["cat", "dog", "catdog"]) == []
    for first, second in (("Cat", "cat"), ("cat", "cat "), (composed, apart), ("car", "car")):
        assert alike("DIR", ["ant", first, second]) == [
            f"DIR: classes {first!a} and {second!a} have names that look alike (1 such): each is a class of its own"
        ]


def test_one_file_under_two_classes_is_said() -> None:
    files = [("bee", "1.jpg", b"one"), ("cat", "2.jpg", b"two"), ("dog", "1.jpg", b"one"), ("cat", "2.jpg", b"two")]
    labels = np.array([0, 1, 2, 1])
    (note,) = check_alone(dataclasses.replace(manifest("DIR", files), labels=labels))
    assert note == "DIR: 2 of 4 are there twice, such as 1.jpg; 1 of them in two classes, of which one is wrong"


def test_folders_of_splits_are_no_classes() -> None:
    """As ``train/train/…`` and ``train/val/…`` of an archive that was unpacked one folder too deep."""
    for names in (["train", "val"], ["Train", "test"]):
        whole = dataclasses.replace(manifest("DIR/train", TRAIN[:2]), class_names=[*names, "dog"])
        with pytest.raises(UserError, match="which name no classes"):
            check_alone(whole)


def test_a_class_in_another_form_of_accents_is_shown_as_such() -> None:
    train, val = manifest("train", TRAIN), manifest("val", [("cat", "v/1.jpg", b"1")])
    with pytest.raises(UserError, match=r"training spells it 'cat', this is 'Cat': rename one"):
        check_pair(train, dataclasses.replace(val, class_names=["bee", "Cat", "dog"]))
