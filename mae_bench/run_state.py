"""Where a run stands, in its checkpoints and in ``status.json``; the checkpoints themselves are `mae_bench.engine`'s."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backbones.atomic import write_text


@dataclass
class Progress:
    """Where a run stands; part of every checkpoint."""

    step: int = 0
    seconds: float = 0.0  # spent training and evaluating, over all starts
    train_seconds: float = 0.0
    images: int = 0
    loss: float | None = None
    last: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    best_epoch: float | None = None
    evaluated_at: int = -1  # step
    starts: int = 0
    inference_s_per_image: float | None = None
    recovered: dict[str, int] = field(default_factory=dict)  # what went wrong and was made good: how often
    notes: list[str] = field(default_factory=list)  # the same in words, for the record
    reshuffled: list[int] = field(default_factory=list)  # steps from which on the order of the data is another one

    def recover(self, what: str, times: int = 1, note: str | None = None) -> None:
        """Counts a fault that was made good; the words are kept once."""
        if times:
            self.recovered[what] = self.recovered.get(what, 0) + times
        if note and note not in self.notes:
            self.notes.append(note)


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all; not-a-number is written as Python does (a metric may be one)."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """The content, or None when there is no such file or it is no JSON."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def write_status(run_dir: Path, state: str, **fields: Any) -> None:
    """``status.json`` for `mae-bench status`: running | done | failed | interrupted, and by whom."""
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "updated": time.time()}
    # For watchers only: a full disk is for the writers of what counts to report.
    with suppress(OSError):
        write_json(run_dir / "status.json", {"state": state, **owner, **fields})


def read_status(run_dir: Path) -> dict[str, Any]:
    """What `write_status` wrote; a run whose process is gone reads as interrupted. Empty when there is none."""
    status = read_json(run_dir / "status.json")
    if not isinstance(status, dict):
        return {}
    if (
        status.get("state") == "running"
        and status.get("host") == socket.gethostname()
        and not is_running(status["pid"])
    ):
        status["state"] = "interrupted"
    return status


def is_running(pid: int) -> bool:
    """Whether a process of this host has that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
