"""Detection through the command line: killed in training and in evaluation, on two processes, and evaluated again alone."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from backbones.vit.encoder import create_encoder
from mae_bench.engine import evaluate as evaluation
from mae_bench.engine.trainer import Trainer
from tests.end_to_end.forked import Child
from tests.end_to_end.tiny import EMBEDDED, spawn

pytestmark = pytest.mark.slow
TINY = [
    *EMBEDDED,  # 5 validation images: an odd count
    *("--tasks", "detection", "--set", "train.eval_batch_size=1", "--set", "detection.test_score_thresh=0.0"),
    *("--set", "train.checkpoint_every_steps=1", "--set", "detection.pictures=2", "--set", "train.batch_size=2"),
]
TRAIN = ["run", "--scratch", "vit_micro_patch8", *TINY, "--set", "schedule.iterations=4"]
TRAIN += ["--set", "schedule.warmup_iterations=1"]


def record(out: Path) -> Any:
    return json.loads(next(out.rglob("record.json")).read_text())


def results(out: Path) -> Any:
    return json.loads(next(out.rglob("coco_instances_results.json")).read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    child = Child(folder / "err.txt", *TRAIN, "--out", folder / "run")
    assert child.wait() == 0, child.err
    return folder / "run"


def killed_in_training() -> None:
    step = Trainer.step

    def faulty(self: Trainer, number: int, *rest: Any, **more: Any) -> Any:
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, number, *rest, **more)

    Trainer.step = faulty  # type: ignore[method-assign, assignment]


def killed_in_evaluation() -> None:
    fetch, seen = evaluation.raise_if_failed, []

    def faulty(batch: Any) -> Any:
        seen.append(1)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return fetch(batch)

    evaluation.raise_if_failed = faulty


@pytest.mark.parametrize("fault", [killed_in_training, killed_in_evaluation])
def test_killed_and_begun_again_it_ends_the_same(whole: Path, tmp_path: Path, fault: Callable[[], None]) -> None:
    out = tmp_path / "run"
    assert Child(tmp_path / "err.txt", *TRAIN, "--out", out, hook=fault).wait() == -signal.SIGKILL
    assert not list(out.rglob("record.json"))
    again = Child(tmp_path / "err.txt", *TRAIN, "--out", out)
    assert again.wait() == 0, again.err
    assert "resuming at step" in again.err
    assert record(out)["metrics"] == record(whole)["metrics"]
    assert results(out) == results(whole)
    weights = [next(folder.rglob("model.safetensors")).read_bytes() for folder in (out, whole)]
    assert weights[0] == weights[1]
    assert len(list(out.rglob("predictions/*.png"))) == 2


def test_a_trained_run_is_evaluated_alone_on_one_and_on_two_processes(whole: Path, tmp_path: Path) -> None:
    """Five images over two processes count once each, and the figures are those of the run itself."""
    alone = ["run", "--checkpoint", next(whole.rglob("model.safetensors")).parent, *TINY]
    alone += ["--set", "schedule.iterations=0"]
    one = Child(tmp_path / "err.txt", *alone, "--out", tmp_path / "one")
    assert one.wait() == 0, one.err
    process = spawn(*alone, "--out", tmp_path / "two", processes=2)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert record(tmp_path / "two")["device"]["count"] == 2
    for name in ("one", "two"):
        found = record(tmp_path / name)
        assert found["metrics"]["last"] == record(whole)["metrics"]["last"]
        assert found["data"]["train_count"] == 0
        assert results(tmp_path / name) == results(whole)
        assert found["inference_s_per_image"] > 0
    assert len(results(whole)) > 5


def test_an_encoder_without_heads_cannot_be_evaluated_alone(whole: Path, tmp_path: Path) -> None:
    torch.save({"model": create_encoder("vit_micro_patch8", img_size=96).state_dict()}, tmp_path / "encoder.pth")
    command = ["run", "--checkpoint", tmp_path / "encoder.pth", *TINY, "--set", "schedule.iterations=0"]
    child = Child(tmp_path / "err.txt", *command, "--out", tmp_path / "run")
    assert child.wait() == 1
    assert "holds no trained detection heads" in child.err
