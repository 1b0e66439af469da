"""No text of an option becomes a line of its own in a batch script."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backbones.errors import UserError
from mae_bench.launchers.slurm import _check_folder, _parameters, _places


@pytest.mark.parametrize(
    "given", [{"reservation": "x\ntouch y"}, {"a\ntouch y": "1"}, {"comment": "x\r"}, {"qos": "\x1b"}]
)
def test_control_characters_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(UserError, match="must be one line") as caught:
        _parameters(given)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("folder", "why"),
    [("/runs\n#SBATCH -p x", "must be one line"), ("/a\u2028b/runs", "must be one line"), ("/50%j", "%")],
)
def test_a_folder_that_slurm_would_read_otherwise_is_refused(folder: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        _check_folder(Path(folder))


def test_text_that_a_shell_would_obey_stays_text() -> None:
    assert _parameters({"comment": "x; $(touch y)"})["comment"] == "x; $(touch y)"


@pytest.mark.parametrize(
    ("processes", "given", "places"),
    [
        (64, {"gpus_per_node": "8"}, {"nodes": 8, "gpus_per_node": 8, "ntasks_per_node": 8}),
        (64, {"gpus_per_node": "64"}, {"gpus_per_node": 64, "ntasks_per_node": 64}),
        (8, {}, {"gpus_per_node": 8, "ntasks_per_node": 8}),
        (2, {"gpus_per_node": "0"}, {"gpus_per_node": 2, "ntasks_per_node": 2}),
        (8, {"nodes": "2", "gpus_per_node": "4"}, {"gpus_per_node": 8, "ntasks_per_node": 8}),
    ],
)
def test_nodes_follow_from_what_a_node_has(processes: int, given: dict[str, str], places: dict[str, int]) -> None:
    assert _places(processes, _parameters(given)) == places


def test_processes_that_do_not_fill_the_nodes_are_refused() -> None:
    with pytest.raises(UserError, match="6 processes do not fill nodes of 4"):
        _places(6, _parameters({"gpus_per_node": "4"}))


def test_a_rejected_job_gives_one_line_with_slurms_words(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    for name, text in {
        "sbatch": "echo 'sbatch: error: invalid partition specified: gpus' >&2; exit 1",
        "srun": "",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "squeue").symlink_to("/bin/true")
    (tmp_path / "sinfo").symlink_to("/bin/false")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    job = ["--scratch", "vit_micro_patch8", "--tasks", "knn", "--out", tmp_path / "out", "--launcher", "slurm"]
    said = cli("run", *job, "--slurm", "partition=gpus")
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert "sbatch: error: invalid partition specified: gpus" in said.err


def test_more_nodes_than_there_are_is_said_before_anything_is_submitted(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    for name, text in {"sbatch": "exit 1", "srun": "", "sinfo": "echo a; echo b; echo a"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "squeue").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    job = ["--scratch", "vit_micro_patch8", "--tasks", "knn", "--out", tmp_path / "out", "--launcher", "slurm"]
    said = cli("run", *job, "--slurm", "nodes=3,partition=gpus")
    assert said.code == 2
    assert said.err.startswith("error: --launcher slurm: a job of 3 nodes never starts where gpus has 2: ")
    assert said.err.count("\n") == 1
