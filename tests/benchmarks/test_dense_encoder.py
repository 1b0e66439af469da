"""The dense encoder's benchmark runs end to end on a model too small to say anything of speed; both compute the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "dense_encoder.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_both_are_measured_in_one_run_and_compute_the_same() -> None:
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    small = ["--arch", "micro", "--img-size", "512", "--rounds", "1", "--repeats", "1", "--precisions", "fp32"]
    done = run(*small, "--modes", "train", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["left_out"] == {}
    ours, theirs = (result["readings"]["fp32 train"][peer] for peer in ("ours", "detectron2"))
    assert len(ours["seconds"]) == len(theirs["seconds"]) == 1
    assert ours["sample"] == pytest.approx(theirs["sample"], abs=1e-4)
    # An attention map of the global block alone is 4 heads x 1,024 x 1,024 floats.
    assert max(ours["bytes"]) < max(theirs["bytes"]) - 2**24


def test_what_cannot_be_is_an_error_of_the_command_line() -> None:
    done = run("--modes", "backward")
    assert done.returncode == 2
    assert "backward: give some of forward, train" in done.stderr
