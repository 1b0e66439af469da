"""What all tests share: the command line in this process, a cache of their own, where real data lies."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from mae_bench.cli import main as command_line

REPO = Path(__file__).resolve().parent.parent
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


@dataclass(frozen=True)
class Result:
    """What a command came to."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session", autouse=True)
def _quiet_machine() -> None:
    """Small models, and tests side by side: more threads than one only wait for each other, here and in subprocesses."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data cache that lives as long as the test session, also for processes that tests start."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["MAE_BENCH_CACHE"] = str(folder)
    return folder


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """``cli("list", "tasks")`` runs the command as ``mae-bench list tasks`` does, in this process."""

    def call(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["mae-bench", *map(str, arguments)])
        capsys.readouterr()
        try:
            command_line.main()
            code = 0
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else 1 if e.code else 0
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


def data_folder(name: str) -> Path:
    """A folder of the shared real data; the test is skipped where it is absent."""
    root = Path(os.environ.get("MAE_BENCH_DATA", REPO.parent / "shared" / "data"))
    if not (root / name).exists():
        pytest.skip(f"real data {name} is not at {root} (set MAE_BENCH_DATA)")
    return root / name
