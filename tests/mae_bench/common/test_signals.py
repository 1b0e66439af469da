"""A stop signal before anything runs leaves with the code that asks for the same command again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mae_bench import api


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
