"""The gate as a CI system uses it: a baseline of real runs holds for the same code, and fails for a broken one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.end_to_end.tiny import PRETRAIN


@pytest.mark.slow
def test_a_baseline_holds_until_something_breaks(cli: Callable[..., Any], tmp_path: Path) -> None:
    baseline = tmp_path / "baseline.yaml"
    nightly, again, broken = (tmp_path / name for name in ("nightly", "again", "broken"))
    assert cli(*PRETRAIN, "--out", nightly / "pretrain").code == 0
    assert cli("check", "--runs", nightly, "--baseline", baseline, "--update").code == 0
    text = baseline.read_text()
    assert "final_loss: {relative: 0.02, better: lower}" in text
    baseline.write_text(
        text.replace("relative: 0.02", "relative: 0")
    )  # the same code gives the same loss to the last digit

    assert cli(*PRETRAIN, "--out", again / "pretrain").code == 0
    held = cli("check", "--runs", again, "--baseline", baseline)
    assert (held.code, held.out.splitlines()[-1]) == (0, "holds: 1 holds")

    # Somebody lost the learning rate.
    assert cli(*PRETRAIN, "--set", "optimizer.lr=1e-8", "--out", broken / "pretrain").code == 0
    junit = tmp_path / "junit.xml"
    failed = cli("check", "--runs", broken, "--baseline", baseline, "--junit", junit, "--github")
    assert failed.code == 1
    assert failed.out.splitlines()[1].startswith("regressed  pretrain/vit_micro_patch8_embedded, scratch,")
    assert "the recipe's settings have changed" in failed.out
    assert failed.err.splitlines()[-1].startswith(f"::error file={baseline}")
    suite = ElementTree.parse(junit).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")

    page = tmp_path / "report.html"
    assert cli("report", "--runs", tmp_path, "--out", page).code == 0
    html = page.read_text()
    assert html.count("image/jpeg") == 1  # reconstructions, of the first of the three pre-trainings that left some
    assert "No reconstructions" not in html
