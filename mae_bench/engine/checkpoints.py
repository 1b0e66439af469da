"""Checkpoints of a run on disk: whole or not there, checked when read, a bounded number kept. Encoders are elsewhere.

``step_NNNNNNNN.pt`` is what `torch.save` writes, followed by a line with the sha256 of all that comes before it, which
`torch.load` does not mind: checkpoint and checksum get their name in one go, and no power cut or kill leaves one of them
without the other. Files without that line, of earlier versions, are read unchecked. They are read as any checkpoint, without
unpickling (accelerate's own `save_state` keeps its counters in pickles). Random states are not in it: see
`mae_bench.engine.sampler`. Sharded runs write a folder instead, under the same rules (`mae_bench.engine.sharded_checkpoint`).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Any

from backbones.atomic import replacing, sweep, sync
from backbones.errors import RunFailed, UserError
from backbones.files.tensor_files import write_torch
from backbones.files.torch_files import read_content
from mae_bench.common.disk import writing
from mae_bench.engine.sharded_checkpoint import (
    STATE_FILE,
    ShardedState,
    agree_on_folder,
    remove,
    rename,
    why_damaged,
    write_shards,
)

_MARK = b"\nsha256:"
# A folder that is written again at the same step gets another number: it cannot replace one that is not empty.
_NAME = re.compile(r"step_(?P<step>[0-9]{8,12})(?:\.pt|(?:\.(?P<number>[0-9]{1,4}))?\.dcp)")
State = dict[str, Any]
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
        with replacing(path, durable=True) as temporary:
            _write(temporary, state)
        _delete_others(folder, path, keep)
    return path


def save_sharded(folder: Path, step: int, state: State, keep: int, *, main: bool) -> Path:
    """As `save_checkpoint`, of a state in shards: every process writes its own into a folder; a collective call.

    Raises:
        RunFailed: on every process, when one of them cannot write.
    """
    here = [path for path in checkpoints(folder) if step_of(path) == step and path.is_dir()]
    number = f".{1 + _order(here[-1])[1]}" if here else ""
    path = folder / f"step_{step:08d}{number}.dcp"
    with writing(path):
        temporary = agree_on_folder(path, main)
        try:
            left = write_shards(temporary, state)
            if main:
                _write(temporary / STATE_FILE, left)
                sync(temporary / STATE_FILE)
                rename(temporary, path)
                _delete_others(folder, path, keep)
        finally:
            if main:
                shutil.rmtree(temporary, ignore_errors=True)
    return path


def _write(path: Path, state: State) -> None:
    with open(path, "wb") as file:
        sha256 = hashlib.sha256()

        def write(content: bytes) -> int:
            sha256.update(content)
            return file.write(content)

        write_torch(state, write)
        file.write(_MARK + sha256.hexdigest().encode() + b"\n")


def _delete_others(folder: Path, path: Path, keep: int) -> None:
    """All but the newest `keep`, and others of the step of `path`, which is there now."""
    same = [other for other in checkpoints(folder) if step_of(other) == step_of(path) and other != path]
    for old in [*same, *[other for other in checkpoints(folder) if other not in same][: -max(1, keep)]]:
        _delete(old)


def _delete(path: Path) -> None:
    if path.is_dir():
        remove(path)
    else:
        path.unlink(missing_ok=True)


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints, oldest first: files, and folders of sharded runs."""
    found = [path for path in folder.glob("step_*") if _NAME.fullmatch(path.name)]
    return sorted((path for path in found if path.is_dir() == (path.suffix == ".dcp")), key=_order)


def _order(path: Path) -> tuple[int, int, str]:
    found = _NAME.fullmatch(path.name)
    assert found is not None
    return int(found["step"]), int(found["number"] or 0), path.suffix


def step_of(path: Path) -> int:
    """The step that a checkpoint's name says."""
    return _order(path)[0]


def read_checkpoint(path: Path, *, checked: bool = False) -> State | ShardedState:
    """The state in a checkpoint, on the CPU; of a folder what has to be read yet.

    Args:
        checked: another process has checked it: shards, which may be many, are not read for their checksums.

    Raises:
        Damaged: the checksum differs, or the file cannot be read.
    """
    try:
        if not path.is_dir():
            return _read(path)
        plain = _read(path / STATE_FILE)
        if not checked and (why := why_damaged(path, plain)):
            raise Damaged(why)
        return ShardedState(path, plain)
    except Damaged:
        raise
    except Exception as e:  # a torn file can fail in any way
        raise Damaged(" ".join(str(e).split())[:100] or type(e).__name__) from e


def _read(path: Path) -> State:
    _check(path)
    state = read_content(path)
    if not isinstance(state, dict):
        raise Damaged("it holds no state of a run")
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


def load_newest(folder: Path) -> tuple[State | ShardedState | None, list[str]]:
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


def go_back(folder: Path, step: int) -> State | ShardedState | None:
    """The newest intact checkpoint at or before `step`, later ones deleted; None if there is none."""
    for path in checkpoints(folder):
        if step_of(path) > step:
            _delete(path)
    try:
        return load_newest(folder)[0]
    except UserError as e:
        raise RunFailed(str(e)) from e
