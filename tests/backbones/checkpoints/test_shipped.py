"""Encoders that come with the package: found by name, and whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from backbones.checkpoints import shipped
from backbones.checkpoints.checkpoint import load_checkpoint
from backbones.errors import UserError


@pytest.mark.parametrize("name", shipped.names())
def test_an_encoder_comes_with_card_record_and_log_of_its_own(name: str) -> None:
    file = shipped.FOLDER / f"{name}.safetensors"
    assert file.stat().st_size <= 4_000_000
    record, card = shipped.record(name), shipped.card(name)
    assert record["status"] == "done"
    assert hashlib.sha256(file.read_bytes()).hexdigest() in card
    assert record["recipe_name"] in card
    assert "Apache-2.0" in card
    lines = [json.loads(line) for line in (shipped.FOLDER / f"{name}.log.jsonl").read_text("utf-8").splitlines()]
    assert lines[-1]["step"] == max(line["step"] for line in lines if "step" in line)


@pytest.mark.parametrize("name", shipped.names())
def test_it_is_loaded_by_name_has_a_row_of_its_own_and_its_decoder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = load_checkpoint(name)
    assert (checkpoint.arch, checkpoint.method) == (shipped.record(name)["arch"], "MAE, shipped")
    checkpoint.masked_autoencoder()


@pytest.mark.parametrize("name", shipped.names())
def test_a_file_of_the_same_name_is_not_taken_silently(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=rf"give \./{name} for the file"):
        load_checkpoint(name)


def test_list_encoders(cli: Callable) -> None:
    rows = json.loads(cli("list", "encoders", "--json").out)
    assert [row["encoder"] for row in rows] == shipped.names()


def test_other_names_are_paths(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint file"):
        load_checkpoint(tmp_path / "embedded")
