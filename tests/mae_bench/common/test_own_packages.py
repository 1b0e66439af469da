"""A `tasks.py` in the current folder (Celery, Invoke, Django) is neither imported nor met with a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mae_bench.common.own_packages import check_own_packages
from mae_bench.jobs.job import PlannedJob
from mae_bench.jobs.plan import Request
from mae_bench.launchers.base import command
from mae_bench.recipes.load import load_recipe

ROOT = Path(__file__).resolve().parents[3]


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": ""} | ({} if "site-packages" in str(ROOT) else {"PYTHONPATH": str(ROOT)})
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["tasks.py", "backbones.py", "tasks/__init__.py"])
def test_a_foreign_module_gives_one_line_that_names_its_file(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("raise SystemExit('imported by mistake')\n")
    done = python(tmp_path, "-m", "mae_bench", "list", "tasks")
    assert done.returncode == 2
    assert done.stderr.startswith("error: mae-bench needs its own package")
    assert done.stderr.count("\n") == 1
    assert str(file) in done.stderr


def test_what_launchers_start_does_not_search_the_current_folder(tmp_path: Path) -> None:
    for name in ("tasks.py", "backbones.py", "typer.py", "records.py"):
        (tmp_path / name).write_text("raise SystemExit('imported by mistake')\n")
    job = PlannedJob("knn/vit_micro_patch8_embedded", load_recipe("knn/vit_micro_patch8_embedded"))
    arguments = command(Request(), tmp_path, job)
    done = python(tmp_path, *arguments[: arguments.index("run")], "list", "tasks")
    assert done.returncode == 0, done.stderr
    assert "finetune" in done.stdout


def test_our_own_packages_pass() -> None:
    check_own_packages()
