"""k-NN and probes from the command line: what the record says, several processes, and features that are made once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.utils.data import DataLoader

from backbones.files.tensor_files import save_tensors
from backbones.vit.encoder import create_encoder
from mae_bench.engine.sampler import SeededDataset
from mae_bench.recipes.load import load_recipe, recipe_names
from tasks.datasets.loading import CollateOrFail
from tasks.features import extract as features
from tasks.probing.rows import BothRows, KeptRows, split
from tests.conftest import Result, data_folder
from tests.encoders import scratch
from tests.end_to_end.tiny import EMBEDDED, spawn

Cli = Callable[..., Result]
FEW = {"knn": ["knn.k=[5,20]"], "probe": ["schedule.epochs=2", "train.batch_size=20"]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "encoder.safetensors"
    save_tensors(path, create_encoder("vit_micro_patch8", img_size=48).state_dict(), {"method": "MAE"})
    return path


def command(checkpoint: Path, out: Path, tasks: str = "knn,probe") -> list[Any]:
    overrides = [w for task in tasks.split(",") for text in FEW[task] for w in ("--set", f"{task}:{text}")]
    return ["run", "--checkpoint", checkpoint, "--tasks", tasks, *EMBEDDED, *overrides, "--out", out, "--json"]


def test_records_hold_every_k_and_every_head(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    result = cli(*command(checkpoint, tmp_path))
    assert result.code == 0, result.err
    knn, probe = json.loads(result.out)
    assert (knn["task"], knn["protocol"], knn["primary_metric"]) == ("probing", "knn", "knn20_top1")
    assert set(knn["metrics"]["last"]) == {"knn5_top1", "knn5_top5", "knn20_top1", "knn20_top5", "images"}
    assert knn["metrics"]["last"]["images"] == knn["data"]["val_count"] == 21
    assert knn["data"]["train_count"] == 80
    assert (probe["protocol"], probe["primary_metric"]) == ("probe", "top1_best_on_val")
    grid = [f"lr{lr}_{pool}_l{layer}" for lr in (3, 10, 30) for pool in ("token", "avg") for layer in (2, 3)]
    metrics = probe["metrics"]["last"]
    assert metrics["top1_best_on_val"] == max(metrics[f"top1_{name}"] for name in grid)
    assert "best of 12 heads by top-1 on the validation set itself" in probe["metrics"]["selection"]
    kept = safetensors.torch.load_file(next(tmp_path.rglob("heads.safetensors")))
    assert {name.split(".norm")[0].rsplit(".", 1)[0] for name in kept if name.endswith("weight")} == set(grid)
    assert not list(tmp_path.glob("knn*/**/heads.safetensors"))


def test_another_run_finds_the_features_made(
    cli: Cli, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cli(*command(checkpoint, tmp_path / "one", "knn"))
    monkeypatch.setattr(features, "image_features", None)  # whoever calls it fails
    second = cli(*command(checkpoint, tmp_path / "two", "knn"))
    assert second.code == 0, second.err
    one, two = (json.loads(result.out)[0]["metrics"]["last"] for result in (first, second))
    assert one == two


def test_more_neighbours_than_images_are_refused_before_any_work(
    cli: Cli, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "image_features", None)
    result = cli(*command(checkpoint, tmp_path, "knn"), "--set", "knn.k=[81]", "--set", "data.limit_val=20")
    assert (result.code, result.out) == (1, "[]\n")  # one job of the run failed
    assert "knn.k=81: the training set has 80 images" in result.err
    assert not list(tmp_path.rglob("record.json"))


def test_a_batch_of_rows_is_what_single_rows_are() -> None:
    noise = np.random.default_rng(0)
    rows = KeptRows([noise.normal(size=(9, 4)).astype(np.float16), noise.normal(size=(9, 2))], range(9))
    loader = DataLoader(
        SeededDataset(rows),
        batch_size=4,
        sampler=[(i, 0) for i in (7, 3, 3, 0)],
        collate_fn=CollateOrFail(lambda batch: batch),
    )
    (found, labels) = next(iter(loader))
    assert labels.tolist() == [7, 3, 3, 0]
    for n, i in enumerate((7, 3, 3, 0)):
        single, label = rows[i]
        assert label == i
        for array, row in zip(found, single, strict=True):
            assert torch.equal(array[n], row)


@pytest.mark.parametrize("name", [n for n in recipe_names() if n.split("/")[0] in ("knn", "probe")])
def test_shipped_recipes_ask_for_features_that_their_encoder_has(name: str) -> None:
    from tasks.probing.task import _points

    recipe: Any = load_recipe(name)
    with torch.device("meta"):
        encoder = scratch(recipe.encoder.arch, img_size=recipe.encoder.img_size)
    points = _points(encoder, recipe.features)
    assert recipe.protocol == name.split("/")[0]
    assert len(points) == (1 if recipe.method == "knn" else 8 if "imagenet" in name else 4)


@pytest.mark.slow
def test_two_processes_extract_and_evaluate_like_one(
    cli: Cli, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    one = cli(*command(checkpoint, tmp_path / "one"))
    assert one.code == 0, one.err
    embedded = next(cache.glob("embedded-*"))
    own = tmp_path / "cache"  # with the data set, without the features
    own.mkdir()
    for folder in cache.glob("embedded-*"):
        (own / folder.name).symlink_to(folder)
    assert (own / embedded.name).is_dir()
    monkeypatch.setenv("MAE_BENCH_CACHE", str(own))
    process = spawn(*command(checkpoint, tmp_path / "two"), processes=2)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    for single, double in zip(json.loads(one.out), json.loads(out), strict=True):
        assert double["device"]["count"] == 2
        assert double["metrics"]["last"]["images"] == 21
        for name, value in single["metrics"]["last"].items():
            assert double["metrics"]["last"][name] == pytest.approx(value, abs=100 / 21 + 0.01), name
    assert {p.relative_to(own) for p in own.glob("features-*/*")} <= {
        p.relative_to(cache) for p in cache.glob("features-*/*")
    }
    for file in own.glob("features-*/*.npy"):
        # Batches fall differently, nothing else: rounding of fp16.
        np.testing.assert_allclose(np.load(file), np.load(cache / file.relative_to(own)), atol=4e-3)
    assert not list(own.glob("features-*/.*"))


@pytest.mark.slow
def test_cifar10_is_classified_by_its_neighbours(cli: Cli, tmp_path: Path) -> None:
    """Random weights tell pictures apart a little: more than chance, which is 10 %."""
    data = data_folder("cifar10")
    result = cli(
        *("run", "--scratch", "vit_micro_patch4", "--tasks", "knn", "--data", f"cifar10={data}", "--json"),
        *("--set", "data.limit_train=400", "--set", "data.limit_val=100", "--out", tmp_path),
    )
    assert result.code == 0, result.err
    record = json.loads(result.out)[0]
    assert (record["init"]["method"], record["data"]["classes"]) == ("scratch", 10)
    assert 12 < record["metrics"]["last"]["knn20_top1"] < 60


def test_a_tenth_of_training_is_held_out_by_the_seed() -> None:
    train, held_out = split(50, seed=0)
    assert (len(train), len(held_out)) == (45, 5)
    assert sorted([*train, *held_out]) == list(range(50))
    assert [list(part) for part in split(50, 0)] == [list(train), list(held_out)]
    assert list(split(50, 1)[1]) != list(held_out)
    values = np.arange(50.0)[:, None]
    labels = range(50)
    both = BothRows(KeptRows([values[:3]], [7, 8, 9]), KeptRows([values], labels, held_out))
    (rows,), found, flags = both.take([4, 0, 2])
    assert flags.tolist() == [False, False, True]
    assert (rows[:, 0].tolist(), found.tolist()) == ([0, 2, held_out[1]], [7, 9, held_out[1]])


def test_a_probe_may_choose_its_head_without_the_validation_set(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    result = cli(*command(checkpoint, tmp_path, "probe"), "--set", "select_on=train_split")
    assert result.code == 0, result.err
    (probe,) = json.loads(result.out)
    metrics = probe["metrics"]["last"]
    assert probe["primary_metric"] == "top1_best_on_train_split"
    assert (metrics["images"], "top1_best_on_val" in metrics) == (21, False)
    assert "by top-1 on 8 training images held out (10%, seed 0)" in probe["metrics"]["selection"]
    assert "8 training images held out, by which the head is chosen" in probe["data"]["notes"]
    refused = cli(*command(checkpoint, tmp_path, "knn"), "--set", "select_on=train_split")
    assert "give --set probe:select_on=train_split" in refused.err
