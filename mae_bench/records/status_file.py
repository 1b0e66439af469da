"""Where a run stands, in its checkpoints and in ``status.json``; the checkpoints themselves are `mae_bench.engine`'s."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from backbones.atomic import read_json, write_json

_NUMBER = (int, float)
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("state", "host", "name", "error"), str),
    **dict.fromkeys(("pid", "step", "total"), int),
    **dict.fromkeys(("images_per_s", "seconds_left", "updated"), _NUMBER),
    "last_metrics": dict,
}


def write_status(run_dir: Path, state: str, **fields: Any) -> None:
    """``status.json`` for `mae-bench status`: running | done | failed | interrupted, and by whom."""
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "updated": time.time()}
    # For watchers only: a full disk is for the writers of what counts to report.
    with suppress(OSError):
        write_json(run_dir / "status.json", {"state": state, **owner, **fields})


def read_status(run_dir: Path) -> dict[str, Any]:
    """What `write_status` wrote; a run whose process is gone reads as interrupted. Empty when there is none."""
    found = read_json(run_dir / "status.json")
    if not isinstance(found, dict):
        return {}
    status = {key: value for key, value in found.items() if isinstance(value, _TYPES.get(key, object))}
    if (
        status.get("state") == "running"
        and status.get("host") == socket.gethostname()
        and not is_running(status.get("pid"))
    ):
        status["state"] = "interrupted"
    return status


def is_running(pid: object) -> bool:
    """Whether a process of this host has that number; nothing that is no number has one."""
    if type(pid) is not int or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
