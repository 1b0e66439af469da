"""Short memory is known by whatever torch and its libraries say of it; a damaged note of it is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mae_bench.engine.out_of_memory import MicroBatchLimit, is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("could not create a primitive"),
        RuntimeError("could not create a memory object"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_short_memory_is_known(error: Any) -> None:
    assert is_out_of_memory(error)


def test_other_errors_are_not_taken_for_it() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"foo": 1}', '{"micro_batch_size": "x", "halvings": 1}', '{"micro_batch_size": 0, "halvings": -1}'],
)
def test_a_damaged_note_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "memory.json").write_text(content)
    assert MicroBatchLimit.read(tmp_path) == MicroBatchLimit()


def test_a_whole_note_is_read(tmp_path: Path) -> None:
    (tmp_path / "memory.json").write_text(json.dumps({"micro_batch_size": 4, "halvings": 2}))
    assert MicroBatchLimit.read(tmp_path) == MicroBatchLimit(4, 2)
