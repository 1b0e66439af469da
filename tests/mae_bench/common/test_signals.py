"""A stop signal before anything runs leaves with the code that asks for the same command again."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backbones.errors import UserError
from mae_bench import api
from mae_bench.cli import main as cli_main


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda s: s.name)
def test_a_signal_ahead_of_the_first_job_says_resume_me(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: signal.Signals
) -> None:
    monkeypatch.setattr(api, "pretrain", lambda *_, **__: os.kill(os.getpid(), number))
    result = cli("pretrain", "pretrain/vit_micro_patch8_embedded", "--out", tmp_path)
    assert result.code == 75
    assert result.err.startswith(f"interrupted: {number.name} came")


def test_the_handlers_go_with_the_command(cli: Callable[..., Any]) -> None:
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    assert cli("list", "suites").code == 0
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before


def test_a_signal_that_an_import_made_another_error_of_still_asks_for_the_same_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def importing(**_: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException as e:
            raise ImportError("cannot import name 'x'") from e

    monkeypatch.setattr(cli_main, "app", importing)
    with pytest.raises(SystemExit) as left:
        cli_main.main()
    assert left.value.code == 75
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "x.json"), "error: x.json: No space left on device\n"),
        (MemoryError(), "error: this machine's memory is too small"),
        (RuntimeError("std::bad_alloc"), "error: this machine's memory is too small"),
        (ImportError("x.so: failed to map segment from shared object"), "error: this machine's memory is too small"),
        (RuntimeError("can't start new thread"), "error: the system gives no more threads: raise `ulimit -v`"),
        (UserError("\x1b[2J\n::error::x"), "error: \\x1b[2J\\n::error::x\n"),
    ],
)
def test_what_the_system_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    def failing(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli_main, "app", failing)
    with pytest.raises(SystemExit):
        cli_main.main()
    assert capsys.readouterr().err.startswith(said)


def test_addresses_that_torch_does_not_fit_into_are_said_before_it_is_imported(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's loader ends the process where it lacks them."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (3 << 30, 3 << 30))
    run = cli("inspect", "embedded")
    assert (run.code, run.err) == (
        1,
        "error: `ulimit -v` allows 3.0 GiB, of which torch alone takes 3.2: raise it\n",
    )
