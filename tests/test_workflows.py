"""Workflows and the composite action: valid by GitHub's schemas, and what they run is what this repository has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mae_bench.check.baseline import load

REPO = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((REPO / ".github/workflows").glob("*.yml"))
ACTION = REPO / "action.yml"
BASELINES = sorted((REPO / "baselines").glob("*.yaml"))


def schema_errors(kind: str, *files: Path) -> str:
    """What check-jsonschema, which has copies of GitHub's schemas, says against the files; empty where they are valid."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.github-{kind}", *map(str, files)]
    result = subprocess.run(command, capture_output=True, text=True)
    return "" if result.returncode == 0 else result.stdout + result.stderr


def steps(content: dict) -> list[dict]:
    jobs = content["jobs"].values() if "jobs" in content else [content["runs"]]
    return [step for job in jobs for step in job["steps"]]


def test_files_are_valid_by_githubs_schemas(tmp_path: Path) -> None:
    assert len(WORKFLOWS) >= 2
    assert schema_errors("workflows", *WORKFLOWS) == ""
    assert schema_errors("actions", ACTION) == ""
    broken = tmp_path / "broken.yml"
    broken.write_text(WORKFLOWS[0].read_text("utf-8").replace("runs-on", "run-on"), encoding="utf-8")
    assert "is not valid" in schema_errors("workflows", broken)


@pytest.mark.parametrize("path", [ACTION, *WORKFLOWS], ids=lambda path: path.name)
def test_what_they_name_exists(path: Path) -> None:
    content = yaml.safe_load(path.read_text("utf-8"))
    inputs = yaml.safe_load(ACTION.read_text("utf-8"))["inputs"]
    for target in re.findall(r"\brun: make ([\w-]+)", path.read_text("utf-8")):
        assert re.search(rf"^{target}:", (REPO / "Makefile").read_text("utf-8"), re.MULTILINE)
    for step in steps(content):
        if step.get("uses") == "./":
            assert set(step["with"]) <= set(inputs)
            assert (REPO / step["with"]["baseline"]).is_file()
        if path == ACTION:  # an input inside a script would be read as a part of it
            assert "${{" not in step.get("run", "")
    if path == ACTION:
        used = set(re.findall(r"inputs\.([\w-]+)", path.read_text("utf-8")))
        assert used == set(inputs)


def test_the_snippet_of_the_docs_is_three_lines_that_the_action_takes() -> None:
    text = (REPO / "docs/check.md").read_text("utf-8")
    (snippet,) = re.findall(r"```yaml\n(- uses: [^\n]*mae_bench@.*?)```", text, re.DOTALL)
    assert len(snippet.strip().splitlines()) == 3
    (step,) = yaml.safe_load(snippet)
    assert set(step["with"]) <= set(yaml.safe_load(ACTION.read_text("utf-8"))["inputs"])


@pytest.mark.parametrize("path", BASELINES, ids=lambda path: path.name)
def test_baselines_can_be_read(path: Path) -> None:
    assert load(path).cells


@pytest.mark.slow
def test_the_actions_scripts_run_as_github_runs_them(tmp_path: Path) -> None:
    """Its `run` steps but the installation, in order, with a baseline taken first; then one that does not hold."""
    scripts = {s["name"]: s for s in steps(yaml.safe_load(ACTION.read_text("utf-8"))) if "run" in s}
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin/mae-bench"
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m mae_bench "$@"\n')
    tool.chmod(0o755)
    options = (
        "data.options={pretrain_count: 1, train_count: 240, val_count: 20, scene_train_count: 1, scene_val_count: 1}"
    )
    environment = {
        **os.environ,
        "PATH": f"{tool.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPO),
        "RUNNER_TEMP": str(tmp_path),
        "ARGUMENTS": f"--scratch vit_micro_patch8 --tasks knn --set '{options}'",
        "BASELINE": str(tmp_path / "baseline.yaml"),
    }

    def run(script: str) -> int:
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True).returncode

    hold = scripts["Hold figures against the baseline"]["run"]
    assert run(scripts["Run"]["run"]) == 0
    assert run(f"{hold} --update") == 0
    assert run(hold) == 0
    assert run(scripts["Report"]["run"]) == 0
    assert {"check.xml", "report.html"} <= {path.name for path in (tmp_path / "mae-bench").iterdir()}
    baseline = tmp_path / "baseline.yaml"
    baseline.write_text(re.sub(r"(top1: \{value: )[\d.]+", r"\g<1>99", baseline.read_text("utf-8")), encoding="utf-8")
    assert run(hold) == 1
