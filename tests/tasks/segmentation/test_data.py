"""Folders of images and maps: what is found, what is read, what is refused."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmseg")

from backbones.errors import UserError
from tasks.segmentation import classes, data, folders
from tasks.segmentation.config import SegmentationConfig
from tasks.segmentation.mm import ADE20KDataset

CONFIG = SegmentationConfig(resize_scale=[64, 32])
CLASSES = 3


def val_pairs(root: Path) -> list[folders.Pair]:
    return folders.find_pairs(root, CONFIG.val_images, CONFIG.val_maps, CONFIG).pairs


def train_pairs(root: Path) -> list[folders.Pair]:
    return folders.find_pairs(root, CONFIG.train_images, CONFIG.train_maps, CONFIG).pairs


def overwrite_map(pair: folders.Pair, values: np.ndarray) -> None:
    Image.fromarray(values).save(pair.map)


def labels_of(sample: dict) -> torch.Tensor:
    return sample["data_samples"].gt_sem_seg.data


def test_pairs_come_in_order_of_path(ade: Path) -> None:
    pairs = train_pairs(ade)
    assert [pair.image.name for pair in pairs] == [f"training_{i}.jpg" for i in range(5)]
    assert [pair.map.name for pair in pairs] == [f"training_{i}.png" for i in range(5)]


def test_the_root_may_be_the_parent_of_the_ade_folder(ade: Path) -> None:
    ade.rename(ade.with_name(folders.ADE_FOLDER))
    assert folders.layout_root(ade.parent, CONFIG) == ade.with_name(folders.ADE_FOLDER)
    assert folders.layout_root(ade.with_name(folders.ADE_FOLDER), CONFIG) == ade.with_name(folders.ADE_FOLDER)


def test_a_missing_folder_is_named(ade: Path) -> None:
    (ade / "annotations" / "training").rename(ade / "elsewhere")
    with pytest.raises(UserError, match="annotations/training: no such folder"):
        train_pairs(ade)


def test_an_empty_folder_is_named(ade: Path) -> None:
    for file in (ade / "images" / "validation").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"images/validation: the folder holds no .jpg or .jpeg"):
        val_pairs(ade)


def test_an_image_without_a_map_is_named(ade: Path) -> None:
    (ade / "annotations" / "training" / "training_3.png").unlink()
    with pytest.raises(UserError, match=r"training_3.jpg has no map.*training_3.png"):
        train_pairs(ade)


def test_validation_keeps_the_maps_size_and_resizes_the_image(ade: Path) -> None:
    samples = data.val_dataset(val_pairs(ade), CONFIG, CLASSES)
    assert len(samples) == 3
    assert samples[1]["inputs"].shape == (3, 32, 32)  # 48 x 48: short side to 32
    assert samples[2]["inputs"].shape == (3, 37, 32)  # 56 x 48
    assert labels_of(samples[2]).shape == (1, 56, 48)
    assert samples[2]["data_samples"].ori_shape == (56, 48)


def test_zero_is_unlabelled_and_labels_move_down_by_one(ade: Path) -> None:
    pair = val_pairs(ade)[0]
    raw = torch.from_numpy(np.asarray(Image.open(pair.map)).astype(np.int64))
    reduced = labels_of(data.val_dataset([pair], CONFIG, CLASSES)[0])[0]
    assert torch.equal(reduced, torch.where(raw == 0, 255, raw - 1))
    kept = SegmentationConfig(resize_scale=[64, 32], reduce_zero_label=False)
    assert torch.equal(labels_of(data.val_dataset([pair], kept, CLASSES + 1)[0])[0], raw)


def test_255_stays_unlabelled(ade: Path) -> None:
    pair = val_pairs(ade)[0]
    overwrite_map(pair, np.full((40, 48), 255, dtype=np.uint8))
    assert (labels_of(data.val_dataset([pair], CONFIG, CLASSES)[0]) == 255).all()


@pytest.mark.parametrize(("reduce", "classes", "label"), [(True, 3, 4), (True, 3, 254), (False, 4, 4)])
def test_a_label_that_exceeds_the_class_count_is_named(ade: Path, reduce: bool, classes: int, label: int) -> None:
    pair = val_pairs(ade)[0]
    values = np.ones((40, 48), dtype=np.uint8)
    values[7, 9] = label
    overwrite_map(pair, values)
    config = SegmentationConfig(resize_scale=[64, 32], reduce_zero_label=reduce)
    with pytest.raises(UserError, match=rf"validation_0.png holds label {label}, but {classes} classes"):
        data.val_dataset([pair], config, classes)[0]


def test_the_largest_label_of_the_class_count_is_taken(ade: Path) -> None:
    pair = val_pairs(ade)[0]
    overwrite_map(pair, np.full((40, 48), 3, dtype=np.uint8))
    assert (labels_of(data.val_dataset([pair], CONFIG, CLASSES)[0]) == 2).all()


def test_a_map_of_another_size_than_its_image_is_named(ade: Path) -> None:
    pair = val_pairs(ade)[0]
    overwrite_map(pair, np.zeros((48, 40), np.uint8))
    with pytest.raises(UserError, match=r"validation_0.png is 40x48 pixels and its image 48x40"):
        data.val_dataset([pair], CONFIG, CLASSES)[0]


def cut_short(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(("kind", "suffix"), [("image", "jpg"), ("map", "png")])
def test_a_file_cut_short_is_named_and_left_out_only_when_asked_for(ade: Path, kind: str, suffix: str) -> None:
    pairs = train_pairs(ade)
    cut_short(getattr(pairs[2], kind))
    samples = data.train_dataset(pairs, CONFIG, 32, CLASSES, cache=False)
    with pytest.raises(UserError, match=rf"training_2.{suffix}: unreadable {kind}"):
        samples[2]
    assert data.readable(pairs) == [0, 1, 3, 4]


@pytest.mark.parametrize("cache", [False, True])
def test_the_same_seed_gives_the_same_sample_and_another_another(ade: Path, cache: bool) -> None:
    samples = data.train_dataset(train_pairs(ade), CONFIG, 32, CLASSES, cache=cache)

    def draw(seed: int) -> torch.Tensor:
        for seeder in (np.random.seed, torch.manual_seed, random.seed):
            seeder(seed)
        return samples[0]["inputs"]

    first, other = draw(1), draw(2)
    assert torch.equal(first, draw(1))
    assert first.shape != other.shape or not torch.equal(first, other)


def test_flip_and_crop_move_image_and_map_alike(ade: Path) -> None:
    """On an image that shows its own map, every sample still does."""
    pair = train_pairs(ade)[0]
    values = np.kron(np.array([[1, 2], [3, 1]], np.uint8), np.ones((20, 24), np.uint8))
    overwrite_map(pair, values)
    Image.fromarray(np.repeat(60 * values[..., None], 3, axis=2)).save(pair.image, quality=100)
    config = SegmentationConfig(resize_scale=[48, 40], resize_ratio=[1, 1], photometric_distortion=False)
    samples = data.train_dataset([pair], config, 24, CLASSES, cache=True)
    for seed in range(8):
        np.random.seed(seed)
        sample = samples[0]
        shown = (sample["inputs"].float().mean(0) / 60).round() - 1
        assert (shown == labels_of(sample)[0]).float().mean() > 0.9


def test_images_come_as_bgr_as_mmseg_expects(ade: Path) -> None:
    pair = val_pairs(ade)[0]
    buffer = io.BytesIO()
    Image.new("RGB", (48, 40), (200, 0, 0)).save(buffer, "PNG")
    pair.image.write_bytes(buffer.getvalue())
    means = data.val_dataset([pair], CONFIG, CLASSES)[0]["inputs"].float().mean((1, 2))
    assert means.tolist() == pytest.approx([0, 0, 200])


def test_class_names_come_from_the_list_in_either_form(tmp_path: Path) -> None:
    plain, table = tmp_path / "plain", tmp_path / "table"
    for folder in (plain, table):
        folder.mkdir()
    (plain / "classes.txt").write_text("sky\nsea\n\n")
    (table / "classes.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.5\t1\t1\t1\tsky\n2\t0.5\t1\t1\t0\tsea, wet\n"
    )
    assert classes.class_names(plain, "mine", CONFIG) == (["sky", "sea"], [])
    assert classes.class_names(table, "mine", CONFIG) == (["sky", "sea, wet"], [])
    names, notes = classes.class_names(table, "mine", SegmentationConfig(num_classes=3))
    assert names == ["0", "1", "2"]
    assert notes == ["segmentation.num_classes=3 against 2 names: classes are called by their numbers"]


def test_ade20k_has_its_150_classes_without_a_list(tmp_path: Path) -> None:
    names = classes.class_names(tmp_path, "ade20k", CONFIG)[0]
    assert len(names) == 150
    assert names == list(ADE20KDataset.METAINFO["classes"])
    with pytest.raises(UserError, match="num_classes"):
        classes.class_names(tmp_path, "mine", CONFIG)
    with pytest.raises(UserError, match=r"num_classes must lie in 1\.\.255"):
        classes.class_names(tmp_path, "mine", SegmentationConfig(num_classes=256))
