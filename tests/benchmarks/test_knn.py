"""The k-NN benchmark runs end to end on sets too small to say anything of speed, and its methods agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "knn.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_methods_are_measured_in_one_run_and_find_the_same() -> None:
    done = run(
        "--train", "500", "--queries", "60", "--width", "16", "--rounds", "1", "--methods", "ours,matrix", "--json"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["left_out"] == {}
    assert result["agree"] == {"ours": 1.0, "matrix": 1.0}
    for figures in result["methods"].values():
        assert len(figures["seconds"]) == 1
        assert figures["bytes"][0] > 2**26  # torch alone is more


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--methods", "ours,theirs"], "theirs: give some of"),
        (["--train", "5"], "no more neighbours than training images"),
    ],
)
def test_what_cannot_be_is_an_error_of_the_command_line(arguments: list[str], words: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
