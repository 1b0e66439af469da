"""The speed benchmark runs end to end on a model too small to say anything of speed, and names what it leaves out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "pretrain_step.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--arch", "micro", "--batch-size", "2", "--steps", "1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_peers_are_measured_in_one_run_and_absent_ones_named() -> None:
    pytest.importorskip("transformers")
    done = run("--peers", "ours,huggingface,official", "--precisions", "bf16", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result["peers"]) == {"ours", "huggingface"}
    assert "--official" in result["left_out"]["official"]
    ours, theirs = result["peers"]["ours"], result["peers"]["huggingface"]
    for figures in (ours, theirs):
        assert len(figures["seconds"]["bf16"]) == 1
        assert figures["seconds"]["bf16"][0] > 0
        assert figures["peak_bytes"]["bf16"] > 2**27  # torch alone is more
    # The same model, batch and objective: after a few steps the loss is still near the targets' variance.
    assert ours["parameters"] == theirs["parameters"]
    assert ours["loss"]["bf16"] == pytest.approx(1.2, abs=0.4)
    assert theirs["loss"]["bf16"] == pytest.approx(1.2, abs=0.4)
    assert result["flops_per_image"] > 0


def test_unknown_peer_is_an_error_of_the_command_line() -> None:
    done = run("--peers", "ours,theirs")
    assert done.returncode == 2
    assert "theirs: give some of ours, official, huggingface, stable-pretraining" in done.stderr
