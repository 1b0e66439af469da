"""From a pre-training run's folder to pictures and features, by the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Result
from tests.end_to_end.tiny import PRETRAIN, spawn

Cli = Callable[..., Result]


def pretrain(cli: Cli, out: Path, target: str) -> Path:
    settings = [f"mae.target={target}", "mae.pca_components=8", "mae.vocabulary=16", "schedule.epochs=1"]
    result = cli(*PRETRAIN, *(word for setting in settings for word in ("--set", setting)), "--out", out)
    assert result.code == 0, result.err
    return out


def photographs(cache: Path) -> list[Path]:
    return sorted(cache.rglob("imagenet/val/3/*.JPEG"))[:2]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["pixels", "pca", "tokens"])
def test_a_run_with_any_target_can_be_drawn(cli: Cli, tmp_path: Path, cache: Path, target: str) -> None:
    run, picture = pretrain(cli, tmp_path / "run", target), tmp_path / "picture.png"
    result = cli("reconstruct", run, *photographs(cache), "--out", picture, "--sampling", "random,block")
    assert result.code == 0, result.err
    with Image.open(picture) as sheet:
        about = json.loads(sheet.text["mae_bench"])  # type: ignore[attr-defined]
    assert about["target"] == target
    assert [row["sampling"] for row in about["rows"]] == ["random", "block"] * 2
    assert all(np.isfinite(row["loss"]) for row in about["rows"])


@pytest.mark.slow
def test_a_runs_features_are_extracted_by_a_process_of_its_own(cli: Cli, tmp_path: Path, cache: Path) -> None:
    run = pretrain(cli, tmp_path / "run", "pixels_norm")
    data, out = photographs(cache)[0].parents[1], tmp_path / "features.npy"
    process = spawn("extract", run, "--data", data, "--out", out, "--features", "mean", "--workers", 1)
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    sidecar = json.loads((tmp_path / "features.json").read_text())
    assert printed.splitlines()[0] == f"{out}: mean-layer3, {len(sidecar['names'])} x 128, final norm applied"
    assert sidecar["classes"] == [str(digit) for digit in range(10)]
    assert np.load(out).shape == (len(sidecar["names"]), 128)
