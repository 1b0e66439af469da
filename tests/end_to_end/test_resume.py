"""A run that is interrupted goes on where it was and ends with the same weights, bit for bit."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Result
from tests.end_to_end.tiny import PRETRAIN, checkpoints, spawn

Cli = Callable[..., Result]
SMALL = [*PRETRAIN, "--set", "data.limit_train=80", "--set", "train.batch_size=8"]
LONG = [*SMALL, "--set", "schedule.epochs=8", "--set", "train.checkpoint_every_steps=7"]


@pytest.mark.slow
def test_a_killed_process_reads_as_interrupted_and_goes_on(cli: Cli, tmp_path: Path) -> None:
    """A process of its own; the faults in `test_faults` hit forks of the test's."""
    assert cli(*LONG, "--out", tmp_path / "whole").code == 0
    process = spawn(*LONG, "--out", tmp_path / "killed")
    deadline = time.monotonic() + 120
    while not checkpoints(tmp_path / "killed"):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert [j["state"] for j in json.loads(cli("status", tmp_path / "killed", "--json").out)] == ["interrupted"]
    again = cli(*LONG, "--out", tmp_path / "killed")
    assert again.code == 0
    assert "resuming at step" in again.err
    weights = [(tmp_path / name / "mae.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]


def test_the_number_of_checkpoints_kept_is_bounded(cli: Cli, tmp_path: Path) -> None:
    assert cli(*SMALL, "--set", "train.checkpoint_every_steps=1", "--out", tmp_path / "a").code == 0
    assert [p.name for p in checkpoints(tmp_path / "a")] == ["step_00000019.pt", "step_00000020.pt"]


def test_the_same_job_is_done_once(cli: Cli, tmp_path: Path) -> None:
    assert cli(*SMALL, "--out", tmp_path / "a").code == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*") if p.is_file()}
    again = cli(*SMALL, "--out", tmp_path / "a")
    assert again.code == 0
    assert "done already" in again.err
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*") if p.is_file()} == before


def test_a_folder_of_another_recipe_is_refused_and_left_alone(cli: Cli, tmp_path: Path) -> None:
    assert cli(*SMALL, "--out", tmp_path / "a").code == 0
    before = (tmp_path / "a" / "config.yaml").read_text()
    other = cli(*SMALL, "--set", "mae.mask_ratio=0.5", "--out", tmp_path / "a")
    assert other.code == 2
    assert "belongs to another recipe" in other.err
    assert len(other.err.splitlines()) == 1
    assert (tmp_path / "a" / "config.yaml").read_text() == before
