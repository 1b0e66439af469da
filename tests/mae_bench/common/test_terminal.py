"""Lines and columns fit a terminal, broken between words; nothing that is there to be copied is."""

from __future__ import annotations

import pytest

from mae_bench.common.terminal import columns, folded


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("short enough", ["short enough"]),
        ("data a: train 2,000 images, val 10", ["data a: train 2,000", "  images, val 10"]),
        ("    set in already, and long", ["    set in already,", "      and long"]),
        ("error: /a/path/that/is/long/and/stays whole", ["error:", "  /a/path/that/is/long/and/stays", "  whole"]),
        ("  mae-bench run --out a --tasks knn", ["  mae-bench run --out a --tasks knn"]),
        ("error: first `mae-bench setup detectron2`", ["error: first", "  `mae-bench setup detectron2`"]),
        ("a well-known half-broken thing", ["a well-known", "  half-broken thing"]),
    ],
)
def test_lines_are_broken_between_words_and_what_is_to_be_copied_is_not(text: str, lines: list[str]) -> None:
    assert folded(text, 20) == lines


ROWS = [
    {"name": "tiny", "kind": "linear", "title": "a probe on top of what was learnt"},
    {"name": "b", "kind": "knn", "title": ""},
]


def test_columns_are_aligned() -> None:
    wide = ["name  kind    title", "tiny  linear  a probe on top of what was learnt", "b     knn"]
    assert columns(ROWS) == columns(ROWS, 47) == [[line] for line in wide]


def test_the_widest_column_is_narrowed_as_long_as_it_reads() -> None:
    narrow = [["name  kind    title"], ["tiny  linear  a probe on top of what", " " * 14 + "was learnt"], ["b     knn"]]
    assert columns(ROWS, 38) == narrow


def test_columns_without_room_stand_below_with_their_heading() -> None:
    below = ["tiny  linear", "  title: a probe on top of what was", "    learnt"]
    assert columns(ROWS, 37) == [["name  kind"], below, ["b     knn"]]
    assert columns(ROWS, 11)[0] == ["name"]
    assert columns(ROWS, 11)[2] == ["b", "  kind: knn"]
