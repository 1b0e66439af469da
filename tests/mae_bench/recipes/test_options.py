"""``NAME=PATH`` on the command line: a path that is there comes first, whatever signs are in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from backbones.errors import UserError
from mae_bench.recipes.options import named_path, parse_data


def test_a_path_that_exists_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1").mkdir()
    assert parse_data(["lr=0.1"]) == {"": str(tmp_path / "lr=0.1")}
    assert parse_data([f"{tmp_path}/lr=0.1"]) == {"": str(tmp_path / "lr=0.1")}
    assert parse_data(["mine=lr=0.1"]) == {"mine": str(tmp_path / "lr=0.1")}


def test_what_is_before_the_sign_is_a_name_unless_it_holds_folders() -> None:
    assert named_path("--checkpoint", "MAE=runs/a/encoder.safetensors") == ("MAE", "runs/a/encoder.safetensors")
    assert named_path("--checkpoint", "runs/lr=0.1/gone.pth") == ("", "runs/lr=0.1/gone.pth")


@pytest.mark.parametrize(("item", "lacks"), [("=x.pth", "name"), ("MAE=", "path"), ("=", "name")])
def test_half_a_pair_is_refused(item: str, lacks: str) -> None:
    with pytest.raises(UserError, match=f"--checkpoint {item}: .* the {lacks} is missing"):
        named_path("--checkpoint", item)


def test_a_name_that_is_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match=r"--data mine=/b: mine is given twice"):
        parse_data(["mine=/a", "mine=/b"])
