"""Jobs as processes of this machine, a record's job once more, and what `status` says: through the command line, for real."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mae_bench.records.record import find
from tests.conftest import Result
from tests.end_to_end.tiny import EMBEDDED, FEW_STEPS, checkpoints, spawn

Cli = Callable[..., Result]
SUITE = """
pretrain: pretrain/vit_micro_patch8_embedded
jobs: [{recipe: finetune/vit_micro_patch8_embedded, init: [scratch, checkpoint]}]
tables: [table3]
"""
SCRATCH = ["run", "--scratch", "vit_micro_patch8", "--tasks", "finetune", *EMBEDDED, *FEW_STEPS]


def suite(folder: Path) -> list[str]:
    (folder / "s.yaml").write_text(SUITE)
    return ["run", "--suite", str(folder / "s.yaml"), *EMBEDDED, *FEW_STEPS]


@pytest.mark.slow
def test_jobs_share_devices_in_the_order_that_they_depend_on_each_other(cli: Cli, tmp_path: Path) -> None:
    """The devices are made up: each process is told its own, and computes on the CPU."""
    result = cli(*suite(tmp_path), "--launcher", "gpus", "--gpus", "6,7", "--out", tmp_path / "runs")
    assert result.code == 0, result.err
    said = result.err.splitlines()
    names = {"pretrain": "pretrain/vit_micro_patch8_embedded-scratch-s0"}
    names |= {method: f"finetune/vit_micro_patch8_embedded-{method}-s0" for method in ("scratch", "MAE")}
    assert {f"{names['pretrain']}: started on 6", f"{names['scratch']}: started on 7"} <= set(said)
    begun = next(i for i, line in enumerate(said) if line.startswith(f"{names['MAE']}: started on"))
    assert said.index(f"{names['pretrain']}: done") < begun
    assert "MAE - scratch" in result.out
    assert sorted(record.name for record in find(tmp_path / "runs")) == sorted(names.values())
    shown = cli(*suite(tmp_path), "--dry-run", "--out", tmp_path / "runs")
    assert "3 jobs: 3 done" in shown.out


@pytest.mark.slow
def test_one_job_on_two_devices_is_one_distributed_run(cli: Cli, tmp_path: Path) -> None:
    flags = ["--launcher", "gpus", "--gpus", "0,1", "--gpus-per-job", "2"]
    assert cli(*SCRATCH, *flags, "--out", tmp_path).code == 0
    (record,) = find(tmp_path)
    assert record.device.count == 2


@pytest.mark.slow
def test_what_fails_is_said_last_and_what_waits_for_it_is_not_run(cli: Cli, tmp_path: Path) -> None:
    broken = ["--set", "pretrain:mae.mask_ratio=0.999"]
    for launcher in (["--launcher", "gpus", "--gpus", "0,1"], []):
        result = cli(*suite(tmp_path), *broken, *launcher, "--out", tmp_path / "runs")
        assert result.code == 1
        said = result.err.splitlines()
        assert said[-1].startswith("failed: pretrain/vit_micro_patch8_embedded-scratch-s0: ")
        assert "leaves none of 36 patches" in said[-1]
        assert said[-2].startswith("not run: finetune/vit_micro_patch8_embedded-MAE-s0: starts from pretrain/")
        states = {job["name"]: job for job in json.loads(cli("status", tmp_path / "runs", "--json").out)}
        assert states["finetune/vit_micro_patch8_embedded-MAE-s0"]["state"] == "not run"
        assert states["finetune/vit_micro_patch8_embedded-scratch-s0"]["state"] == "done"
        assert "leaves none of 36 patches" in states["pretrain/vit_micro_patch8_embedded-scratch-s0"]["error"]


@pytest.mark.slow
def test_a_signal_reaches_the_jobs_and_the_same_command_goes_on(cli: Cli, tmp_path: Path) -> None:
    command = [
        *SCRATCH,
        "--set",
        "schedule.epochs=40",
        "--set",
        "train.checkpoint_every_steps=5",
        "--out",
        tmp_path / "a",
    ]
    launcher = spawn(*command, "--launcher", "gpus", "--gpus", "0")
    deadline = time.monotonic() + 120
    while not checkpoints(tmp_path / "a"):
        assert launcher.poll() is None, launcher.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=60)
    assert launcher.returncode == 75
    assert [job["state"] for job in json.loads(cli("status", tmp_path / "a", "--json").out)] == ["interrupted"]
    assert cli(*command).code == 0
    assert "resumed 1 times" in find(tmp_path / "a")[0].warnings


@pytest.mark.slow
def test_a_records_job_once_more_gets_the_same_bits(cli: Cli, tmp_path: Path) -> None:
    assert cli(*SCRATCH, "--seeds", "3", "--out", tmp_path / "runs").code == 0
    (first,) = find(tmp_path / "runs")
    again = cli("run", "--from", first.path, "--out", tmp_path / "again", "--json")
    assert again.code == 0, again.err
    rows = json.loads(again.out)["metrics"]
    assert {row["metric"] for row in rows} == {*first.metrics.last, "final_loss"}
    assert {row["difference"] for row in rows} == {0.0}
    (second,) = find(tmp_path / "again")
    assert second.job_id == first.job_id
    assert first.path
    assert second.path
    models = [path.with_name("model.safetensors").read_bytes() for path in (first.path, second.path)]
    assert models[0] == models[1]


@pytest.mark.slow
def test_a_record_whose_checkpoint_has_changed_is_not_run_again(cli: Cli, tmp_path: Path) -> None:
    made = cli(*suite(tmp_path), "--out", tmp_path / "runs")
    assert made.code == 0, made.err
    record = next(r for r in find(tmp_path / "runs") if r.init.method == "MAE")
    assert record.path
    assert record.init.checkpoint
    Path(record.init.checkpoint).unlink()
    gone = cli("run", "--from", record.path, "--out", tmp_path / "again")
    assert gone.code == 2
    assert "is not there: put the file back" in gone.err
    refused = cli("run", "--from", record.path, "--suite", "smoke", "--out", tmp_path / "again")
    assert refused.code == 2
    assert "only --out and --data go with it" in refused.err


@pytest.mark.slow
def test_watching_ends_when_nothing_is_under_way(cli: Cli, tmp_path: Path) -> None:
    assert cli(*SCRATCH, "--out", tmp_path).code == 0
    watched = cli("status", tmp_path, "--watch")
    assert watched.code == 0
    assert watched.out.splitlines()[0].startswith("finetune/vit_micro_patch8_embedded-scratch-s0: done 8/8 top1 ")
    assert watched.out.splitlines()[-1] == "1 done"
