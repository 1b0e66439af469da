"""1 % and 10 % of the labels: the same images in every layout and for every seed, balanced; lists are followed exactly."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backbones.errors import UserError
from tasks.datasets.images import ImageSet, open_split
from tasks.datasets.label_subset import choose_labels, quotas
from tasks.recipe import DataConfig
from tests.tasks.datasets.layouts import layouts
from tests.tasks.pictures import make_folders, make_tars, save_picture


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folders(tmp_path_factory.mktemp("subset") / "folders", train=20, val=1)


def chosen(root: Path, **keys: object) -> ImageSet:
    images = open_split("mine", str(root), "train")
    note = choose_labels(images, DataConfig(**keys))  # type: ignore[arg-type]
    assert note is None or f"labels of {len(images)} of 60 training images" in note
    return images


def names(images: ImageSet) -> list[str]:
    return [images.relative_name(i) for i in range(len(images))]


def test_without_the_keys_nothing_changes(root: Path) -> None:
    whole = open_split("mine", str(root), "train")
    assert names(chosen(root)) == names(whole)
    assert chosen(root).fingerprint() == whole.fingerprint()


def test_a_share_is_balanced_and_lies_within_a_greater_one(root: Path) -> None:
    small, large = chosen(root, label_share=0.1), chosen(root, label_share=0.5)
    assert Counter(small.labels) == {0: 2, 1: 2, 2: 2}
    assert Counter(large.labels) == {0: 10, 1: 10, 2: 10}
    assert set(names(small)) < set(names(large))
    assert names(large) == sorted(names(large), key=names(open_split("mine", str(root), "train")).index)


def test_a_share_is_the_same_in_a_tar(root: Path, tmp_path: Path) -> None:
    tars = make_tars(root, tmp_path / "tars")
    assert names(chosen(tars, label_share=0.2)) == names(chosen(root, label_share=0.2))


def test_whole_share_is_everything(root: Path) -> None:
    assert len(chosen(root, label_share=1.0)) == 60


def test_the_fingerprint_is_that_of_the_choice(root: Path) -> None:
    shares = [None, 0.1, 0.5]
    prints = [chosen(root, label_share=share).fingerprint() for share in shares]
    assert len(set(prints)) == 3
    assert chosen(root, label_share=0.1).fingerprint() == prints[1]


@pytest.mark.parametrize(
    ("share", "said"), [(0.0, "between 0 and 1"), (1.5, "between 0 and 1"), (0.02, "give at least 0.05")]
)
def test_shares_that_make_no_set_are_named(root: Path, share: float, said: str) -> None:
    with pytest.raises(UserError, match=rf"data\.label_share={share}.*{said}"):
        chosen(root, label_share=share)


def test_share_and_list_exclude_each_other(root: Path) -> None:
    with pytest.raises(UserError, match="give one of them"):
        chosen(root, label_share=0.1, label_list="list.txt")


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.data())
def test_quotas_are_even_as_far_as_classes_go(counts: list[int], data: st.DataObject) -> None:
    total = data.draw(st.integers(0, sum(counts)))
    found = quotas(counts, total)
    assert sum(found) == total
    assert all(0 <= n <= count for n, count in zip(found, counts, strict=True))
    open_ = [n for n, count in zip(found, counts, strict=True) if n < count]
    if open_:
        assert max(found) - min(open_) <= 1
    if total:
        assert all(less <= more for less, more in zip(quotas(counts, total - 1), found, strict=True))


# Lists


def imagenet_like(root: Path) -> Path:
    """Files named as ImageNet's, so that a name says all: ``ant/ant_0.jpg``."""
    for c, name in enumerate(("ant", "bee")):
        for i in range(3):
            save_picture(root / "train" / name / f"{name}_{i}.jpg", 10 * c + i)
    return root


def listed(tmp_path: Path, *lines: str) -> str:
    path = tmp_path / "1percent.txt"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def choose(root: Path, listing: str) -> list[str]:
    images = open_split("mine", str(root), "train")
    choose_labels(images, DataConfig(label_list=listing))
    return names(images)


def test_a_list_of_file_names_is_followed_in_any_layout(tmp_path: Path) -> None:
    folders = imagenet_like(tmp_path / "folders")
    listing = listed(tmp_path, "bee_2.JPEG", "ant_0.JPEG", "bee_2.JPEG")  # SimCLR's lists say JPEG
    assert choose(folders, listing) == ["ant/ant_0.jpg", "bee/bee_2.jpg"]
    layouts.tar_of_tars(folders, tmp_path / "tar" / "ILSVRC2012_img_train.tar")
    assert [
        name.rpartition("_")[2] for name in choose(tmp_path / "tar", listed(tmp_path, "bee_bee_2", "ant_ant_0"))
    ] == [
        "0.jpg",
        "2.jpg",
    ]


def test_a_list_works_on_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    layouts.parquet(imagenet_like(tmp_path / "folders"), tmp_path / "hf", "train")
    assert sorted(choose(tmp_path / "hf", listed(tmp_path, "ant_ant_1.JPEG", "bee_bee_0.JPEG"))) == [
        "ant_ant_1.jpg",
        "bee_bee_0.jpg",
    ]


def test_folders_tell_files_of_the_same_name_apart(root: Path, tmp_path: Path) -> None:
    listing = listed(tmp_path, "ant/3.jpg", "bee/3.jpg", "cat/4.jpg")
    assert choose(root, listing) == ["ant/3.jpg", "bee/3.jpg", "cat/4.jpg"]
    with pytest.raises(UserError, match=r"1percent\.txt: 3\.jpg is the name of 3 images"):
        choose(root, listed(tmp_path, "3.jpg"))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["ant_0.JPEG", "dog_1.JPEG", "dog_2.JPEG"], r"dog_1\.JPEG is not in the training split \(2 such of 3\)"),
        (["", "  "], "empty"),
        (["ant_0.jpg"], r"names no image of class 'bee' \(1 such classes\)"),
    ],
)
def test_lists_that_do_not_fit_are_named(tmp_path: Path, lines: list[str], said: str) -> None:
    folders = imagenet_like(tmp_path / "folders")
    with pytest.raises(UserError, match=rf"1percent\.txt: {said}"):
        choose(folders, listed(tmp_path, *lines))


def test_a_list_that_is_not_there_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"data\.label_list={tmp_path}/none\.txt: not readable"):
        choose(root, f"{tmp_path}/none.txt")


# Recipes


def test_classification_trains_on_the_part_and_says_so(root: Path) -> None:
    from tasks.classification.config import ClassificationRecipe
    from tasks.classification.task import ClassificationTask
    from tasks.recipe import EncoderConfig, OptimizerConfig, ScheduleConfig

    def task(**keys: object) -> ClassificationTask:
        return ClassificationTask(
            ClassificationRecipe(
                encoder=EncoderConfig(arch="vit_micro_patch8", img_size=16),
                data=DataConfig(name="mine", root=str(root), **keys),  # type: ignore[arg-type]
                optimizer=OptimizerConfig(lr=1e-3),
                schedule=ScheduleConfig(epochs=1),
            )
        )

    part, whole = task(label_share=0.1), task()
    assert (part.data.train_count, part.data.val_count) == (6, 3)
    assert part.data.notes == ["labels of 6 of 60 training images (10.00% of each class)"]
    assert part.data.fingerprint != whole.data.fingerprint


def test_a_recipe_without_the_keys_keeps_its_hash() -> None:
    from mae_bench.recipes.load import as_dict, load_recipe, recipe_hash

    recipe = load_recipe("linear/vit_micro_patch4_cifar10")
    assert "label_share" in as_dict(recipe)["data"]
    before = recipe_hash(recipe)
    recipe.data.label_share = 0.1
    assert recipe_hash(recipe) != before
    recipe.data.label_share = None
    assert recipe_hash(recipe) == before


@pytest.mark.parametrize("task", ["pretraining", "detection"])
def test_other_tasks_refuse_the_keys(task: str) -> None:
    from tasks import create_task, recipe_schema

    recipe = recipe_schema(task)()
    recipe.task = task
    recipe.data.label_share = 0.1
    with pytest.raises(UserError, match=rf"are for classification and probing, not for {task}"):
        create_task(recipe)


def test_a_list_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    root = imagenet_like(tmp_path / "set")
    plain = choose(root, listed(tmp_path, "ant_0", "bee_2"))
    assert choose(root, listed(tmp_path, "\ufeffant_0.jpg\r", "bee_2.jpg\r")) == plain
