"""Two processes under torchrun on the CPU do what one does."""

from __future__ import annotations

import json
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
