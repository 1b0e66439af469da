"""The Slurm launcher on a real cluster of one node: dependencies, arrays, requeueing; skipped where Slurm is not installed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from mae_bench.records.record import find
from tests.end_to_end import slurm_cluster
from tests.end_to_end.tiny import EMBEDDED, FEW_STEPS

pytestmark = pytest.mark.slow

SUITE = """
pretrain: pretrain/vit_micro_patch8_embedded
jobs: [{recipe: finetune/vit_micro_patch8_embedded, init: [scratch, checkpoint]}]
tables: [table3]
"""
SLURM = ["--launcher", "slurm", "--slurm", "gpus_per_node=0,cpus_per_task=1,signal_delay_s=10"]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Mapping[str, str]]:
    if reason := slurm_cluster.why_not():
        pytest.skip(reason)
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")) as started:
        yield {**started.environment, "MAE_BENCH_CACHE": str(cache), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def bench(cluster: Mapping[str, str]) -> Run:
    """``bench("status", …)`` runs the command line among the cluster's clients."""

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mae_bench", *map(str, arguments)],
            env=dict(cluster),
            capture_output=True,
            text=True,
            timeout=240,
        )

    return call


def states(bench: Run, out: Path) -> dict[str, str]:
    return {job["name"]: job["state"] for job in json.loads(bench("status", out, "--json").stdout)}


def slurm(cluster: Mapping[str, str], *command: str) -> str:
    return subprocess.run(command, env=dict(cluster), capture_output=True, text=True, check=True).stdout


def wait_until(true: Callable[[], bool], seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def test_a_suite_runs_with_its_dependencies_and_what_waits_is_queued(bench: Run, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SUITE)
    command = ["run", "--suite", tmp_path / "s.yaml", *EMBEDDED, *FEW_STEPS, *SLURM, "--seeds", "0,1"]
    submitted = bench(*command, "--out", tmp_path / "runs")
    assert submitted.returncode == 0, submitted.stderr
    assert submitted.stderr.count("queued: ") == 5
    waiting = states(bench, tmp_path / "runs")
    assert set(waiting.values()) <= {"queued", "running", "done"}
    assert waiting["finetune/vit_micro_patch8_embedded-MAE-s0"] == "queued"

    again = bench(*command, "--wait", "--out", tmp_path / "runs")  # nothing is submitted twice
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("in the queue already") + again.stderr.count("done already") == 5
    assert set(states(bench, tmp_path / "runs").values()) == {"done"}
    runs = {(r.protocol, r.init.method, r.seed) for r in find(tmp_path / "runs")}
    tuned = {("finetune", method, seed) for method in ("scratch", "MAE") for seed in (0, 1)}
    assert runs == {("pretrain", "scratch", 0)} | tuned
    assert "MAE - scratch" in again.stdout


def test_what_starts_from_a_failed_pretraining_does_not_run(bench: Run, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SUITE)
    bad = ["--set", "pretrain:mae.mask_ratio=0.999"]
    result = bench(
        "run", "--suite", tmp_path / "s.yaml", *EMBEDDED, *FEW_STEPS, *bad, *SLURM, "--wait", "--out", tmp_path / "r"
    )
    assert result.returncode == 1
    said = result.stderr.splitlines()
    assert any(line.startswith("failed: pretrain/vit_micro_patch8_embedded-scratch-s0: ") for line in said)
    assert any(line.startswith("not run: finetune/vit_micro_patch8_embedded-MAE-s0: starts from") for line in said)
    assert [r.init.method for r in find(tmp_path / "r")] == ["scratch"]


LONG = [
    *("--scratch", "vit_micro_patch8", "--tasks", "finetune", *EMBEDDED, *FEW_STEPS),
    *("--set", "schedule.epochs=25", "--set", "train.checkpoint_every_steps=5"),
]


@pytest.fixture(scope="module")
def undisturbed(cluster: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The model of the same run by hand."""
    out = tmp_path_factory.mktemp("whole")
    command = [sys.executable, "-m", "mae_bench", "run", *LONG, "--out", str(out)]
    subprocess.run(command, env=dict(cluster), capture_output=True, timeout=240, check=True)
    return next(out.rglob("model.safetensors")).read_bytes()


@pytest.mark.parametrize("how", ["scontrol requeue", "the signal before the time limit"])
def test_a_preempted_job_resumes_and_ends_as_an_undisturbed_one(
    cluster: Mapping[str, str], bench: Run, undisturbed: bytes, tmp_path: Path, how: str
) -> None:
    out = tmp_path / "runs"
    submitted = bench("run", *LONG, *SLURM, "--out", out)
    assert submitted.returncode == 0, submitted.stderr
    job = submitted.stderr.split()[-1]
    wait_until(lambda: bool(list(out.rglob("step_*.pt"))))
    if how == "scontrol requeue":
        slurm(cluster, "scontrol", "requeue", job)
    else:
        slurm(cluster, "scancel", "--signal=USR1", job)  # to the steps, as Slurm does before a time limit
    wait_until(lambda: bool(list(out.rglob("record.json"))))
    (record,) = find(out)
    assert "resumed 1 times" in record.warnings
    wait_until(lambda: not slurm(cluster, "squeue", "-h", "-j", job, "-t", "R,CG,PD"), 60)

    assert next(out.rglob("model.safetensors")).read_bytes() == undisturbed
