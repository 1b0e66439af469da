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
LONG = [*PRETRAIN, "--set", "schedule.epochs=20", "--set", "train.checkpoint_every_steps=7"]


def _interrupt(out: Path, how: signal.Signals) -> int:
    """Starts the long run, sends `how` once a checkpoint is there; the exit code."""
    process = spawn(*LONG, "--out", out)
    deadline = time.monotonic() + 120
    while not checkpoints(out):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(how)
    process.communicate(timeout=60)
    return process.returncode


@pytest.mark.slow
def test_killed_and_stopped_runs_end_as_an_undisturbed_one(cli: Cli, tmp_path: Path) -> None:
    assert cli(*LONG, "--out", tmp_path / "whole").code == 0
    wanted = (tmp_path / "whole" / "mae.safetensors").read_bytes()

    assert _interrupt(tmp_path / "killed", signal.SIGKILL) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "record.json").exists()
    assert [j["state"] for j in json.loads(cli("status", tmp_path / "killed", "--json").out)] == ["interrupted"]
    again = cli(*LONG, "--out", tmp_path / "killed")
    assert again.code == 0
    assert "resuming at step" in again.err
    assert (tmp_path / "killed" / "mae.safetensors").read_bytes() == wanted

    assert _interrupt(tmp_path / "stopped", signal.SIGTERM) == 75
    assert cli(*LONG, "--out", tmp_path / "stopped").code == 0
    assert (tmp_path / "stopped" / "mae.safetensors").read_bytes() == wanted


def test_a_torn_newest_checkpoint_is_passed_over(cli: Cli, tmp_path: Path) -> None:
    command = [*PRETRAIN, "--set", "train.checkpoint_every_steps=5", "--set", "train.keep_checkpoints=3"]
    assert cli(*command, "--out", tmp_path / "a").code == 0
    wanted = (tmp_path / "a" / "mae.safetensors").read_bytes()
    newest = checkpoints(tmp_path / "a")[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    (tmp_path / "a" / "record.json").unlink()
    again = cli(*command, "--out", tmp_path / "a")
    assert again.code == 0
    assert "resuming at step 15 of 20" in again.err
    assert (tmp_path / "a" / "mae.safetensors").read_bytes() == wanted


def test_the_number_of_checkpoints_kept_is_bounded(cli: Cli, tmp_path: Path) -> None:
    assert cli(*PRETRAIN, "--set", "train.checkpoint_every_steps=1", "--out", tmp_path / "a").code == 0
    assert [p.name for p in checkpoints(tmp_path / "a")] == ["step_00000019.pt", "step_00000020.pt"]


def test_the_same_job_is_done_once(cli: Cli, tmp_path: Path) -> None:
    assert cli(*PRETRAIN, "--out", tmp_path / "a").code == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*") if p.is_file()}
    again = cli(*PRETRAIN, "--out", tmp_path / "a")
    assert again.code == 0
    assert "done already" in again.err
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*") if p.is_file()} == before


def test_a_folder_of_another_recipe_is_refused_and_left_alone(cli: Cli, tmp_path: Path) -> None:
    assert cli(*PRETRAIN, "--out", tmp_path / "a").code == 0
    before = (tmp_path / "a" / "config.yaml").read_text()
    other = cli(*PRETRAIN, "--set", "mae.mask_ratio=0.5", "--out", tmp_path / "a")
    assert other.code == 2
    assert "belongs to another recipe" in other.err
    assert len(other.err.splitlines()) == 1
    assert (tmp_path / "a" / "config.yaml").read_text() == before
