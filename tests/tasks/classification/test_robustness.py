"""ImageNet's other test sets, in their layouts, counted by hand for a stub that sees nothing but an image's brightness."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from skimage.util import random_noise
from torch import Tensor, nn
from torch.utils.data import DataLoader

from backbones.errors import UserError
from tasks.base import DataInfo
from tasks.classification.robustness import ALEXNET_ERROR, CorruptionEvaluator, open_test_set
from tasks.datasets.describe import look_at_parts
from tasks.datasets.imagenet import CORRUPTIONS, class_subset, synsets
from tasks.datasets.transforms import eval_crop
from tasks.recipe import DataConfig
from tests.encoders import MAE, used
from tests.tasks.datasets.layouts.layouts import write_tar

SIZE = 32


class Brightness(nn.Module):
    """Logits by the mean of the red channel: row k of `rows` for values from 10 k to 10 k + 9."""

    def __init__(self, rows: dict[int, dict[int, float]]) -> None:
        super().__init__()
        self.logits = torch.zeros(26, 1000)
        for value, row in rows.items():
            for index, logit in row.items():
                self.logits[value // 10, index] = logit

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        red = (batch[0][:, 0].mean((1, 2)) * 0.229 + 0.485) * 255
        return self.logits[(red.round() / 10).floor().long().clamp(0, 25)]


def grey(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIZE, SIZE), (value, value, value)).save(path)


def evaluate(kind: str, root: Path, model: nn.Module, processes: int = 1, **data: Any) -> dict[str, float]:
    test_set = open_test_set(kind, DataConfig(name=kind, root=str(root), **data))
    dataset: Any = test_set.dataset(eval_crop(used(SIZE, 1.0)))
    results = []
    for rank in range(processes):
        evaluator = test_set.evaluator(MAE)
        for batch in DataLoader(dataset, batch_size=7, sampler=range(rank, len(dataset), processes)):
            evaluator.update(model, batch)
        results += evaluator.results()
    return test_set.evaluator(MAE).metrics(results)


@pytest.mark.parametrize("kind", ["imagenet_a", "imagenet_r"])
@pytest.mark.parametrize("processes", [1, 2])
def test_classes_outside_the_200_do_not_compete(tmp_path: Path, kind: str, processes: int) -> None:
    first, second = class_subset(kind)[3:5]
    outside = next(i for i in range(1000) if i not in class_subset(kind))
    for value, label in ((20, first), (40, first), (60, second), (80, second)):
        grey(tmp_path / synsets()[label] / f"{value}.png", value)
    # 20: right once the class outside is gone. 40: right. 60: the other class of the 200. 80: right.
    model = Brightness(
        {20: {outside: 9, first: 5}, 40: {first: 3}, 60: {outside: 9, first: 5, second: 4}, 80: {second: 1}}
    )
    metrics = evaluate(kind, tmp_path, model, processes)
    assert (metrics["top1"], metrics["top5"], metrics["images"]) == (75.0, 100.0, 4)
    # The same images among all 1000 classes.
    assert evaluate("imagenet_sketch", tmp_path, model, processes)["top1"] == 50.0


def test_matched_frequency_folders_are_numbered(tmp_path: Path) -> None:
    """ImageNet-V2 names its folders 0 to 999, and 10 comes after 9, not after 1."""
    for value, label in ((20, 2), (40, 10), (60, 999)):
        grey(tmp_path / "imagenetv2-matched-frequency-format-val" / str(label) / f"{value}.png", value)
    model = Brightness({20: {2: 1}, 40: {10: 1}, 60: {998: 1}})
    assert evaluate("imagenet_v2", tmp_path, model)["top1"] == pytest.approx(200 / 3)


def test_any_of_the_real_labels_is_right_and_unlabelled_images_do_not_count(tmp_path: Path) -> None:
    numbers = {1: 20, 2: 40, 3: 60, 50_000: 80}
    for number, value in numbers.items():
        grey(tmp_path / "val" / synsets()[5] / f"ILSVRC2012_val_{number:08d}.png", value)
    labels: list[list[int]] = [[] for _ in range(50_000)]
    labels[0], labels[1], labels[49_999] = [5, 8], [8], [5]
    (tmp_path / "real.json").write_text(json.dumps(labels))
    # Predicted: 8 (ReaL only), 5 (the original only), 5 (no ReaL label), 7 (neither).
    model = Brightness({20: {8: 1}, 40: {5: 1}, 60: {5: 1}, 80: {7: 1}})
    options = {"real_json": str(tmp_path / "real.json")}
    for processes in (1, 3):
        metrics = evaluate("imagenet_real", tmp_path, model, processes, options=options)
        assert metrics["top1"] == pytest.approx(100 / 3)
        assert metrics["original_top1"] == 50.0
        assert metrics["images"] == 3


def test_real_labels_on_shards_whose_classes_are_numbers(tmp_path: Path) -> None:
    members = []
    for number, label in ((1, 5), (2, 999)):
        grey(tmp_path / "one.png", 20)
        name = f"ILSVRC2012_val_{number:08d}"
        members += [(f"{name}.cls", b"%d" % label), (f"{name}.png", (tmp_path / "one.png").read_bytes())]
    write_tar(tmp_path / "wds" / "imagenet1k-validation-00.tar", members)
    labels: list[list[int]] = [[8], [8]] + [[] for _ in range(49_998)]
    (tmp_path / "real.json").write_text(json.dumps(labels))
    options = {"real_json": str(tmp_path / "real.json")}
    metrics = evaluate("imagenet_real", tmp_path / "wds", Brightness({20: {8: 2, 5: 1}}), options=options)
    assert (metrics["top1"], metrics["original_top1"], metrics["images"]) == (100.0, 0.0, 2)
    metrics = evaluate("imagenet_real", tmp_path / "wds", Brightness({20: {8: 1, 5: 2}}), options=options)
    assert (metrics["top1"], metrics["original_top1"], metrics["images"]) == (0.0, 50.0, 2)


def brighter(image: Image.Image, severity: int) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(1 + 0.3 * severity)


def noisy(mode: str) -> Callable[[Image.Image, int], Image.Image]:
    def corrupt(image: Image.Image, severity: int) -> Image.Image:
        strength = {"var": 0.005 * severity} if mode == "gaussian" else {"amount": 0.05 * severity}
        noise = random_noise(np.asarray(image), mode, rng=severity, **strength)
        return Image.fromarray((255 * noise).round().astype(np.uint8))

    return corrupt


CHANGES: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "brightness": brighter,
    "frost": lambda image, _: ImageOps.invert(image),
    "contrast": lambda image, severity: ImageEnhance.Contrast(image).enhance(1 - 0.1 * severity),
    "gaussian_noise": noisy("gaussian"),
    "impulse_noise": noisy("s&p"),
}


def corrupted(root: Path, *, grouped: bool) -> Path:
    """ImageNet-C's folders: dark pictures (60, 100) of class 1, light ones (140, 180) of class 0; blurred where not named."""
    for group, corruptions in CORRUPTIONS.items():
        for corruption in corruptions:
            change = CHANGES.get(corruption, lambda image, severity: image.filter(ImageFilter.GaussianBlur(severity)))
            for severity in range(1, 6):
                folder = (root / group if grouped else root) / corruption / str(severity)
                for value in (60, 100, 140, 180):
                    path = folder / synsets()[int(value < 128)] / f"{value}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    change(Image.new("RGB", (SIZE, SIZE), (value,) * 3), severity).save(path)
    return root


LIGHT_IS_0 = Brightness({value: {int(value < 130): 1.0} for value in range(0, 256, 10)})


@pytest.mark.parametrize(("grouped", "processes"), [(False, 1), (True, 2)])
def test_corruption_errors_by_hand(tmp_path: Path, grouped: bool, processes: int) -> None:
    metrics = evaluate("imagenet_c", corrupted(tmp_path, grouped=grouped), LIGHT_IS_0, processes)
    assert metrics["images"] == 75 * 4
    # 60 x (1.3, 1.6, 1.9, 2.2, 2.5) is light from severity 4 on (132, 150), 100 from severity 1 on (130); light stays light.
    assert [metrics[f"error.brightness.{s}"] for s in range(1, 6)] == [25, 25, 25, 50, 50]
    assert metrics["error.brightness"] == pytest.approx(35)
    # Inverted, dark is light and light is dark: all wrong.
    assert metrics["error.frost"] == 100
    # What does not move the mean across the middle is no mistake.
    others = [c for c in ALEXNET_ERROR if c not in ("brightness", "frost")]
    assert {metrics[f"error.{c}"] for c in others} == {0.0}
    assert metrics["inc_error"] == pytest.approx((35 + 100) / 15)
    assert metrics["inc_mce"] == pytest.approx((35 / 0.564592 + 100 / 0.826572) / 15)
    assert metrics["top1"] == pytest.approx(100 - 9)


def test_alexnet_itself_has_an_mce_of_100() -> None:
    assert list(ALEXNET_ERROR) == [c for group in CORRUPTIONS.values() for c in group]
    conditions = [(c, s) for c in ALEXNET_ERROR for s in range(1, 6)]
    counts = [[1_000_000, round(1_000_000 * ALEXNET_ERROR[c])] for c, _ in conditions]
    assert CorruptionEvaluator(conditions, MAE).metrics([counts])["inc_mce"] == pytest.approx(100)


def test_limit_takes_images_of_every_condition(tmp_path: Path) -> None:
    data = DataConfig(name="imagenet_c", root=str(corrupted(tmp_path, grouped=False)), limit_val=2)
    test_set = open_test_set("imagenet_c", data)
    info = test_set.info(data)
    assert (info.val_count, info.classes, info.train_count) == (150, 1000, 0)
    assert [test_set.extra(i) for i in (0, 1, 2, 149)] == [0, 0, 1, 74]


def refused(kind: str, root: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_test_set(kind, DataConfig(name=kind, root=str(root)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_and_unequal_severities_are_named(tmp_path: Path) -> None:
    corrupted(tmp_path, grouped=False)
    (tmp_path / "snow" / "3" / synsets()[0] / "140.png").unlink()
    assert "snow/3: 3 images" in refused("imagenet_c", tmp_path)
    (tmp_path / "snow" / "3").rename(tmp_path / "snow" / "6")
    assert "snow/3: no such folder" in refused("imagenet_c", tmp_path)
    (tmp_path / "snow" / "6").rename(tmp_path / "snow" / "3")
    (tmp_path / "fog").rename(tmp_path / "mist")
    assert "fog: no such folder" in refused("imagenet_c", tmp_path)


def test_the_folder_that_was_probably_meant_is_named(tmp_path: Path) -> None:
    corrupted(tmp_path / "c/ImageNet-C", grouped=True)
    for given in (tmp_path / "c", tmp_path / "c/ImageNet-C/noise", tmp_path / "c/ImageNet-C/weather/fog"):
        assert f"{tmp_path}/c/ImageNet-C has all: is that meant?" in refused("imagenet_c", given)
    grey(tmp_path / "r/imagenet-r" / synsets()[class_subset("imagenet_r")[0]] / "0.png", 20)
    assert f"{tmp_path}/r/imagenet-r has one: is that meant?" in refused("imagenet_r", tmp_path / "r")


def test_folders_that_are_numbers_are_indices_and_said_so(tmp_path: Path) -> None:
    for label in (2, 10):
        grey(tmp_path / str(label) / "0.png", 20)
    data = DataConfig(name="imagenet_sketch", root=str(tmp_path))
    notes = open_test_set("imagenet_sketch", data).info(data).notes
    assert notes == ["2 folders are numbers, such as 10: taken for indices of ImageNet's 1000 classes"]


def test_an_image_that_cannot_be_read_is_left_out_where_that_is_allowed(tmp_path: Path) -> None:
    first, second = class_subset("imagenet_a")[:2]
    for value, label in ((20, first), (40, second), (60, second)):
        grey(tmp_path / synsets()[label] / f"{value}.png", value)
    (tmp_path / synsets()[second] / "60.png").write_bytes(b"\x89PNG")
    model = Brightness({20: {first: 1}, 40: {first: 1}, 60: {first: 1}})
    with pytest.raises(UserError, match=r"60\.png: unreadable image .*data\.allow=\[unreadable\]"):
        evaluate("imagenet_a", tmp_path, model)
    assert evaluate("imagenet_a", tmp_path, model, allow=["unreadable"])["top1"] == 50.0


@pytest.mark.parametrize("kind", ["imagenet_a", "imagenet_r", "imagenet_sketch", "imagenet_c"])
def test_accuracies_of_random_logits_are_numpys(tmp_path: Path, kind: str) -> None:
    classes = np.array(class_subset(kind) if kind in ("imagenet_a", "imagenet_r") else range(1000))
    rng, labels = np.random.default_rng(0), np.arange(0, 60 if kind == "imagenet_c" else 240, 10)
    chosen = rng.choice(classes, len(labels))
    table = np.full((26, 1000), -9.0) + rng.random((26, 1000))
    for k, label in enumerate(chosen):  # right, or the runner-up within the classes, or one outside that is greatest
        table[k, label] += 20 * (k % 3 != 1)
        table[k, rng.integers(0, 1000)] += 40 * (k % 3 == 2)
    model = Brightness({})
    model.logits = torch.from_numpy(table).float()
    right = np.array([classes[table[k, classes].argmax()] == label for k, label in enumerate(chosen)])
    folders = [c for group in CORRUPTIONS.values() for c in group] if kind == "imagenet_c" else [""]
    for folder in (f"{c}/{s}" if c else "." for c in folders for s in range(1, 6 if c else 2)):
        for value, label in zip(labels.tolist(), chosen.tolist(), strict=True):
            grey(tmp_path / folder / synsets()[label] / f"{value}.png", value)
    found = evaluate(kind, tmp_path, model)
    assert 0 < right.mean() < 1
    assert found["top1"] == pytest.approx(100 * right.mean())
    if kind == "imagenet_c":
        relative = np.mean([100 * (1 - right.mean()) / ALEXNET_ERROR[c] for c in folders])
        assert found["inc_mce"] == pytest.approx(relative)


def test_classes_that_are_not_the_sets_are_named(tmp_path: Path) -> None:
    outside = next(i for i in range(1000) if i not in class_subset("imagenet_a"))
    grey(tmp_path / "a" / synsets()[outside] / "0.png", 20)
    grey(tmp_path / "a" / synsets()[class_subset("imagenet_a")[0]] / "0.png", 20)
    message = refused("imagenet_a", tmp_path / "a")
    assert synsets()[outside] in message
    assert "none of the 200" in message
    grey(tmp_path / "b" / "n00000000" / "0.png", 20)
    assert "n00000000" in refused("imagenet_r", tmp_path / "b")
    grey(tmp_path / "c" / "val" / "ant" / "0.png", 20)
    assert "'ant' is none of ImageNet's 1000" in refused("imagenet_sketch", tmp_path / "c")


def test_unknown_kind_is_named(tmp_path: Path) -> None:
    assert 'did you mean "imagenet_a"' in refused("imagenet_aa", tmp_path)


def test_one_folder_for_two_corruptions_and_other_images_are_refused(tmp_path: Path) -> None:
    corrupted(tmp_path, grouped=False)
    fog = tmp_path / "fog" / "2"
    fog.rename(tmp_path / "kept")
    fog.symlink_to(tmp_path / "frost" / "2")
    assert "fog/2: the very folder that" in refused("imagenet_c", tmp_path)
    fog.unlink()
    (tmp_path / "kept").rename(fog)
    (fog / synsets()[0] / "140.png").rename(fog / synsets()[1] / "140.png")
    assert "fog/2: other images of each class" in refused("imagenet_c", tmp_path)


def test_some_images_of_each_corruption_are_looked_at_before_the_first(tmp_path: Path) -> None:
    parts = open_test_set(
        "imagenet_c", DataConfig(name="imagenet_c", root=str(corrupted(tmp_path, grouped=False)))
    ).images
    info = DataInfo("imagenet_c", str(tmp_path), 0, 300, 1000, "f")
    first, *_ = look_at_parts(info, parts)
    assert "300 images in 75 folders" in first
    assert "75 looked at" in first
    cut = tmp_path / "pixelate" / "5" / synsets()[0] / "140.png"
    cut.write_bytes(cut.read_bytes()[:60])
    with pytest.raises(UserError, match=r"pixelate/5/.*png"):
        look_at_parts(info, parts)
