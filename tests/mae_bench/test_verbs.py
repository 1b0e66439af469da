"""What all verbs of the command line have in common: an example that runs, --debug, --quiet, help that fits 80 columns."""

from __future__ import annotations

import logging
import shlex
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from mae_bench.cli.main import app
from mae_bench.common import library_warnings
from tasks import progress
from tests.conftest import Result

Cli = Callable[..., Result]


def verbs() -> Iterator[tuple[str, Any]]:
    """``data verify`` and the like, with their commands."""
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        below = getattr(command, "commands", None)
        yield from [(f"{name} {sub}", each) for sub, each in below.items()] if below else [(name, command)]


VERBS = dict(verbs())


def example(name: str) -> list[str]:
    return shlex.split(VERBS[name].epilog.removeprefix(f"Example: mae-bench {name} "))


@pytest.mark.parametrize("name", VERBS)
def test_help_has_an_example_that_parses_and_flags_without_a_type(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    shown = cli(*name.split(), "--help")
    assert shown.code == 0
    assert f"Example: mae-bench {name} " in shown.out
    assert "--debug" in shown.out
    assert "--quiet" in shown.out
    assert "bool" not in shown.out
    assert "\x1b" not in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    assert VERBS[name].make_context(name, example(name)).params


def test_flags_that_typer_adds_have_no_type_either(cli: Cli) -> None:
    assert "--install-completion" in cli("--help").out
    assert "bool" not in cli("--help").out


@pytest.mark.parametrize("name", ["list"])
def test_examples_that_need_nothing_run(cli: Cli, name: str) -> None:
    assert cli(name, *example(name)).code == 0


def test_debug_goes_with_every_verb_before_it_and_after(cli: Cli) -> None:
    assert "Traceback" in cli("status", "/nowhere", "--debug").err
    assert "Traceback" in cli("--debug", "status", "/nowhere").err
    assert cli("status", "/nowhere").err == "error: /nowhere: no such folder\n"


def test_quiet_says_errors_and_no_progress(cli: Cli) -> None:
    assert cli("status", "/nowhere", "--quiet").err == "error: /nowhere: no such folder\n"
    assert progress.console.quiet
    cli("status", "/nowhere")
    assert not progress.console.quiet


def test_shell_completion_offers_verbs(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_MAE_BENCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "mae-bench rep")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert cli().out.split() == ["report"]


def test_warnings_of_libraries_go_into_the_runs_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with library_warnings.library_warnings_kept(), library_warnings.written_to(tmp_path):
        warnings.warn("made of nothing", stacklevel=1)
        logging.getLogger("timm.scheduler").warning("has no effect")
        logging.getLogger("mae_bench.records").warning("a record is left out")
    assert capfd.readouterr().err == "a record is left out\n"
    kept = (tmp_path / library_warnings.FILE_NAME).read_text()
    assert "made of nothing" in kept
    assert "timm.scheduler: has no effect" in kept
    assert "left out" not in kept


def test_piped_progress_is_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.console.capture() as said, progress.progress("decoding", 1000) as advance:
        for second in range(0, 150, 10):
            now[0] = float(second)
            advance(second)
    assert len(said.get().split("\n\n")[0].splitlines()) == 2  # older releases of rich end with an empty line
    assert isinstance(progress.console, Console)
