"""The wheel stands alone: built, installed elsewhere, run from another folder, with recipes and data files."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from mae_bench.recipes.load import recipe_names, suite_names

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("mae_bench", "tasks", "backbones")

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """stdout of a command that must succeed, with nothing of this process's paths."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of a new environment that holds the wheel, and of this one the libraries but not the source tree."""
    home = tmp_path_factory.mktemp("elsewhere")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--quiet", wheel, cwd=home)
    # A folder named in a .pth file is searched last, and its own .pth files (the editable install) are not read.
    libraries = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    (site / "libraries.pth").write_text("\n".join(libraries) + "\n")
    return home / "bin"


def test_the_wheel_carries_every_recipe_and_data_file(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    tracked = run(
        "git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES, "configs", cwd=ROOT
    ).split()
    wanted = {
        f"mae_bench/{name}" if name.startswith("configs/") else name for name in tracked if (ROOT / name).exists()
    }
    assert {name for name in wanted if name.startswith("mae_bench/configs/")}, "no recipes in the repository"
    assert wanted <= inside


def test_the_wheel_carries_nothing_else(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_the_installed_command_runs_from_any_folder(elsewhere: Path, tmp_path: Path) -> None:
    where = run(elsewhere / "python", "-c", "import mae_bench; print(mae_bench.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(elsewhere.parent)
    assert "0.1.0" in run(elsewhere / "mae-bench", "--version", cwd=tmp_path)
    recipes = run(elsewhere / "mae-bench", "list", "recipes", cwd=tmp_path)
    suites = run(elsewhere / "mae-bench", "list", "suites", cwd=tmp_path)
    assert {line.split()[0] for line in recipes.splitlines()[1:]} == set(recipe_names())
    assert {line.split()[0] for line in suites.splitlines()[1:]} == set(suite_names())


@pytest.mark.skipif(
    "MAE_BENCH_TEST_WHEEL" not in os.environ,
    reason="downloads some GB into an empty environment and runs for minutes: make test-wheel",
)
def test_the_wheel_in_an_empty_environment_runs_every_task_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "empty", with_pip=True)
    bin = tmp_path / "empty" / "bin"
    run(bin / "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", f"{wheel}[all]", cwd=tmp_path)
    assert "installed sal-detectron2" in run(bin / "mae-bench", "setup", "detectron2", cwd=tmp_path)
    printed = run(bin / "mae-bench", "run", "--suite", "smoke", "--out", "runs", cwd=tmp_path)
    for task in ("finetune", "linear", "knn", "detection", "detection_fpn", "segmentation", "segmentation_frozen"):
        assert task in printed


@pytest.mark.skipif(
    "MAE_BENCH_TEST_LOWEST" not in os.environ,
    reason="downloads some GB and runs the unit tests again, on the oldest releases allowed: make test-lowest (CI has a job)",
)
def test_the_unit_tests_pass_on_the_lowest_set() -> None:
    assert " passed" in run("make", f"PYTHON={sys.executable}", "test-lowest", cwd=ROOT)
