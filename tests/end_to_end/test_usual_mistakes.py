"""The usual mistakes of a first day, as typed: each answer names the mistake and the way out, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import Result

Cli = Callable[..., Result]

FINETUNE = "run --scratch vit_micro_patch4 --tasks finetune --out T/out"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A beginner's folder: class folders of images, files that are no checkpoints, an empty folder."""
    for split in ("train", "val"):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(2):
                image = Image.new("RGB", (40, 40), (90 * label, 20 * i, 50 + len(split)))
                image.save(tmp_path / "data" / split / name / f"{i}.jpg")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html><body>Sign in</body></html>")
    (tmp_path / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00")
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("line", "words"),
    [
        # a folder above or below the data set, or not there
        (f"{FINETUNE} --data cifar10=T/data/train", ["no train split", "T/data has one"]),
        (f"{FINETUNE} --data cifar10=T/data/train/cat", ["no train split", "T/data has one"]),
        (f"{FINETUNE} --data cifar10=T", ["no train split", "T/data has one"]),
        (f"{FINETUNE} --data cifar10=T/empty", ["T/empty", "the folder is empty"]),
        (f"{FINETUNE} --data cifar10=T/nowhere", ["T/nowhere", "no such file or folder"]),
        # options and names
        ("run --scratch vit_micro_patch4 --task finetune --out T/out", ["No such option", "--tasks"]),
        ("run --suite quickstart", ["Missing option '--out'"]),
        ("run --out T/out", ["--suite", "--tasks"]),
        ("run --suite smoke --tasks finetune --out T/out", ["--suite", "--tasks"]),
        ("run --suite smokes --out T/out", ['"smokes"', '"smoke"']),
        ("run --scratch vit_base --tasks finetune --out T/out", ["vit_base", "vit_SIZE_patchP"]),
        ("run --scratch vit_micro_patch4 --tasks finetuning --out T/out", ['"finetuning"', '"finetune"']),
        (f"{FINETUNE} --seeds 0-2", ["--seeds 0-2", "0,1,2"]),
        (f"{FINETUNE} --set lr=0.1", ['"lr"', "optimizer.lr"]),
        (f"{FINETUNE} --set schedule.epochs", ["--set schedule.epochs", "key=value"]),
        (f"{FINETUNE} --launcher slrum", ["slrum", "slurm"]),
        ("pretrain vit_micro_patch8_embedded --out T/out", ["pretrain/vit_micro_patch8_embedded"]),
        ("pretrain pretrain/vit_micro_patch8_embedded", ["Missing option '--out'"]),
        ("trian", ["No such command 'trian'"]),
        ("list recipe", ['"recipe"', '"recipes"']),
        ("list", ["Missing argument", "tasks", "recipes"]),
        ("run --checkpoint embedded --tasks knn linear --out T/out", ["extra argument", "--tasks knn,linear"]),
        # files that are no checkpoints
        ("run --checkpoint embeded --tasks knn --out T/out", ['"embeded"', '"embedded"']),
        ("inspect T/page.pth", ["page.pth", "web page"]),
        ("inspect T/pointer.pth", ["pointer.pth", "git lfs pull"]),
        ("inspect T/cut.safetensors", ["cut.safetensors"]),
        ("inspect T/nowhere.pth", ["T/nowhere.pth", "no such checkpoint"]),
        ("inspect T/empty", ["T/empty"]),
        # results that are not there
        ("table table3", ["Missing option '--runs'"]),
        ("table 3 --runs T/empty", ['"3"', "table3"]),
        ("table table3 --runs T/nowhere", ["--runs T/nowhere", "no such folder"]),
        ("report --runs T/empty --out T/out.pdf", ["T/out.pdf", ".html"]),
        ("report --runs T/nowhere --out T/out.html", ["--runs T/nowhere", "no such folder"]),
        ("table table3 --runs T/page.pth", ["--runs T/page.pth", "a file", "the folder"]),
        ("status T/page.pth", ["T/page.pth", "a file", "the folder"]),
        ("status T/empty", ["T/empty", "holds no runs"]),
        ("check --runs T/empty --baseline T/out.yaml", ["T/out.yaml", "--update"]),
    ],
)
def test_the_answer_names_the_mistake_and_the_way_out(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, here: Path, line: str, words: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = cli(*(word.replace("T/", f"{here}/").replace("=T", f"={here}") for word in line.split()))
    assert result.code in (1, 2), result
    assert "Traceback" not in result.err
    said = result.err.replace(str(here), "T")
    for word in words:
        assert word in said, said
    assert not list(here.glob("out*/**/record.json"))
