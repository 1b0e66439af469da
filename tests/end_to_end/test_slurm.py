"""The Slurm launcher on a real cluster of one node: dependencies, arrays, requeueing; skipped where Slurm is not installed.

Clients run in this process; each job is a process of its own, which takes seconds to start: so few of them.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from mae_bench.records.record import find
from tests.conftest import Result
from tests.end_to_end import slurm_cluster
from tests.end_to_end.tiny import EMBEDDED, FEW_STEPS

pytestmark = pytest.mark.slow

SUITE = """
pretrain: pretrain/vit_micro_patch8_embedded
jobs: [{recipe: finetune/vit_micro_patch8_embedded, init: [INITS]}]
tables: [table3]
"""
SLURM = ["--launcher", "slurm", "--slurm", "gpus_per_node=0,cpus_per_task=1,signal_delay_s=10"]
Cli = Callable[..., Result]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    if reason := slurm_cluster.why_not():
        pytest.skip(reason)
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")) as started:
        yield started.environment


@pytest.fixture
def bench(cluster: Mapping[str, str], cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """``bench("status", …)`` runs the command line among the cluster's clients."""
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, cluster[name])
    return cli


def states(bench: Cli, out: Path) -> dict[str, str]:
    return {job["name"]: job["state"] for job in json.loads(bench("status", out, "--json").out)}


def slurm(cluster: Mapping[str, str], *command: str) -> str:
    return subprocess.run(command, env=dict(cluster), capture_output=True, text=True, check=True).stdout


def wait_until(true: Callable[[], bool], seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def suite(folder: Path, inits: str) -> list[str]:
    (folder / "s.yaml").write_text(SUITE.replace("INITS", inits))
    return ["run", "--suite", str(folder / "s.yaml"), *EMBEDDED, *FEW_STEPS, *SLURM]


def test_a_suite_runs_with_its_dependencies_and_what_waits_is_queued(bench: Cli, tmp_path: Path) -> None:
    command = [*suite(tmp_path, "checkpoint"), "--seeds", "0,1"]
    submitted = bench(*command, "--out", tmp_path / "runs")
    assert submitted.code == 0, submitted.err
    assert submitted.err.count("queued as ") == 3
    waiting = states(bench, tmp_path / "runs")
    assert set(waiting.values()) <= {"queued", "running", "done"}
    assert waiting["finetune/vit_micro_patch8_embedded-MAE-s0"] == "queued"

    again = bench(*command, "--wait", "--out", tmp_path / "runs")  # nothing is submitted twice
    assert again.code == 0, again.err
    assert again.err.count("in the queue already") + again.err.count("done already") == 3
    assert set(states(bench, tmp_path / "runs").values()) == {"done"}
    runs = {(r.protocol, r.init.method, r.seed) for r in find(tmp_path / "runs")}
    assert runs == {("pretrain", "scratch", 0), ("finetune", "MAE", 0), ("finetune", "MAE", 1)}
    assert "MAE" in again.out


def test_what_starts_from_a_failed_pretraining_does_not_run(bench: Cli, tmp_path: Path) -> None:
    bad = ["--set", "pretrain:mae.mask_ratio=0.999"]
    result = bench(*suite(tmp_path, "scratch, checkpoint"), *bad, "--wait", "--out", tmp_path / "r")
    assert result.code == 1
    said = result.err.splitlines()
    assert any(line.startswith("failed: pretrain/vit_micro_patch8_embedded-scratch-s0: ") for line in said)
    assert any(line.startswith("not run: finetune/vit_micro_patch8_embedded-MAE-s0: starts from") for line in said)
    assert [r.init.method for r in find(tmp_path / "r")] == ["scratch"]


LONG = [
    *("--scratch", "vit_micro_patch8", "--tasks", "finetune", *EMBEDDED, *FEW_STEPS, "--seeds", "0,1"),
    *("--set", "schedule.epochs=25", "--set", "train.checkpoint_every_steps=5"),
]


def test_preempted_jobs_of_an_array_resume_and_end_as_undisturbed_ones(
    cluster: Mapping[str, str], bench: Cli, tmp_path: Path
) -> None:
    """One by ``scontrol requeue``, one by the signal that comes before the time limit."""
    out = tmp_path / "runs"
    submitted = bench("run", *LONG, *SLURM, "--out", out)
    assert submitted.code == 0, submitted.err
    first, second = (line.split()[-1] for line in submitted.err.splitlines() if "queued as" in line)
    wait_until(lambda: len({path.parent for path in out.rglob("step_*.pt")}) == 2)
    slurm(cluster, "scontrol", "requeue", first)
    slurm(cluster, "scancel", "--signal=USR1", second)  # to the steps, as Slurm does before a time limit
    whole = bench("run", *LONG, "--out", tmp_path / "whole")  # by hand
    assert whole.code == 0, whole.err
    wait_until(lambda: len(list(out.rglob("record.json"))) == 2)
    assert all("resumed 1 times" in record.warnings for record in find(out))
    wait_until(lambda: not slurm(cluster, "squeue", "-h", "-j", f"{first},{second}", "-t", "R,CG,PD"), 60)
    weights = [
        {p.parent.name: p.read_bytes() for p in of.rglob("model.safetensors")} for of in (out, tmp_path / "whole")
    ]
    assert weights[0] == weights[1]
    assert len(weights[0]) == 2
