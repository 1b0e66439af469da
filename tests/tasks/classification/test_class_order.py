"""The order of the classes is part of a head: exports say it, evaluation takes it from them; one class alone is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.datasets import ImageFolder

from backbones.checkpoints.checkpoint import load_checkpoint
from backbones.errors import UserError
from backbones.files.tensor_files import save_tensors
from backbones.vit.encoder import create_encoder
from mae_bench.api import run
from tasks.classification.config import ClassificationRecipe, HeadConfig
from tasks.classification.model import Classifier
from tasks.classification.task import ClassificationTask
from tasks.probing.config import ProbingRecipe
from tasks.probing.task import ProbingTask
from tasks.recipe import DataConfig, EncoderConfig, OptimizerConfig, ScheduleConfig
from tests.encoders import of_vit
from tests.tasks.pictures import make_folders, save_picture

NUMBERS = tuple(str(i) for i in range(12))
NATURAL = list(NUMBERS)
PLAIN = sorted(NUMBERS)
SMALL = EncoderConfig(arch="vit_micro_patch8", img_size=16)


def head(path: Path, width: int, **metadata: Any) -> Path:
    model = Classifier(
        of_vit(create_encoder(SMALL.arch, img_size=SMALL.img_size)), width, HeadConfig(), torch.nn.CrossEntropyLoss()
    )
    save_tensors(path, model.timm_state(), {"method": "MAE", "arch": SMALL.arch, **metadata})
    return path


def evaluation(root: Path, checkpoint: Path, allow: tuple[str, ...] = ()) -> ClassificationTask:
    recipe = ClassificationRecipe(
        encoder=SMALL,
        data=DataConfig(name="mine", root=str(root), allow=list(allow)),
        optimizer=OptimizerConfig(lr=0.0),
        schedule=ScheduleConfig(iterations=0),
    )
    return ClassificationTask(recipe, load_checkpoint(str(checkpoint)))


def probing(root: Path, **data: Any) -> ProbingTask:
    recipe = ProbingRecipe(encoder=SMALL, data=DataConfig(name="mine", root=str(root), **data))
    recipe.knn.k, recipe.schedule, recipe.optimizer.lr = [1], ScheduleConfig(iterations=0), 0.0
    recipe.features.pools = ["avg"]
    return ProbingTask(recipe)


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    return make_folders(tmp_path / "numbers", classes=NUMBERS, train=1, val=1)


@pytest.mark.parametrize(
    ("metadata", "order"),
    [
        ({}, PLAIN),  # another program's: torchvision's ImageFolder
        ({"recipe": "finetune/x"}, NATURAL),  # ours, of a version that did not name the classes
        ({"recipe": "finetune/x", "classes": PLAIN}, PLAIN),
        ({"recipe": "finetune/x", "classes": NATURAL[::-1]}, NATURAL[::-1]),
    ],
)
def test_the_order_of_a_head_is_kept(numbers: Path, tmp_path: Path, metadata: dict[str, Any], order: list[str]) -> None:
    task = evaluation(numbers, head(tmp_path / "model.safetensors", 12, **metadata))
    images = task.val_images
    found = {Path(images.name(i)).parent.name: images.label(i) for i in range(len(images))}
    assert [name for name, _ in sorted(found.items(), key=lambda item: item[1])] == order
    if not metadata:
        assert found == ImageFolder(str(numbers / "val")).class_to_idx


def test_a_head_of_other_classes_is_refused_with_the_way_out(tmp_path: Path) -> None:
    root = make_folders(tmp_path / "set", classes=("a", "b", "d"))
    checkpoint = head(tmp_path / "model.safetensors", 3, classes=["a", "b", "c"])
    with pytest.raises(UserError) as caught:
        evaluation(root, checkpoint)
    said = str(caught.value)
    assert "class 'd' (1 such) is none of the 3 that the head of" in said
    assert "(a, b, c)" in said
    assert "--set data.allow=[class_names]" in said
    task = evaluation(root, checkpoint, ("class_names",))
    assert task.val_images.class_to_idx == {"a": 0, "b": 1, "d": 2}
    assert any("other names than the head's" in note for note in task.data.notes)


def test_a_folder_of_some_of_the_heads_classes_keeps_their_numbers(tmp_path: Path) -> None:
    root = make_folders(tmp_path / "set", classes=("a", "c"))
    task = evaluation(root, head(tmp_path / "model.safetensors", 3, classes=["a", "b", "c"]))
    assert (sorted(set(task.val_images.labels)), task.data.classes) == ([0, 2], 3)


def test_exports_and_records_name_the_classes(tmp_path: Path) -> None:
    root = make_folders(tmp_path / "set", classes=("Zebra", "ant"), train=2, val=1)
    small = ["schedule.epochs=1", "schedule.warmup_epochs=0", "train.batch_size=2", "train.workers=0", "data.name=mine"]
    done = run(
        tasks=["finetune/vit_micro_patch8_embedded"],
        scratch="vit_micro_patch8",
        data={"mine": str(root)},
        out=tmp_path / "out",
        overrides=small,
    )
    (record,) = done.records if hasattr(done, "records") else done
    assert record.data.class_names == ["Zebra", "ant"]
    assert record.data.account["train"]["files"] == {"found": 4, "used": 4, "left_out": {}}
    assert load_checkpoint(str(next((tmp_path / "out").rglob("model.safetensors")))).metadata["classes"] == [
        "Zebra",
        "ant",
    ]


def test_files_that_number_the_same_names_otherwise_are_matched_by_name_and_said(tmp_path: Path) -> None:
    """As two exports of one data set may: iNaturalist's categories, Parquet's ClassLabel."""
    for split, names in (("train", ["x", "y"]), ("val", ["y", "x"])):
        for i in range(2):
            save_picture(tmp_path / f"{split}{i}.jpg", i + 5 * len(split))
        content = {
            "images": [{"id": i, "file_name": f"{split}{i}.jpg"} for i in range(2)],
            "annotations": [{"id": i, "image_id": i, "category_id": i} for i in range(2)],
            "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
        }
        (tmp_path / f"{split}2018.json").write_text(json.dumps(content))
    task = probing(tmp_path)
    assert (task.train_images.labels, task.val_images.labels) == ([0, 1], [1, 0])
    assert "numbers the classes otherwise than training's, 0 is 'y' and not 'x': matched by name" in str(
        task.data.notes
    )


@pytest.mark.parametrize("task", ["classification", "knn"])
def test_one_class_alone_is_refused(tmp_path: Path, task: str) -> None:
    for split in ("train", "val"):
        for name in ("images", "masks"):
            save_picture(tmp_path / "set" / split / "dog" / name / "0.jpg", len(name) + len(split))
    checkpoint = head(tmp_path / "model.safetensors", 2)
    with pytest.raises(UserError, match="all of one class, 'dog'"):
        _ = probing(tmp_path / "set") if task == "knn" else evaluation(tmp_path / "set", checkpoint)


@pytest.mark.parametrize("how", ["folder linked", "files linked", "hard links"])
def test_validation_that_is_training_is_refused_unless_it_is_meant(tmp_path: Path, how: str) -> None:
    root = make_folders(tmp_path / "set")
    shutil.rmtree(root / "val")
    if how == "folder linked":
        (root / "val").symlink_to("train")
    else:
        for file in sorted((root / "train").glob("*/*")):
            link = root / "val" / file.relative_to(root / "train")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file) if how == "files linked" else link.hardlink_to(file)
    with pytest.raises(
        UserError, match=r"12 of 12 are training images too, such as ant/0.jpg: .*allow=\[val_in_train\]"
    ):
        probing(root)
    assert any("are training images too" in note for note in probing(root, allow=["val_in_train"]).data.notes)


def test_a_list_for_both_splits_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for k in range(4):
        save_picture(root / f"{k}.jpg", k)
    for split in ("train", "val"):
        (root / f"{split}.txt").write_text("".join(f"{k}.jpg {k % 2}\n" for k in range(4)))
    with pytest.raises(UserError, match="4 of 4 are training images too"):
        probing(root)


def test_copies_of_training_images_and_sizes_are_noted_before_the_first_step(tmp_path: Path) -> None:
    root = make_folders(tmp_path / "set")
    shutil.copy(root / "train/ant/0.jpg", root / "val/ant/copy.jpg")
    save_picture(root / "train/bee/small.jpg", 7, size=(8, 8))
    task = probing(root)
    first, second, third = task.look_at_data()
    assert first.startswith(
        "data mine: train: 13 images, 4 to 5 of each of 3 classes, 8x8 to 40x32 pixels (13 looked at)"
    )
    assert second == "data mine: train 13 files = 13 used + 0 left out; val 7 files = 7 used + 0 left out"
    assert "1 of 7 looked at have the very bytes of a training image" in third
    assert any("very bytes" in note for note in task.data.looked)
    assert task.data.notes == []


def test_an_image_that_cannot_be_read_is_refused_before_the_first_step(tmp_path: Path) -> None:
    root = make_folders(tmp_path / "set")
    (root / "val/bee/1.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"val/bee/1.jpg: unreadable image"):
        probing(root).look_at_data()
    task = probing(root, allow=["unreadable"])
    task.look_at_data()
    assert task.data.val_count == 5
    assert task.data.account["val"]["files"]["left_out"]["unreadable"]["count"] == 1
