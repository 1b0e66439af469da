"""How detectron2 gets into an environment: another's is kept, ours is whole or absent, failures are one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tasks
from backbones.errors import UserError
from tasks.detection import install

ROOT = Path(__file__).resolve().parents[3]


def imports_from(site_packages: Path) -> str:
    """Where a Python whose site-packages this is finds ``detectron2``, and whether the stray ``tools`` is there too."""
    code = (
        f"import site, importlib.util as u; site.addsitedir({str(site_packages)!r});"
        "print(u.find_spec('detectron2').origin, u.find_spec('tools'))"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
def test_install_puts_a_whole_package_on_the_path_and_twice_is_as_once(tmp_path: Path) -> None:
    folder = install.install(tmp_path)
    assert imports_from(tmp_path) == f"{folder}/detectron2/__init__.py None"
    assert not [*folder.rglob("_C*.so")]
    assert not [*folder.glob("*.dist-info")]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    (tmp_path / "_detectron2.pth").unlink()  # as when the first call was ended before its last step
    install.install(tmp_path)
    assert imports_from(tmp_path) == f"{folder}/detectron2/__init__.py None"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert sorted(os.listdir(tmp_path)) == ["_detectron2", "_detectron2.pth"]


def test_without_an_index_it_says_so_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match=r"could not install sal-detectron2==0\.7\.2: .*check the network") as error:
        install.install(tmp_path)
    assert "\n" not in str(error.value)
    assert not os.listdir(tmp_path)


@pytest.mark.slow
def test_a_file_with_another_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "SHA256", "0" * 64)
    with pytest.raises(UserError, match="another file than the pinned one"):
        install.install(tmp_path)
    assert not os.listdir(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to .*/file/site-packages .*virtual environment"):
        install.install(tmp_path / "file" / "site-packages")


def test_somebody_elses_detectron2_is_kept(tmp_path: Path) -> None:
    own = tmp_path / "detectron2"
    own.mkdir()
    (own / "__init__.py").touch()
    done = subprocess.run(
        [sys.executable, "-m", "tasks.detection.install"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"detectron2: kept the one in {own}\n"


def test_setup_installs_only_what_is_missing_and_says_what_it_downloads(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "importable", lambda: None)
    monkeypatch.setattr(install, "install", lambda site_packages: tmp_path / "_detectron2")
    done = cli("setup", "detectron2")
    assert done.out == f"detectron2: installed {install.REQUIREMENT} in {tmp_path / '_detectron2'}\n"
    assert f"downloading {install.REQUIREMENT}" in done.err
    monkeypatch.setattr(install, "importable", lambda: tmp_path)
    assert cli("setup", "detectron2").out == f"detectron2: kept the one in {tmp_path}\n"
    assert cli("setup", "detectron").code == 2


def test_a_job_that_needs_it_names_the_command_and_installs_nothing(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = tasks.find_spec
    monkeypatch.setattr(tasks, "find_spec", lambda name: None if name == "detectron2" else find(name))
    monkeypatch.setattr(install, "install", lambda *a: pytest.fail("installed unasked"))
    done = cli("run", "--scratch", "vit_micro_patch8", "--tasks", "detection", "--out", tmp_path / "runs")
    assert done.code == 2
    assert "mae-bench setup detectron2" in done.err
