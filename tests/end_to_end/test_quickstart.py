"""The quickstart's suite, with data and schedules cut down: every part joined up, the tables, and nothing done twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mae_bench.records.record import find
from tests.conftest import Result
from tests.end_to_end.tiny import EMBEDDED

Cli = Callable[..., Result]
SHORT = [
    *("--set", "train.batch_size=4", "--set", "pretrain:schedule.epochs=0.2", "--set", "linear:schedule.epochs=1"),
    *("--set", "knn:knn.k=[5]"),
    *("--set", "finetune:schedule.epochs=1", "--set", "detection:schedule.iterations=2"),
    *("--set", "segmentation:schedule.iterations=2"),
]
QUICKSTART = ["run", "--suite", "quickstart", *EMBEDDED, *SHORT]


@pytest.mark.slow
def test_every_task_runs_from_scratch_and_pre_trained_and_fills_the_tables(cli: Cli, tmp_path: Path) -> None:
    first = cli(*QUICKSTART, "--out", tmp_path)
    assert first.code == 0, first.err
    heading = first.out.splitlines()[0].split("  ")
    assert [word.strip() for word in heading if word] == ["task", "metric", "scratch", "MAE", "MAE, shipped"]
    assert first.out.splitlines()[-1].startswith(f"  mae-bench report --runs {tmp_path}")
    assert max(map(len, first.out.splitlines())) < 80 + len(str(tmp_path)) * 2

    records = find(tmp_path)
    done = {(r.protocol, r.init.method) for r in records}
    tasks = ("knn", "linear", "finetune", "detection", "segmentation")
    starts = ("scratch", "MAE", "MAE, shipped")
    assert done == {("pretrain", "scratch")} | {(t, m) for t in tasks for m in starts}
    assert len({(r.init.method, r.init.sha256) for r in records if r.init.sha256}) == 2  # one encoder a method

    table = json.loads(cli("table", "table4", "--runs", tmp_path, "--format", "json").out)
    ours = {row["method"] for row in table["rows"] if any(c["ours_mean"] is not None for c in row["cells"].values())}
    assert ours == {"scratch", "MAE", "MAE, shipped"}

    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and p.name != "plan.json"}
    again = cli(*QUICKSTART, "--out", tmp_path)
    assert again.out == first.out
    assert again.err.count("done already") == 16
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert cli("status", tmp_path).out.splitlines()[-1] == "16 done"


@pytest.mark.slow
def test_seeds_become_mean_and_deviation(cli: Cli, tmp_path: Path) -> None:
    command = ["run", "--scratch", "vit_micro_patch8", "--tasks", "finetune", *EMBEDDED]
    short = ["--set", "schedule.epochs=1", "--set", "train.batch_size=8"]
    result = cli(*command, *short, "--seeds", "0,1", "--out", tmp_path)
    assert result.code == 0, result.err
    figures = {record.metrics.last["top1"] for record in find(tmp_path)}
    assert ("(n=2)" in result.out) == ("± " in result.out) == (len(figures) == 2)  # equal ones are one figure
    assert len(find(tmp_path)) == 2
