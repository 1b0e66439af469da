"""The fuzz benchmark's doors on a short corpus: whatever is done to a file, it is read or refused in one line."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from backbones.errors import UserError
from benchmarks import fuzz

INPUTS = 40


@pytest.mark.parametrize("name", fuzz.TARGETS)
@pytest.mark.filterwarnings("ignore")  # Pillow's, of damaged TIFFs
def test_damaged_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    target = fuzz.TARGETS[name]
    seeds, path = target.seeds(), tmp_path / target.name
    path.write_bytes(seeds[0])
    target.read(path)  # an honest one is read
    said = []
    for number in range(INPUTS):
        path.write_bytes(fuzz.draw_input(target, seeds, number))
        try:
            target.read(path)
        except UserError as e:
            said.append(str(e))
    assert said
    assert not [line for line in said if "Traceback" in line]


def test_inputs_are_the_same_on_every_machine() -> None:
    target = fuzz.TARGETS["pickles"]
    seeds = target.seeds()
    assert fuzz.draw_input(target, seeds, 7) == fuzz.draw_input(target, seeds, 7)
    assert len({fuzz.draw_input(target, seeds, n) for n in range(20)}) > 10


def test_crashes_hangs_and_memory_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> None:
        kind = path.read_bytes()
        if kind == b"1":
            import os

            os.kill(os.getpid(), 9)
        if kind == b"2":
            import time

            time.sleep(60)
        if kind == b"3":
            raise KeyError
        if kind == b"4":
            raise UserError("no")

    def number(draw: random.Random, seeds: list[bytes]) -> bytes:
        return seeds[0]

    def made_up(content: bytes) -> fuzz.Target:
        return fuzz.Target(lambda: [content], number, "x", read)

    monkeypatch.setattr(fuzz, "SECONDS", 0.5)
    kinds = {b"0": "read", b"1": "crashes", b"2": "over 10 s", b"3": "other exceptions", b"4": "refused"}
    for content, kind in kinds.items():
        monkeypatch.setitem(fuzz.TARGETS, "made up", made_up(content))
        assert fuzz.fuzz("made up", 1, None)[kind] == 1
