"""Text of strangers: what a terminal, a spreadsheet or a log would obey is shown instead."""

from __future__ import annotations

import pytest

from mae_bench.common.text import spreadsheet_cell, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("x\n::error file=a::pwned", "x\\n::error file=a::pwned"),
        ("\x9b31m\x07", "\\x9b31m\\x07"),
        ("\u202eevil", "\\u202eevil"),
        ("\udcff", "\\udcff"),  # a file name that is no UTF-8
        ("two  spaces, 漢字 🙂", "two  spaces, 漢字 🙂"),
    ],
)
def test_what_does_not_print_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A1", "+1+1", "-2+3", "@SUM(1)", "-x"])
def test_a_formula_is_text_to_a_spreadsheet(text: str) -> None:
    assert spreadsheet_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-2.5", "3", "ViT-B", "1e-3", ""])
def test_figures_and_names_stay_as_they_are(text: str) -> None:
    assert spreadsheet_cell(text) == text
