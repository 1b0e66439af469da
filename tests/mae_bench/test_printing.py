"""What the command line prints of names that files and people gave: one line each, which no terminal and no CI obeys."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import pytest
from rich.console import Console

from mae_bench import cli
from mae_bench.cli.common import print_lines
from mae_bench.cli.run import _show_outcome
from mae_bench.launchers.base import Outcome
from tasks.progress import progress

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


def test_verbs_print_texts_by_these_functions_alone() -> None:
    """Else a name in a record or a checkpoint reaches the terminal as it is; what is left out escapes by itself."""
    out = {"common.py", "main.py"}
    escaped = {"table.py: content.decode()", "speed.py: render(table2_of(measured), 'md')", "check.py: line"}
    found = set()
    for path in Path(cli.__file__).parent.glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "print":
                found |= {f"{path.name}: {ast.unparse(a)}" for a in call.args if not isinstance(a, ast.Constant)}
    assert {each for each in found if each.partition(":")[0] not in out} == escaped


def test_a_progress_bar_takes_its_label_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    terminal = Console(file=written, force_terminal=True, highlight=False, width=100)
    monkeypatch.setattr("tasks.progress.console", terminal)
    with progress("features of [/red]{x}", 2) as advance:
        advance(2)
    assert "features of [/red]{x}" in written.getvalue()
