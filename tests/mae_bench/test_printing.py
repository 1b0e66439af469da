"""What the command line prints of names that files and people gave: one line each, which no terminal and no CI obeys."""

from __future__ import annotations

import ast
import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from mae_bench import cli
from mae_bench.cli.common import print_lines
from mae_bench.cli.run import _show_outcome
from mae_bench.common.console import say
from mae_bench.launchers.base import Outcome
from mae_bench.tables import build, names
from mae_bench.tables.formats.markdown import markdown
from tasks.progress import progress
from tests.conftest import Result
from tests.mae_bench.made_records import make

HOSTILE = "a/\x1b[2J\n::error::x.png"


def test_lines_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines([HOSTILE, "plain ü"])
    print_lines([HOSTILE], err=True)
    shown = capsys.readouterr()
    assert shown.out == "a/\\x1b[2J\\n::error::x.png\nplain ü\n"
    assert shown.err == "a/\\x1b[2J\\n::error::x.png\n"


def test_what_went_wrong_with_jobs_is_shown_and_not_obeyed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["mae-bench", "run"])
    outcome = Outcome(records=[], failures={HOSTILE: HOSTILE}, not_run={HOSTILE: HOSTILE}, notes=[HOSTILE])
    _show_outcome(outcome, Path("runs"), as_json=False)
    shown = capsys.readouterr().err
    assert "\x1b" not in shown
    assert [line.partition(":")[0] for line in shown.splitlines()] == [
        "note",
        "again, with what is done kept, once the cause is mended",
        "  mae-bench run",
        "not run",
        "failed",
    ]


@pytest.mark.parametrize(
    "line", ["list tasks", "list suites", "list tables", "list recipes", "list encoders", "table table3"]
)
def test_nothing_is_wider_than_a_terminal_and_a_pipe_gets_whole_lines(
    cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str
) -> None:
    words = [*line.split(), *(["--runs", tmp_path] if line.startswith("table") else [])]
    monkeypatch.setenv("COLUMNS", "80")
    piped = cli(*words).out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    shown = cli(*words).out
    assert max(map(len, piped.splitlines())) > 80 >= max(map(len, shown.splitlines()))
    for word in {"list": piped.split("\n", 1)[1].split(), "table": ["Mask", "ViT-L"]}[words[0]]:
        assert word in shown


def test_blocks_of_every_table_fit_80_characters() -> None:
    for table in (build(name, []) for name in names()):
        grids = [line for line in markdown(table, 80).splitlines() if line.startswith("|")]
        assert max(map(len, grids), default=0) <= 80, table.name


def test_progress_and_errors_fit_a_terminal_too(
    cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    say("data embedded: " + "train 2,000 of 2,000 images; " * 5)
    assert capsys.readouterr().err.splitlines() == [
        "data embedded: train 2,000 of 2,000 images; train 2,000 of 2,000 images; train",
        "  2,000 of 2,000 images; train 2,000 of 2,000 images; train 2,000 of 2,000",
        "  images;",
    ]
    said = cli("list", "recipes", "finetune/vit_huge_patch14_imagenett").err.splitlines()
    assert max(map(len, said)) <= 80
    assert len(said) > 1


def test_verbs_print_texts_by_these_functions_alone() -> None:
    """Else a name in a record or a checkpoint reaches the terminal as it is; what is left out escapes by itself."""
    out = {"common.py", "main.py"}
    escaped = {
        "table.py: contents(built, fmt).decode()",
        "speed.py: render(table2_of(measured), 'md')",
        "check.py: line",
    }
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


def test_a_failure_says_where_to_read_on_and_how_to_run_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its last line is the failure's; what ran has its results and those tables alone in which they stand."""
    out = tmp_path / "my runs"
    (out / "linear-s0-1").mkdir(parents=True)
    (out / "linear-s0-1" / "log.jsonl").write_text("")
    monkeypatch.setattr("sys.argv", ["mae_bench/__main__.py", "run", "--suite", "smoke", "--out", str(out)])
    _show_outcome(
        Outcome([make(protocol="linear")], {"linear-s0": "no figure"}, tables=["table3", "table12"]), out, as_json=False
    )
    shown = capsys.readouterr()
    assert shown.err.splitlines() == [
        "again, with what is done kept, once the cause is mended:",
        f"  mae-bench run --suite smoke --out '{out}'",
        f"failed: linear-s0: no figure (log: {out}/linear-s0-1/log.jsonl)",
    ]
    assert "table table12" in shown.out
    assert "table table3" not in shown.out
