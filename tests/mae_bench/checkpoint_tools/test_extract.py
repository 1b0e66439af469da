"""`extract`: each image's features are the encoder's own, in the order of the names, and the file is whole or not there."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open

import mae_bench
from backbones.checkpoints.checkpoint import load_checkpoint
from backbones.encoders.features import image_features
from backbones.files.tensor_files import save_tensors
from backbones.vit.encoder import create_encoder
from tasks.datasets.transforms import eval_crop, normalise
from tasks.features import extract as features
from tasks.features.array_files import ArrayFiles
from tests.conftest import Result
from tests.encoders import MAE, used

Cli = Callable[..., Result]
NAMES = ["cat/1.png", "cat/2.png", "cat/10.png", "dog/a.png", "dog/b.png"]  # natural order: 10 comes after 2


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "encoder.safetensors"
    save_tensors(path, create_encoder("vit_micro_patch8", img_size=32).state_dict(), {"method": "MAE"})
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two class folders of noise in sizes of their own."""
    root = tmp_path_factory.mktemp("data") / "pictures"
    noise = np.random.default_rng(0)
    for i, name in enumerate(reversed(NAMES)):  # not in the order of the names
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (40 + i, 60 - i, 3), dtype=np.uint8)).save(root / name)
    return root


@pytest.fixture(scope="module")
def flat(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flat")
    for name in NAMES:
        shutil.copy(images / name, folder / Path(name).name)
    return folder


def by_hand(checkpoint: Path, root: Path, size: int = 32) -> NDArray[np.float32]:
    """All tokens after the final norm, one image after another."""
    encoder = mae_bench.load_encoder(checkpoint, img_size=size)
    transform = eval_crop(used(size))
    tokens = []
    for name in NAMES:
        with Image.open(root / name) as image, torch.no_grad():
            tokens.append(encoder.forward_features(normalise(transform(image).unsqueeze(0), MAE)))
    return torch.cat(tokens).numpy()


def extracted(cli: Cli, checkpoint: Path, data: Path, out: Path, *options: object) -> NDArray[np.float32]:
    result = cli("extract", checkpoint, "--data", data, "--out", out, "--workers", 0, *options)
    assert result.code == 0, result.err
    return np.load(out)


# --- What is in the file.


@pytest.mark.parametrize(
    ("feature", "expected"),
    [("cls", lambda tokens: tokens[:, 0]), ("mean", lambda t: t[:, 1:].mean(1)), ("patch", lambda t: t[:, 1:])],
)
def test_features_equal_the_encoder_called_directly(
    cli: Cli, checkpoint: Path, images: Path, tmp_path: Path, feature: str, expected: Callable[..., NDArray[np.float32]]
) -> None:
    found = extracted(cli, checkpoint, images, tmp_path / "f.npy", "--features", feature)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(by_hand(checkpoint, images)), atol=1e-6)


def test_neither_batch_size_nor_workers_change_the_features(
    cli: Cli, checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    one = extracted(cli, checkpoint, images, tmp_path / "one.npy", "--features", "patch", "--batch-size", 1)
    for options in (["--batch-size", 2], ["--batch-size", 64], ["--batch-size", 2, "--workers", 2]):
        np.testing.assert_allclose(
            extracted(cli, checkpoint, images, tmp_path / "many.npy", "--features", "patch", *options), one, atol=1e-6
        )


def test_rows_are_in_the_natural_order_of_the_names(cli: Cli, checkpoint: Path, images: Path, tmp_path: Path) -> None:
    extracted(cli, checkpoint, images, tmp_path / "f.npy")
    about = json.loads((tmp_path / "f.json").read_text())
    assert about["names"] == NAMES
    assert about["labels"] == [0, 0, 0, 1, 1]
    assert about["classes"] == ["cat", "dog"]


def test_the_sidecar_says_where_the_features_come_from(
    cli: Cli, checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    extracted(cli, checkpoint, images, tmp_path / "f.npy", "--layers", "-2")
    about = json.loads((tmp_path / "f.json").read_text())
    assert about["checkpoint"]["sha256"] == load_checkpoint(checkpoint).sha256
    assert about["checkpoint"]["arch"] == "vit_micro_patch8"
    assert (about["img_size"], about["grid"]) == ([32, 32], [4, 4])
    array = {"file": "f.npy", "feature": "cls", "layer": 2, "norm": False, "shape": [5, 128], "dtype": "float32"}
    assert about["arrays"] == {"cls-layer2": array}


def test_a_flat_folder_has_no_classes(cli: Cli, checkpoint: Path, images: Path, flat: Path, tmp_path: Path) -> None:
    found = extracted(cli, checkpoint, flat, tmp_path / "f.npy")
    about = json.loads((tmp_path / "f.json").read_text())
    assert about["names"] == [Path(name).name for name in NAMES]
    assert about["labels"] is about["classes"] is None
    np.testing.assert_array_equal(found, extracted(cli, checkpoint, images, tmp_path / "g.npy"))


def test_a_tar_gives_what_its_folder_gives(cli: Cli, checkpoint: Path, images: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "pictures.tar", "w") as tar:
        for name in reversed(NAMES):
            tar.add(images / name, name)
    found = extracted(cli, checkpoint, tmp_path / "pictures.tar", tmp_path / "tar.npy")
    np.testing.assert_array_equal(found, extracted(cli, checkpoint, images, tmp_path / "folder.npy"))
    tar_about, about = (json.loads((tmp_path / name).read_text()) for name in ("tar.json", "folder.json"))
    assert (tar_about["names"], tar_about["labels"]) == (about["names"], about["labels"])


def test_another_image_size_resamples_the_positions(cli: Cli, checkpoint: Path, images: Path, tmp_path: Path) -> None:
    found = extracted(cli, checkpoint, images, tmp_path / "f.npy", "--features", "patch", "--img-size", 48)
    np.testing.assert_allclose(found, by_hand(checkpoint, images, 48)[:, 1:], atol=1e-6)


def test_images_need_not_be_square(cli: Cli, checkpoint: Path, images: Path, tmp_path: Path) -> None:
    extracted(cli, checkpoint, images, tmp_path / "f.npy", "--features", "patch", "--img-size", "16x48")
    about = json.loads((tmp_path / "f.json").read_text())
    assert (about["img_size"], about["grid"]) == ([16, 48], [2, 6])
    assert about["arrays"]["patch-layer3"]["shape"] == [5, 12, 128]


def test_bf16_is_near_fp32_and_still_written_as_float32(
    cli: Cli, checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    exact = extracted(cli, checkpoint, images, tmp_path / "f.npy")
    rounded = extracted(cli, checkpoint, images, tmp_path / "g.npy", "--precision", "bf16")
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 0.1


# --- Files.


def test_several_features_are_a_npy_each(cli: Cli, checkpoint: Path, images: Path, tmp_path: Path) -> None:
    command = ["extract", checkpoint, "--data", images, "--out", tmp_path / "f.npy", "--workers", 0]
    assert cli(*command, "--features", "cls,mean", "--layers", "1,-1").code == 0
    names = [f"f-{kind}-layer{layer}.npy" for kind in ("cls", "mean") for layer in (1, 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "f.json"])
    about = json.loads((tmp_path / "f.json").read_text())
    assert [array["file"] for array in about["arrays"].values()] == names


def test_safetensors_hold_what_the_npy_files_hold(cli: Cli, checkpoint: Path, images: Path, tmp_path: Path) -> None:
    options = ["--features", "cls,patch", "--layers", "0,-1", "--workers", 0]
    for out in ("f.npy", "g.safetensors"):
        assert cli("extract", checkpoint, "--data", images, "--out", tmp_path / out, *options).code == 0
    with safe_open(tmp_path / "g.safetensors", "np") as tensors:
        assert sorted(tensors.keys()) == ["cls-layer0", "cls-layer3", "patch-layer0", "patch-layer3"]
        for name in tensors.keys():  # noqa: SIM118
            np.testing.assert_array_equal(tensors.get_tensor(name), np.load(tmp_path / f"f-{name}.npy"))


def test_the_api_is_the_verb(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    for _ in range(2):  # the name must not turn into a module once that is imported
        about = mae_bench.extract(checkpoint, images, tmp_path / "f.npy", features=["mean"], workers=0)
    assert about == json.loads((tmp_path / "f.json").read_text())
    assert np.load(tmp_path / "f.npy").shape == (5, 128)


def test_stdout_names_the_files_and_says_what_was_normalised(
    cli: Cli, checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    command = ["extract", checkpoint, "--data", images, "--out", tmp_path / "f.npy", "--workers", 0, "--layers", "0,3"]
    assert cli(*command).out.splitlines() == [
        f"{tmp_path}/f-cls-layer0.npy: cls-layer0, 5 x 128, before the final norm",
        f"{tmp_path}/f-cls-layer3.npy: cls-layer3, 5 x 128, final norm applied",
        f"{tmp_path}/f.json: names, labels, checkpoint",
    ]
    as_json = json.loads(cli(*command, "--json").out)
    assert as_json["sidecar"] == f"{tmp_path}/f.json"
    assert as_json["arrays"]["cls-layer3"]["norm"] is True


@pytest.mark.parametrize("out", ["x.safetensors", "x.npy"])
def test_rows_may_come_in_any_order_and_nothing_is_there_before_the_last(tmp_path: Path, out: str) -> None:
    wanted = {"a": np.random.rand(10, 3).astype(np.float32), "b": np.random.rand(10, 2, 2).astype(np.float32)}
    with ArrayFiles(tmp_path / out, {name: array.shape for name, array in wanted.items()}) as files:
        for start in (4, 0, 8):
            for name, array in wanted.items():
                files.write(name, start, array[start : start + 4])
        assert all(path.name.endswith(".tmp") for path in tmp_path.iterdir())
        files.commit()
    for name, array in wanted.items():
        if out == "x.npy":
            np.testing.assert_array_equal(np.load(tmp_path / f"x-{name}.npy"), array)
        else:
            with safe_open(tmp_path / out, "np") as tensors:
                np.testing.assert_array_equal(tensors.get_tensor(name), array)


@pytest.mark.slow
def test_memory_does_not_grow_with_what_is_written(tmp_path: Path) -> None:
    """400 MB go to disk, and not through memory."""
    script = f"""
import resource, numpy as np
from pathlib import Path
from tasks.features.array_files import ArrayFiles
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = np.ones((10, 100_000), np.float32)
with ArrayFiles(Path({str(tmp_path / "x.safetensors")!r}), {{"a": (1000, 100_000)}}) as files:
    for start in range(0, 1000, 10):
        files.write("a", start, rows)
    files.commit()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (tmp_path / "x.safetensors").stat().st_size > 400e6
    assert int(done.stdout) < 50_000  # kB


@pytest.mark.parametrize("out", ["f.npy", "f.safetensors"])
def test_ctrl_c_leaves_nothing_behind(
    cli: Cli, checkpoint: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    calls = 0

    def interrupt_the_second_batch(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return image_features(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(features, "image_features", interrupt_the_second_batch)
    result = cli("extract", checkpoint, "--data", images, "--out", tmp_path / out, "--workers", 0, "--batch-size", 2)
    assert (result.code, calls) == (75, 2)
    assert "nothing was written" in result.err
    assert not list(tmp_path.iterdir())


def test_what_stood_there_stays_until_the_new_file_is_whole(
    cli: Cli, checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    before = extracted(cli, checkpoint, images, tmp_path / "f.npy")
    broken = shutil.copytree(images, tmp_path / "broken")
    (broken / "dog" / "b.png").write_bytes(b"\x89PNG")
    result = cli(
        "extract", checkpoint, "--data", broken, "--out", tmp_path / "f.npy", "--workers", 0, "--batch-size", 1
    )
    assert result.code == 2
    np.testing.assert_array_equal(np.load(tmp_path / "f.npy"), before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "f.json", "f.npy"]


# --- Refusals.


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_with_the_way_out(
    cli: Cli, checkpoint: Path, images: Path, tmp_path: Path, workers: int
) -> None:
    broken = shutil.copytree(images, tmp_path / "broken")
    (broken / "dog" / "a.png").write_bytes(b"no image")
    command = ["extract", checkpoint, "--data", broken, "--out", tmp_path / "f.npy", "--workers", workers]
    result = cli(*command)
    assert (result.code, result.out) == (2, "")
    assert len(result.err.splitlines()) == 1
    assert "dog/a.png" in result.err
    assert "--skip-broken" in result.err

    assert cli(*command, "--skip-broken").code == 0
    about = json.loads((tmp_path / "f.json").read_text())
    assert about["names"] == [name for name in NAMES if name != "dog/a.png"]
    kept = [NAMES.index(name) for name in about["names"]]
    np.testing.assert_allclose(np.load(tmp_path / "f.npy"), by_hand(checkpoint, images)[kept, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "f.csv"], ["f.csv", ".npy or .safetensors"]),
        (["--out", "nowhere/f.npy"], ["nowhere"]),
        (["--data", "nowhere"], ["--data nowhere", "no such"]),
        (["--data", "empty"], ["empty", "no images"]),
        (["--data", "checkpoint.pth"], ["checkpoint.pth", "folder of images or a .tar"]),
        (["--features", "cls,pach"], ['"pach"', '"patch"']),
        (["--features", ""], ["--features"]),
        (["--layers", "12"], ["--layers 12", "0 to 3"]),
        (["--layers", "last"], ["--layers last", "-1,-4"]),
        (["--norm", "both"], ['"both"', "--norm"]),
        (["--img-size", "33"], ["33x33", "patch size"]),
        (["--img-size", "big"], ["--img-size big", "224"]),
        (["--img-size", "32x32x3"], ["--img-size 32x32x3"]),
        (["--batch-size", "0"], ["--batch-size 0"]),
        (["--workers", "-1"], ["--workers -1"]),
        (["--precision", "fp8"], ['"fp8"', "--precision"]),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    cli: Cli,
    checkpoint: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "checkpoint.pth").write_bytes(b"x")
    defaults = {"--data": str(images), "--out": "f.npy", options[0]: options[1]}
    result = cli("extract", checkpoint, *(word for pair in defaults.items() for word in pair))
    assert (result.code, result.out) == (2, "")
    assert len(result.err.splitlines()) == 1, result.err
    for word in words:
        assert word in result.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pth", "empty"]


def test_cls_of_an_encoder_without_class_token_is_refused(cli: Cli, images: Path, tmp_path: Path) -> None:
    encoder = create_encoder("vit_micro_patch8", img_size=32, class_token=False, global_pool="avg", fc_norm=False)
    save_tensors(tmp_path / "no_cls.safetensors", encoder.state_dict(), {})
    command = ["extract", tmp_path / "no_cls.safetensors", "--data", images, "--out", tmp_path / "f.npy"]
    result = cli(*command)
    assert result.code == 2
    assert "has no class token: give own, mean or patch" in result.err
    assert cli(*command, "--features", "mean", "--workers", 0).code == 0


def test_a_disk_that_is_too_full_is_noticed_before_any_work(
    cli: Cli, checkpoint: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))  # type: ignore[attr-defined]
    result = cli("extract", checkpoint, "--data", images, "--out", tmp_path / "f.npy")
    assert result.code == 2
    assert "GB are free" in result.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", ["f.npy", "f.safetensors"])
def test_a_disk_that_fills_up_on_the_way_is_one_line_and_leaves_nothing(
    cli: Cli, checkpoint: Path, images: Path, tmp_path: Path, out: str
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as small as a full disk
    try:
        result = cli("extract", checkpoint, "--data", images, "--out", tmp_path / out, "--workers", 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    assert f"--out {tmp_path / out}: cannot write (File too large)" in result.err
    assert not list(tmp_path.iterdir())
