"""Checkpoints of a run on disk: whole or not there, checked when read, a bounded number kept. Encoders are elsewhere.

``step_NNNNNNNN.pt`` is what `torch.save` writes, followed by a line with the sha256 of all that comes before it, which
`torch.load` does not mind: checkpoint and checksum get their name in one go, and no power cut or kill leaves one of them
without the other. Files without that line, of earlier versions, are read unchecked. They are read as any checkpoint, without
unpickling (accelerate's own `save_state` keeps its counters in pickles). Random states are not in it: see
`mae_bench.engine.sampler`.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from backbones.atomic import replacing, sweep
from backbones.errors import RunFailed, UserError
from backbones.files.tensor_files import write_torch
from backbones.files.torch_files import read_content
from mae_bench.common.disk import writing

_MARK = b"\nsha256:"
_NAME = re.compile(r"step_[0-9]{8,12}\.pt")
_TRAILER = len(_MARK) + 64 + 1


class Damaged(Exception):
    """A checkpoint whose content differs from what was written; the message says how that was detected."""


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Writes ``step_NNNNNNNN.pt`` and then deletes all but the newest `keep`.

    Raises:
        RunFailed: the disk is full, or will not take it for another reason; nothing is changed then.
    """
    path = folder / f"step_{step:08d}.pt"
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path, durable=True) as temporary, open(temporary, "wb") as file:
            sha256 = hashlib.sha256()

            def write(content: bytes) -> int:
                sha256.update(content)
                return file.write(content)

            write_torch(state, write)
            file.write(_MARK + sha256.hexdigest().encode() + b"\n")
    for old in checkpoints(folder)[: -max(1, keep)]:
        old.unlink(missing_ok=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step_*.pt") if _NAME.fullmatch(path.name) and path.is_file())


def step_of(path: Path) -> int:
    """The step that a checkpoint's name says."""
    return int(path.stem.removeprefix("step_"))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state in a checkpoint, on the CPU.

    Raises:
        Damaged: the checksum differs, or the file cannot be read.
    """
    try:
        _check(path)
        state = read_content(path)
        if not isinstance(state, dict):
            raise Damaged("it holds no state of a run")
    except Damaged:
        raise
    except Exception as e:  # a torn file can fail in any way
        raise Damaged(" ".join(str(e).split())[:100] or type(e).__name__) from e
    return state


def _check(path: Path) -> None:
    with open(path, "rb") as file:
        left = file.seek(0, os.SEEK_END) - _TRAILER
        if left < 0:
            raise Damaged(f"only {left + _TRAILER} bytes")
        file.seek(left)
        trailer = file.read()
        if not trailer.startswith(_MARK):
            return
        file.seek(0)
        sha256 = hashlib.sha256()
        while left:
            block = file.read(min(left, 1 << 20))
            sha256.update(block)
            left -= len(block)
    if trailer[len(_MARK) : -1] != sha256.hexdigest().encode():
        raise Damaged("its checksum differs")


def load_newest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest intact checkpoint (None if there is none), and a line for each damaged one, which is set aside.

    Raises:
        UserError: there are checkpoints and none can be read.
    """
    said: list[str] = []
    files = checkpoints(folder)
    for path in reversed(files):
        try:
            return read_checkpoint(path), said
        except Damaged as e:
            said.append(f"{path} is damaged ({e}): set aside, the one before it is used")
            if len(said) < len(files):
                os.replace(path, path.with_name(f"damaged_{path.name}"))
    if files:
        raise UserError(f"{folder}: none of {len(files)} checkpoints can be read: delete the folder to start afresh")
    return None, said


def clean(run_dir: Path) -> None:
    """Deletes files that a killed process left half written; only for the process that holds the run's lock."""
    for folder in (run_dir, run_dir / "checkpoints"):
        sweep(folder)


def go_back(folder: Path, step: int) -> dict[str, Any] | None:
    """The newest intact checkpoint at or before `step`, later ones deleted; None if there is none."""
    for path in checkpoints(folder):
        if step_of(path) > step:
            path.unlink(missing_ok=True)
    try:
        return load_newest(folder)[0]
    except UserError as e:
        raise RunFailed(str(e)) from e
