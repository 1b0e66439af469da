"""Kept features are the encoder's, made once for what they depend on, and whole or not there."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import resource
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backbones.encoders.features import choose, image_features
from backbones.errors import UserError
from tasks.datasets.images import ImageSet, open_split
from tasks.datasets.transforms import eval_crop, normalise
from tasks.features import extract as features
from tasks.probing.kept import Source, kept_features, share
from tests.encoders import MAE, scratch, used
from tests.tasks.pictures import make_folders, truncate


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folders(tmp_path_factory.mktemp("data") / "set")


def images_of(data: Path, split: str = "train") -> ImageSet:
    return open_split("mine", str(data), split)


def source(seed: int = 0, **changes: Any) -> Source:
    torch.manual_seed(seed)
    size, ratio = changes.pop("img_size", 16), changes.pop("crop_ratio", None)
    encoder = scratch("vit_micro_patch8", img_size=size)
    made = Source(encoder, None, used(size, ratio), "fp32", "fp32", batch_size=5, workers=0)
    return dataclasses.replace(made, **changes)


def wanted(kept_by: Source, kinds: tuple[str, ...] = ("cls", "mean"), layers: tuple[int, ...] = (-1, 1)) -> list[Any]:
    return choose(kept_by.encoder, kinds, layers)


def files(cache: Path) -> list[str]:
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())


@pytest.fixture
def no_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on nothing can be extracted."""

    def refuse(*_: object) -> object:
        raise AssertionError("features were made again")

    monkeypatch.setattr(features, "image_features", refuse)


def test_they_are_the_encoders_own_in_the_order_of_the_images(data: Path, tmp_path: Path) -> None:
    made, images = source(), images_of(data)
    found = kept_features(made, images, wanted(made), tmp_path)
    pixels = torch.stack([eval_crop(used(16))(images.read(i)[0]) for i in range(len(images))])
    expected = image_features(made.encoder.eval(), normalise(pixels, MAE), wanted(made))
    for feature, rows in zip(wanted(made), expected, strict=True):
        assert found[feature.name].dtype == np.float32
        np.testing.assert_allclose(found[feature.name], rows.numpy(), atol=1e-5)


def test_half_precision_takes_half_the_room_and_keeps_cosines(data: Path, tmp_path: Path) -> None:
    full, half = source(), source(store="fp16")
    exact, rounded = (kept_features(s, images_of(data), wanted(s), tmp_path)["cls-layer3"] for s in (full, half))
    assert (exact.nbytes, rounded.dtype) == (2 * rounded.nbytes, np.float16)
    unit = [
        a.astype(np.float64) / np.linalg.norm(a.astype(np.float64), axis=1, keepdims=True) for a in (exact, rounded)
    ]
    assert 0 < np.abs(unit[0] @ unit[0].T - unit[1] @ unit[1].T).max() < 1e-4


def test_they_are_mapped_not_read(data: Path, tmp_path: Path) -> None:
    made = source()
    for array in kept_features(made, images_of(data), wanted(made), tmp_path).values():
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable


def test_a_second_use_makes_nothing(data: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    first = kept_features(source(), images_of(data), wanted(source()), tmp_path)
    request.getfixturevalue("no_encoder")
    second = kept_features(source(), images_of(data), wanted(source()), tmp_path)  # another process would hold equals
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array)


def test_a_use_that_wants_more_adds_what_is_missing(data: Path, tmp_path: Path) -> None:
    made = source()
    kept_features(made, images_of(data), wanted(made, ("cls",), (-1,)), tmp_path)
    (before,) = tmp_path.rglob("*.npy")
    stamp = before.stat().st_mtime_ns
    kept_features(made, images_of(data), wanted(made, ("cls", "mean"), (-1, 0)), tmp_path)
    assert before.stat().st_mtime_ns == stamp
    about, *arrays = sorted(path.name for path in before.parent.iterdir())
    assert about == "about.json"
    assert [re.sub("-[0-9a-f]{64}", "", name) for name in arrays] == [
        "tokens-cls-layer0.npy",
        "tokens-cls-layer3-norm.npy",
        "tokens-mean-layer0.npy",
        "tokens-mean-layer3-norm.npy",
    ]


def test_jobs_that_make_the_same_at_once_leave_one_another_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two nodes that share the folder and round otherwise."""
    others: list[Any] = []

    def another_job_is_faster(*arguments: Any) -> Any:
        if not others:
            others.append(None)
            with monkeypatch.context() as there:
                there.setattr(features, "image_features", lambda *a: [t * (1 + 1e-6) for t in image_features(*a)])
                others[0] = kept_features(source(), images_of(data), wanted(source()), tmp_path)
        return image_features(*arguments)

    monkeypatch.setattr(features, "image_features", another_job_is_faster)
    ours = kept_features(source(), images_of(data), wanted(source()), tmp_path)
    files_now = files(tmp_path)
    later = kept_features(source(), images_of(data), wanted(source()), tmp_path)
    assert files(tmp_path) == files_now
    for name, array in ours.items():
        assert not np.array_equal(array, others[0][name])
        assert any(np.array_equal(later[name], either[name]) for either in (ours, others[0]))


def test_the_final_norm_keeps_features_apart(data: Path, tmp_path: Path) -> None:
    made = source()
    torch.nn.init.normal_(made.encoder.norm.weight)
    normed, plain = (
        kept_features(made, images_of(data), choose(made.encoder, ["cls"], [-1], norm), tmp_path)["cls-layer3"]
        for norm in ("last", "none")
    )
    assert not np.allclose(normed, plain)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"checkpoint": "0" * 64},
        {"img_size": 24},
        {"crop_ratio": 0.5},
        {"precision": "bf16"},
        {"store": "fp16"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_they_depend_on_gets_a_folder_of_its_own(data: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    for made in (source(), source(**change)):
        kept_features(made, images_of(data), wanted(made), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_other_images_get_a_folder_of_their_own(data: Path, tmp_path: Path) -> None:
    part, cache = images_of(data), tmp_path / "cache"
    part.limit(6)
    other = shutil.copytree(data, tmp_path / "other")
    (other / "train" / "ant" / "0.jpg").rename(other / "train" / "bee" / "00.jpg")  # the same images, another class
    for images in (images_of(data), part, images_of(data, "val"), images_of(other)):
        found = kept_features(source(), images, wanted(source()), cache)
        assert len(found["cls-layer3"]) == len(images)
    assert len(list(cache.iterdir())) == 4


def test_neither_batch_size_nor_workers_make_another_folder(data: Path, tmp_path: Path) -> None:
    for made in (source(), source(batch_size=2, workers=1)):
        kept_features(made, images_of(data), wanted(made), tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_says_what_it_is_of(data: Path, tmp_path: Path) -> None:
    made = source(checkpoint="ab" * 32)
    kept_features(made, images_of(data), wanted(made), tmp_path)
    about = json.loads(next(tmp_path.rglob("about.json")).read_text())
    assert (about["checkpoint"], about["arch"], about["split"]) == ("ab" * 32, "vit_micro_patch8", "train")
    assert (about["rows"], about["img_size"], about["store"]) == (12, 16, "fp32")


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, UserError])
def test_an_interruption_leaves_nothing_and_the_next_use_is_whole(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
) -> None:
    calls = 0

    def second_batch_fails(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise interruption("stop")
        return image_features(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(features, "image_features", second_batch_fails)
        with pytest.raises(interruption):
            kept_features(source(), images_of(data), wanted(source()), tmp_path)
    assert files(tmp_path) == []
    whole = kept_features(source(), images_of(data), wanted(source()), tmp_path)
    assert all(np.abs(array).min(axis=1).any() for array in whole.values())


def test_what_killed_processes_left_is_removed_after_a_day(data: Path, tmp_path: Path) -> None:
    kept_features(source(), images_of(data), wanted(source(), ("cls",)), tmp_path)
    folder = next(tmp_path.iterdir())
    old, young = folder / ".tokens-mean-layer1.npy.a.tmp", folder / ".tokens-mean-layer1.npy.b.tmp"
    for file in (old, young):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    kept_features(source(), images_of(data), wanted(source()), tmp_path)
    assert not old.exists()
    assert young.exists()  # may still be in the making


@given(count=st.integers(0, 200), processes=st.integers(1, 9))
def test_every_row_is_in_the_share_of_one_process(count: int, processes: int) -> None:
    shares = [share(count, process, processes) for process in range(processes)]
    assert [row for rows in shares for row in rows] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# --- Refusals.


def test_an_unreadable_image_is_named(data: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(data, tmp_path / "broken")
    truncate(broken / "train" / "bee" / "1.jpg", 0.1)
    with pytest.raises(UserError, match=r"bee/1\.jpg.*data\.skip_broken"):
        kept_features(source(), images_of(broken), wanted(source()), tmp_path / "cache")
    assert files(tmp_path / "cache") == []


def test_a_value_beyond_half_precision_is_told(data: Path, tmp_path: Path) -> None:
    made = source(store="fp16")
    torch.nn.init.constant_(made.encoder.norm.bias, 1e5)
    with pytest.raises(UserError, match=r"cls-layer3: a value of 1000.* does not fit: --set features\.store=fp32"):
        kept_features(made, images_of(data), wanted(made), tmp_path)
    assert files(tmp_path) == []
    full = dataclasses.replace(made, store="fp32")
    assert kept_features(full, images_of(data), wanted(full), tmp_path)["cls-layer3"].max() > 9e4


def test_a_cache_folder_that_cannot_be_made_is_told_with_the_way_out(data: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"features-\w+: cannot make this folder.*MAE_BENCH_CACHE") as refusal:
        kept_features(source(), images_of(data), wanted(source()), tmp_path / "cache")
    assert "\n" not in str(refusal.value)


def test_a_disk_that_is_too_full_is_told_before_any_work(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_encoder: None
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))  # type: ignore[attr-defined,unused-ignore]
    with pytest.raises(UserError, match=r"GB are free: set MAE_BENCH_CACHE to another disk"):
        kept_features(source(), images_of(data), wanted(source()), tmp_path)
    assert files(tmp_path) == []


def test_a_disk_that_fills_up_on_the_way_leaves_nothing(data: Path, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as small as a full disk
    try:
        with pytest.raises(UserError, match=r"cannot write \(File too large\): make room, or set MAE_BENCH_CACHE"):
            kept_features(source(), images_of(data), wanted(source()), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files(tmp_path) == []


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY\x01\x00"], ids=["empty", "cut"])
def test_a_damaged_file_is_named(data: Path, tmp_path: Path, damage: bytes) -> None:
    kept_features(source(), images_of(data), wanted(source()), tmp_path)
    file = next(tmp_path.rglob("tokens-cls-layer1-*.npy"))
    file.write_bytes(damage)
    with pytest.raises(UserError, match=r"tokens-cls-layer1-\w+\.npy: not readable .*delete it"):
        kept_features(source(), images_of(data), wanted(source()), tmp_path)


def test_a_flipped_bit_is_seen(data: Path, tmp_path: Path) -> None:
    kept_features(source(), images_of(data), wanted(source()), tmp_path)
    file = next(tmp_path.rglob("tokens-cls-layer1-*.npy"))
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"tokens-cls-layer1-\w+\.npy: damaged, its checksum .*delete it"):
        kept_features(source(), images_of(data), wanted(source()), tmp_path)


def test_images_that_were_replaced_have_features_of_their_own(data: Path, tmp_path: Path) -> None:
    """Others of the same names and sizes, as uncompressed formats have them: the time tells."""
    path = Path(images_of(data).name(0))
    kept_features(source(), images_of(data), wanted(source()), tmp_path)
    before = len(list(tmp_path.glob("features-*")))
    os.utime(path, ns=(1, 1))
    kept_features(source(), images_of(data), wanted(source()), tmp_path)
    assert len(list(tmp_path.glob("features-*"))) == before + 1


def test_a_file_of_another_shape_is_named(data: Path, tmp_path: Path) -> None:
    kept_features(source(), images_of(data), wanted(source()), tmp_path)
    file = next(tmp_path.rglob("tokens-cls-layer1-*.npy"))
    np.save(file, np.zeros((12, 64), np.float32))
    with pytest.raises(UserError, match=r"holds \(12, 64\), expected \(12, 128\): delete it"):
        kept_features(source(), images_of(data), wanted(source()), tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"store": "fp8"}, ['"fp8"', "features.store"]), ({"precision": "int8"}, ['"int8"', "train.precision"])],
)
def test_unknown_settings_are_refused(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as refusal:
        source(**change)
    for word in words:
        assert word in str(refusal.value)


def test_a_batch_needs_an_image() -> None:
    with pytest.raises(UserError, match=r"features\.batch_size=0"):
        source(batch_size=0)
