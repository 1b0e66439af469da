"""The input pipeline's benchmark runs end to end on a few pictures, and says what it measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tasks.pictures import save_picture

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(ROOT / "benchmarks" / "input_pipeline.py"), *map(str, arguments)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, env=env)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["json", "table"])
def test_both_pipelines_are_measured_on_the_same_files(tmp_path: Path, form: str) -> None:
    for k in range(3):
        save_picture(tmp_path / "pictures" / f"{k}.jpg", k, (90, 60))
    small = ("--images", tmp_path / "pictures", "--count", "16", "--long-side", "80", "--size", "32", "--rounds", "2")
    done = run(*small, *(["--json"] if form == "json" else []))
    assert done.returncode == 0, done.stderr
    if form == "table":
        assert done.stdout.count("| pretraining |") == done.stdout.count("| fine-tuning |") == 3
        assert "3 JPEGs, long side 80" in done.stdout
        return
    result = json.loads(done.stdout)
    assert result["files"] == 3
    for figures in result["protocols"].values():
        for readings in figures["images_per_second"].values():
            assert len(readings) == 2
            assert min(readings) > 0
        assert 0 <= figures["levels_apart"] < 2
        assert {"decode", "resize"} <= set(figures["milliseconds"]["ours"])


def test_a_folder_that_is_not_there_is_an_error_of_the_command_line(tmp_path: Path) -> None:
    done = run("--images", tmp_path / "none")
    assert done.returncode == 2
    assert "none: no such folder" in done.stderr
