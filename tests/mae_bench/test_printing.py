"""What the command line prints of names that files and people gave: one line each, which no terminal and no CI obeys."""

from __future__ import annotations

from pathlib import Path

import pytest

from mae_bench.cli.common import print_lines
from mae_bench.cli.run import _show_outcome
from mae_bench.launchers.base import Outcome

HOSTILE = "a/\x1b[2J\n::error::x.png"


def test_lines_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines([HOSTILE, "plain ü"])
    print_lines([HOSTILE], err=True)
    shown = capsys.readouterr()
    assert shown.out == "a/\\x1b[2J\\n::error::x.png\nplain ü\n"
    assert shown.err == "a/\\x1b[2J\\n::error::x.png\n"


def test_what_went_wrong_with_jobs_is_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(records=[], failures={HOSTILE: HOSTILE}, not_run={HOSTILE: HOSTILE}, notes=[HOSTILE])
    _show_outcome(outcome, Path("runs"), as_json=False)
    shown = capsys.readouterr().err
    assert "\x1b" not in shown
    assert [line.partition(":")[0] for line in shown.splitlines()] == ["note", "not run", "failed"]
