"""A run's checkpoints: what was written is what is read, or it is said that it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones.errors import RunFailed, UserError
from mae_bench.engine import faults
from mae_bench.engine.checkpoints import (
    Damaged,
    checkpoints,
    clean,
    go_back,
    load_newest,
    read_checkpoint,
    save_checkpoint,
)
from mae_bench.engine.trainer import Trainer

STATE: dict[str, Any] = {"model": {"w": torch.arange(1000.0)}, "progress": {"step": 3, "loss": 0.5}}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 3, STATE, keep=2)
    found = read_checkpoint(path)
    assert torch.equal(found["model"]["w"], STATE["model"]["w"])
    assert found["progress"] == STATE["progress"]
    assert torch.load(path, weights_only=True)["progress"] == STATE["progress"]  # a plain file of torch's as well


@settings(max_examples=60)
@given(data=st.data())
def test_no_flipped_bit_and_no_cut_goes_unnoticed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = save_checkpoint(tmp_path_factory.mktemp("c"), 1, STATE, keep=1)
    content = bytearray(path.read_bytes())
    body = content.rindex(b"\nsha256:")
    at = data.draw(st.integers(0, body - 1))
    if data.draw(st.booleans()):
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[at:]
    path.write_bytes(content)
    with pytest.raises(Damaged):
        read_checkpoint(path)


def test_damaged_ones_are_set_aside_and_named(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"step": step}, keep=3)
    for path in checkpoints(tmp_path)[1:]:
        path.write_bytes(path.read_bytes()[:-100])
    state, said = load_newest(tmp_path)
    assert state == {"step": 1}
    assert [line.split()[0] for line in said] == [str(tmp_path / f"step_0000000{i}.pt") for i in (3, 2)]
    assert [p.name for p in checkpoints(tmp_path)] == ["step_00000001.pt"]
    assert len(list(tmp_path.glob("damaged_*"))) == 2


def test_only_damaged_ones_are_an_error_and_stay(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {}, keep=1).write_bytes(b"")
    with pytest.raises(UserError, match="none of 1 checkpoints can be read: delete the folder to start afresh"):
        load_newest(tmp_path)
    assert checkpoints(tmp_path)


def test_going_back_drops_what_came_after(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"step": step}, keep=3)
    assert go_back(tmp_path, 2) == {"step": 2}
    assert [p.name[-4:] for p in checkpoints(tmp_path)] == ["1.pt", "2.pt"]
    assert go_back(tmp_path, 0) is None


def test_a_write_that_fails_is_said_and_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, 1, {"step": 1}, keep=1)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(
        RunFailed, match=r"step_00000002\.pt: cannot be written: No space left on device \(\d+ bytes free"
    ):
        save_checkpoint(tmp_path, 2, {"step": 2}, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000001.pt"]


def test_what_a_killed_process_left_is_cleaned_up(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for path in (
        tmp_path / f".job.{'ab' * 16}.tmp.json",
        tmp_path / "checkpoints" / f".step_00000001.{'ab' * 16}.tmp.pt",
    ):
        path.write_bytes(b"half")
    (tmp_path / "log.jsonl").touch()
    clean(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["checkpoints", "log.jsonl"]


@pytest.mark.parametrize("state", [{}, {"version": 99, "model": {}}])
def test_a_checkpoint_of_another_version_is_one_line(tmp_path: Path, state: dict[str, Any]) -> None:
    save_checkpoint(tmp_path / "checkpoints", 3, state, keep=1)

    class Other:
        def load_state(self, saved: dict[str, Any]) -> None:
            saved["progress"]["step"]

    with pytest.raises(UserError, match=r"step_00000003\.pt does not fit this run \(KeyError"):
        faults._load(cast(Trainer, Other()), state, tmp_path)


@pytest.mark.parametrize("name", ["step_abc.pt", "step_00000009.pt"])
def test_what_is_no_checkpoint_by_name_or_kind_is_passed_over(tmp_path: Path, name: str) -> None:
    whole = save_checkpoint(tmp_path, 3, STATE, keep=1)
    if name == "step_abc.pt":
        (tmp_path / name).write_bytes(b"x")
    else:
        (tmp_path / name).mkdir()
    assert checkpoints(tmp_path) == [whole]
