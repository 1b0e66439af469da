"""What users get wrong: one clear line on stderr, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.conftest import Result
from tests.end_to_end.tiny import EMBEDDED, PRETRAIN

Cli = Callable[..., Result]


def refused(result: Result, *words: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr with these words."""
    assert result.code == 2, result
    assert result.out == ""
    lines = [line for line in result.err.splitlines() if line]
    assert len(lines) == 1, result.err
    for word in words:
        assert word in lines[0], lines[0]


def class_folders(root: Path, broken: bool = False) -> Path:
    """Two classes of four images in each of train and val; one training image cut short when `broken`."""
    for split in ("train", "val"):
        for label, name in enumerate(("cat", "dog")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (40, 40), (90 * label, 20 * i, 50)).save(folder / f"{i}.jpg", quality=95)
    if broken:
        path = root / "train" / "dog" / "2.jpg"
        path.write_bytes(path.read_bytes()[:200])
    return root


SMALL = ["--set", "train.batch_size=4", "--set", "schedule.epochs=1", "--set", "schedule.warmup_epochs=0"]
FINETUNE = ["run", "--scratch", "vit_micro_patch4", "--tasks", "finetune", *SMALL, "--set", "train.workers=0"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "task"], ['unknown listing "task"', '"tasks"']),
        (["pretrain", "pretrain/vit_micro_patch8_embeded"], ["unknown recipe", '"pretrain/vit_micro_patch8_embedded"']),
        (["pretrain", "nowhere.yaml"], ["nowhere.yaml", "no such file"]),
        (["pretrain", "finetune/vit_micro_patch8_embedded"], ["is for classification", "mae-bench run"]),
        ([*PRETRAIN, "--set", "optimizer.blrr=1"], ['unknown key "optimizer.blrr"', '"optimizer.blr"']),
        ([*PRETRAIN, "--set", "mae.mask_ration=0.5"], ['"mae.mask_ratio"']),
        ([*PRETRAIN, "--set", "schedule.epochs=many"], ["--set schedule.epochs=many", "schedule.epochs"]),
        ([*PRETRAIN, "--set", "schedule.epochs"], ["--set schedule.epochs", "key=value"]),
        ([*PRETRAIN, "--set", "encoder.arch=vit_basee_patch16"], ["vit_basee_patch16", "vit_base_patch16"]),
        ([*PRETRAIN, "--set", "encoder.img_size=50"], ["50x50", "patch size"]),
        ([*PRETRAIN, "--set", "train.precision=fp8"], ['unknown word "fp8"', "train.precision"]),
        ([*PRETRAIN, "--set", "optimizer.name=adam"], ['unknown word "adam" in optimizer.name', '"adamw"']),
        (["pretrain", "pretrain/vit_micro_patch4_cifar10"], ["cifar10", "--data cifar10=DIR"]),
        (
            ["pretrain", "pretrain/vit_micro_patch4_cifar10", "--data", "/nowhere"],
            ["/nowhere", "no such file or folder"],
        ),
        (["run", "--scratch", "vit_micro_patch8", "--tasks", "finetun"], ['unknown task "finetun"', '"finetune"']),
        (["run", "--scratch", "vit_micr_patch8", "--tasks", "finetune"], ["vit_micr_patch8", "vit_micro_patch8"]),
        (["run", "--tasks", "finetune"], ["--checkpoint", "--scratch"]),
        (["run", "--suite", "quikstart"], ['unknown suite "quikstart"', '"quickstart"']),
        (["run", "--scratch", "vit_micro_patch8", "--tasks", "linear", "--seeds", "0,x"], ["--seeds 0,x"]),
        (["run", "--checkpoint", "/nowhere.pth", "--tasks", "linear"], ["/nowhere.pth", "no such checkpoint"]),
    ],
)
def test_unknown_names_and_keys_are_named_with_the_nearest(
    cli: Cli, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    out = tmp_path / "out"
    refused(cli(*arguments, *([] if arguments[0] == "list" else ["--out", out])), *words)
    assert not out.exists()


def test_an_unknown_table_is_named(cli: Cli, tmp_path: Path) -> None:
    refused(cli("table", "tabel3", "--runs", tmp_path), "tabel3", "table3")


def test_debug_shows_the_traceback(cli: Cli, tmp_path: Path) -> None:
    result = cli("--debug", "pretrain", "nowhere.yaml", "--out", tmp_path / "x")
    assert result.code == 2
    assert "Traceback" in result.err
    assert result.err.rstrip().splitlines()[-1].startswith("error: ")


def test_an_empty_data_folder_is_named(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    refused(cli("pretrain", "pretrain/vit_micro_patch4_cifar10", "--data", tmp_path / "empty", "--out", out), "empty")
    assert not out.exists()


def test_a_folder_without_splits_is_told_what_is_expected(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "data" / "cats").mkdir(parents=True)
    command = ["pretrain", "pretrain/vit_micro_patch4_cifar10", "--data", tmp_path / "data"]
    refused(cli(*command, "--out", tmp_path / "out"), "train.tar", "one folder a class")


def test_a_truncated_training_image_is_named_and_stops_the_job(cli: Cli, tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", broken=True)
    result = cli(*FINETUNE, "--data", f"cifar10={data}", "--out", tmp_path / "out")
    assert result.code == 1
    line = next(line for line in result.err.splitlines() if line.startswith("failed:"))
    assert "train/dog/2.jpg" in line
    assert "data.skip_broken=true" in line
    assert not list(tmp_path.glob("out/**/record.json"))


def test_unreadable_training_images_are_left_out_and_counted_when_asked_for(cli: Cli, tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", broken=True)
    command = [*FINETUNE, "--set", "data.skip_broken=true", "--data", f"cifar10={data}"]
    result = cli(*command, "--out", tmp_path / "out", "--json")
    assert result.code == 0, result.err
    record = json.loads(result.out)[0]
    assert record["data"]["train_count"] == 7
    assert record["data"]["notes"] == ["1 unreadable training images left out"]


def test_a_val_class_that_training_lacks_is_named(cli: Cli, tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data")
    shutil.copytree(data / "val" / "cat", data / "val" / "cow")
    result = cli(*FINETUNE, "--data", f"cifar10={data}", "--out", tmp_path / "out")
    assert result.code == 1
    assert "'cow' is not in the training split" in result.err


@pytest.mark.parametrize("content", [b"not a checkpoint", b""])
def test_a_file_that_is_no_checkpoint_is_refused(cli: Cli, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    refused(cli("run", "--checkpoint", path, "--tasks", "linear", "--out", tmp_path / "out"), "x.pth")
    assert not (tmp_path / "out").exists()


def test_a_convolutional_net_is_refused(cli: Cli, tmp_path: Path) -> None:
    torch.save({"model": torch.nn.Conv2d(3, 8, 3).state_dict()}, tmp_path / "conv.pth")
    command = ["run", "--checkpoint", tmp_path / "conv.pth", "--tasks", "linear", "--out", tmp_path / "out"]
    refused(cli(*command), "conv.pth is not a ViT")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_folder_that_is_read_only_is_named(cli: Cli, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
    refused(cli(*PRETRAIN, "--out", locked / "out"), "locked", "not writable")


def test_an_output_path_below_a_file_is_named(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    refused(cli(*PRETRAIN, "--out", tmp_path / "file" / "out"), str(tmp_path / "file"))
    refused(
        cli("run", "--scratch", "vit_micro_patch8", "--tasks", "linear", "--out", tmp_path / "file" / "out"),
        str(tmp_path / "file"),
    )


def test_an_output_folder_with_other_files_is_refused_and_left_alone(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("x")
    refused(cli(*PRETRAIN, "--out", out), "holds no run")
    assert [p.name for p in out.iterdir()] == ["thesis.tex"]


def test_one_failing_job_does_not_stop_the_others(cli: Cli, tmp_path: Path) -> None:
    data = class_folders(tmp_path / "data", broken=True)
    command = ["run", "--scratch", "vit_micro_patch4", "--tasks", "finetune,linear", *SMALL, "--set", "train.workers=0"]
    # The linear probe leaves the broken image out, fine-tuning meets it.
    scoped = ["--set", "linear:data.skip_broken=true"]
    result = cli(*command, *scoped, "--data", f"cifar10={data}", "--out", tmp_path / "out")
    assert result.code == 1
    states = {j["name"].split("/")[0]: j["state"] for j in json.loads(cli("status", tmp_path / "out", "--json").out)}
    assert states == {"finetune": "failed", "linear": "done"}


def test_status_of_a_folder_without_runs(cli: Cli, tmp_path: Path) -> None:
    refused(cli("status", tmp_path), "holds no runs")


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_missing_extra_says_what_to_install(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    monkeypatch.setattr("tasks.find_spec", lambda name: None)
    command = ["run", "--scratch", "vit_micro_patch8", "--tasks", task, *EMBEDDED]
    refused(cli(*command, "--out", tmp_path / "out"), f"pip install 'mae-bench[{task}]'")
