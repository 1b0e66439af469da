"""A run's state on disk: atomic checkpoints with a bounded number kept, and where a run stands. Encoders are elsewhere.

One file a checkpoint, written to a temporary name and renamed, read with ``weights_only=True`` (accelerate's own
`save_state` keeps its counters in pickles that it reads without). Random states are not in it: see `mae_bench.seeding`.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from backbones.errors import UserError


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


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Writes ``step_NNNNNNNN.pt`` and deletes all but the newest `keep`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:08d}.pt"
    temporary = folder / f".{path.name}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as f:
            torch.save(state, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    for old in checkpoints(folder)[: -max(1, keep)]:
        old.unlink(missing_ok=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(folder.glob("step_*.pt"))


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest readable checkpoint, or None when there is none.

    Raises:
        UserError: there are checkpoints and none can be read.
    """
    files = checkpoints(folder)
    for path in reversed(files):
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
        except Exception:  # a torn file can fail in any way; the one before it is as good
            continue
    if files:
        raise UserError(f"{folder}: none of {len(files)} checkpoints can be read: delete the folder to start afresh")
    return None


def write_json(path: Path, content: Any) -> None:
    """Atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    """The content, or None when there is no such file or it is no JSON."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def write_status(run_dir: Path, state: str, **fields: Any) -> None:
    """``status.json`` for `mae-bench status`: running | done | failed | interrupted, and by whom."""
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "updated": time.time()}
    write_json(run_dir / "status.json", {"state": state, **owner, **fields})


def read_status(run_dir: Path) -> dict[str, Any]:
    """What `write_status` wrote; a run whose process is gone reads as interrupted. Empty when there is none."""
    status = read_json(run_dir / "status.json")
    if not isinstance(status, dict):
        return {}
    if status.get("state") == "running" and status.get("host") == socket.gethostname() and not _alive(status["pid"]):
        status["state"] = "interrupted"
    return status


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
