"""Two processes under torchrun on the CPU do what one does, sharded or not."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch

from tests.conftest import Result
from tests.end_to_end.tiny import EMBEDDED, FEW_STEPS, spawn

RUN = ["run", "--scratch", "vit_micro_patch8", "--tasks", "finetune", *EMBEDDED, *FEW_STEPS, "--json"]
PARTIAL = ("--set", "head.tune_blocks=0.5", "--set", "protocol=partial")


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [(), ("--set", "head.tune_blocks=0.5", "--set", "protocol=partial")], ids=["all", "half a block"]
)
def test_two_processes_train_and_evaluate_like_one(
    cli: Callable[..., Result], tmp_path: Path, settings: tuple[str, ...]
) -> None:
    """21 validation images: an odd count over two processes still counts every image once."""
    one = cli(*RUN, *settings, "--out", tmp_path / "one")
    assert one.code == 0, one.err
    process = spawn(*RUN, *settings, "--out", tmp_path / "two", processes=2)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    single, double = json.loads(one.out)[0], json.loads(out)[0]
    assert single["job_id"] == double["job_id"]
    assert double["device"]["count"] == 2
    assert double["metrics"]["last"]["images"] == single["metrics"]["last"]["images"] == 21
    assert double["metrics"]["last"]["top1"] == single["metrics"]["last"]["top1"]
    # Gradients are summed in another order; nothing else differs.
    assert double["final_loss"] == pytest.approx(single["final_loss"], rel=1e-4)
    weights = [safetensors.torch.load_file(next((tmp_path / n).rglob("model.safetensors"))) for n in ("one", "two")]
    for name, tensor in weights[0].items():
        assert (tensor - weights[1][name]).abs().max() < 1e-4, name


@pytest.mark.slow
def test_a_sharded_run_that_is_killed_goes_on_in_one_process(cli: Callable[..., Result], tmp_path: Path) -> None:
    """Layer decay, a moving average, clipping and accumulation in it; every task and way: `benchmarks/fsdp.py`."""
    more = ("schedule.epochs=6", "train.ema=0.9", "optimizer.clip_grad=0.5", "train.micro_batch_size=5")
    command = [*RUN, *(part for each in (*more, "train.checkpoint_every_steps=2") for part in ("--set", each))]
    one = cli(*command, "--out", tmp_path / "one")
    assert one.code == 0, one.err
    sharded = spawn(*command, "--set", "train.parallel=fsdp", "--out", tmp_path / "two", processes=2)
    end = time.monotonic() + 240
    while not list((tmp_path / "two").rglob("step_*.dcp")):
        assert time.monotonic() < end
        assert sharded.poll() is None, sharded.communicate()
        time.sleep(0.02)
    children = [
        pid for path in Path(f"/proc/{sharded.pid}/task").glob("*/children") for pid in path.read_text().split()
    ]
    assert len(children) == 2
    for pid in children:
        os.kill(int(pid), signal.SIGKILL)
    sharded.communicate(timeout=120)
    again = cli(*command, "--out", tmp_path / "two")
    assert again.code == 0, again.err
    assert "resuming at step" in again.err
    whole, resumed = json.loads(one.out)[0], json.loads(again.out)[0]
    assert resumed["job_id"] == whole["job_id"]
    assert resumed["final_loss"] == pytest.approx(whole["final_loss"], rel=1e-5)
    weights = [safetensors.torch.load_file(next((tmp_path / n).rglob("model.safetensors"))) for n in ("one", "two")]
    assert max(float((tensor - weights[1][name]).abs().max()) for name, tensor in weights[0].items()) < 1e-4
    assert [path.suffix for path in sorted((tmp_path / "two").rglob("step_*[0-9].*"))][-1] == ".pt"
