"""JSON of strangers comes in by one door, which takes nothing for granted that `json` passes over."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from backbones.errors import UserError
from backbones.plain_files import load_json, parse_json, read_plain


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"images": [], "images": [1]}', "images"),
        ('{"annotations": [{"id": 1, "bbox": [0, 0, 1, 1], "bbox": [0, 0, 2, 2]}]}', "bbox"),
        ('[[{"a": 1, "b": {"c": 1, "c": 1}}]]', "c"),
        ('{"\\u0061": 1, "a": 2}', "a"),
    ],
)
def test_a_key_that_is_there_twice_is_refused(text: str, key: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"key '{key}' is there twice"):
        parse_json(text)
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=rf"x\.json is not readable as JSON: key '{key}' is there twice"):
        load_json(tmp_path / "x.json")


def test_the_same_key_in_two_objects_is_none_of_that() -> None:
    assert parse_json('[{"a": 1}, {"a": {"a": 2}}]') == [{"a": 1}, {"a": {"a": 2}}]


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e999", '{"a": [1, -1e999]}', f"[{10**400}]"])
def test_numbers_beyond_all_counting_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no JSON number"):
        parse_json(text)
    parse_json(text, finite=False)  # of annotations, whose reader names the object


def test_large_numbers_are_numbers() -> None:
    assert parse_json("[1e308, 123456789012345678901234567890, true, null]") == [
        1e308,
        123456789012345678901234567890,
        True,
        None,
    ]


def test_no_more_room_is_reserved_than_the_file_takes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x" * 100)
    tracemalloc.start()
    assert read_plain(tmp_path / "x") == b"x" * 100
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    with pytest.raises(UserError, match="larger than"):
        read_plain(tmp_path / "x", 99)
