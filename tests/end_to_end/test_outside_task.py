"""A task, its table and its recipe from a package outside mae-bench (`tests/outside`), by the command line from run to report.

It measures RMSE in metres: lower is better, and it is no percentage.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tasks
from backbones.errors import UserError
from mae_bench.recipes.protocol_files import INCLUDE
from mae_bench.tables.definitions import definitions
from tests.conftest import REPO, Result

OUTSIDE = REPO / "tests" / "outside"
Cli = Callable[..., Result]


def forget() -> None:
    """What was installed is looked for anew."""
    tasks.registry.cache_clear()
    definitions.cache_clear()


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(INCLUDE, "")
    monkeypatch.syspath_prepend(OUTSIDE)
    forget()
    yield
    for name in [name for name in sys.modules if name.startswith("depth_task")]:
        del sys.modules[name]
    forget()


def run(cli: Cli, out: Path, *more: str) -> Result:
    start = ("--scratch", "vit_micro_patch8", "--data", f"rooms={out.parent}", "--include", OUTSIDE / "configs")
    return cli("run", *start, "--tasks", "depth", "--out", out, *more)


def records(out: Path) -> list[Path]:
    return sorted(out.rglob("record.json"))


def measured_as(path: Path, rmse: float) -> None:
    """The record, had the run come to this figure."""
    raw = json.loads(path.read_text())
    raw["metrics"]["last"]["rmse"] = rmse
    path.write_text(json.dumps(raw))


def test_from_run_to_report(cli: Cli, tmp_path: Path) -> None:
    out, baseline = tmp_path / "runs", tmp_path / "baseline.yaml"
    done = run(cli, out)
    assert done.code == 0, done.err
    assert f"mae-bench table depth --runs {out}" in done.out  # the table of the runs, found by the recipe
    (path,) = records(out)
    raw = json.loads(path.read_text())
    assert (raw["task"], raw["protocol"], raw["primary_metric"], raw["warnings"]) == ("depth", "depth", "rmse", [])

    evaluations = [line for line in lines(path.parent / "log.jsonl") if line["kind"] == "val"]
    lowest = min(evaluations, key=lambda line: line["rmse"])
    assert len({line["rmse"] for line in evaluations}) == 3
    assert raw["metrics"]["best"]["rmse"] == lowest["rmse"]
    assert raw["metrics"]["best_epoch"] == lowest["epoch"]
    assert raw["metrics"]["last"]["rmse"] == evaluations[-1]["rmse"]

    measured_as(path, 0.32)
    assert "rmse 0.32" in cli("status", out).out
    assert "| scratch | ours" in (table := cli("table", "depth", "--runs", out).out)
    assert "0.32" in table
    assert "depth" in cli("list", "tables").out
    assert cli("check", "--runs", out, "--baseline", baseline, "--update").code == 0
    assert "better: lower" in baseline.read_text()
    assert cli("check", "--runs", out, "--baseline", baseline).code == 0
    measured_as(path, 0.34)
    worse = cli("check", "--runs", out, "--baseline", baseline)
    assert worse.code == 1
    assert "regressed" in worse.out
    measured_as(path, 0.28)
    assert "improved" in cli("check", "--runs", out, "--baseline", baseline).out

    assert cli("report", "--runs", out, "--out", tmp_path / "report.html").code == 0
    page = (tmp_path / "report.html").read_text()
    assert "Depth of drawn rooms" in page
    assert "0.28" in page


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize("command", [("list", "tasks", "--include", str(OUTSIDE / "configs"))])
def test_the_command_line_knows_it(cli: Cli, command: tuple[str, ...]) -> None:
    assert "rmse (m)" in cli(*command).out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("depth.primary_metric=error", "primary metric error"),
        ("depth.primary_metric=''", "an empty text"),
        ("protocol=finetune", "finetune"),
    ],
)
def test_what_its_spec_does_not_declare_is_refused_before_training(
    cli: Cli, tmp_path: Path, change: str, says: str
) -> None:
    done = run(cli, tmp_path / "runs", "--set", change)
    assert done.code != 0
    assert says in done.err
    assert not list((tmp_path / "runs").rglob("checkpoints"))


def test_its_spec_is_read_without_torch() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(OUTSIDE)!r}); import tasks; print(tasks.metric('depth', 'rmse').better)"
    )
    code += "; from mae_bench.tables.definitions import definitions; assert definitions()[-1].name == 'depth'"
    code += "; assert not {'torch', 'timm'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("lower\n", "")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("depth = nowhere.spec:SPEC", "cannot be loaded (ModuleNotFoundError: No module named 'nowhere')"),
        ("depth = depth_task.config:DepthRecipe", "not a tasks.spec.TaskSpec"),
        ("probing = depth_task.spec:SPEC", "there is a task probing already"),
        ("other = depth_task.spec:SPEC", "protocol depth is task depth's"),
    ],
)
def test_a_bad_entry_point_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, says: str) -> None:
    folder = tmp_path / "bad_task-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-task\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[mae_bench.tasks]\n{entry}\n")
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    with pytest.raises(UserError) as caught:
        tasks.registry()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
