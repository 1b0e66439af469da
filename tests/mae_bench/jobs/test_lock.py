"""One process on a run directory: the living keep it, the dead give way, and of many that come at once one gets it."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from backbones.errors import RunFailed, UserError
from mae_bench.jobs.lock import RunLock


def quick(folder: Path) -> RunLock:
    return RunLock(folder, beat=0.05, watch=0.5)


def change(folder: Path, **fields: Any) -> None:
    path = folder / ".lock"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def left_by(folder: Path, **fields: Any) -> None:
    """A lock as another process left it."""
    with quick(folder):
        content = (folder / ".lock").read_text()
    (folder / ".lock").write_text(content)
    change(folder, token="of another", **fields)


def a_dead_process() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_the_owner_is_named_and_the_directory_is_free_afterwards(tmp_path: Path) -> None:
    said = rf"in use by process {os.getpid()} on {socket.gethostname()} since 20"
    with quick(tmp_path), pytest.raises(UserError, match=said):
        quick(tmp_path).__enter__()
    assert not (tmp_path / ".lock").exists()
    with quick(tmp_path):
        pass


@pytest.mark.parametrize(
    "of_before",
    [{"boot": "before the last start"}, {"born": "1"}, {"pid": None}],
    ids=["another boot", "its number is another process's", "no such process"],
)
def test_a_dead_owner_on_this_host_gives_way_at_once(
    tmp_path: Path, of_before: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    left_by(tmp_path, **{key: value or a_dead_process() for key, value in of_before.items()})
    with quick(tmp_path):
        assert "which is gone: taken over" in capsys.readouterr().err


def test_an_owner_elsewhere_gives_way_when_its_file_stands_still(tmp_path: Path) -> None:
    left_by(tmp_path, host="elsewhere")
    began = time.monotonic()
    with quick(tmp_path):
        assert time.monotonic() - began >= 0.5


@pytest.mark.parametrize("elsewhere", [{"host": "elsewhere"}, {"namespace": "pid:[1]"}], ids=["host", "container"])
def test_an_owner_elsewhere_that_lives_is_seen_to(tmp_path: Path, elsewhere: dict[str, Any]) -> None:
    first = quick(tmp_path)
    first.owner = type(first.owner)(**{**first.owner.__dict__, **elsewhere})
    with first, pytest.raises(UserError, match="in use by process"):
        quick(tmp_path).__enter__()


def _race(folder: Path, number: int) -> int:
    """0: got the lock, and kept it until the seven others were refused; 2: refused."""
    while not (folder / "go").exists():
        time.sleep(0.001)
    end = time.monotonic() + 30
    try:
        with quick(folder):
            while len(list(folder.glob("refused*"))) < 7 and time.monotonic() < end:
                time.sleep(0.01)
    except UserError:
        (folder / f"refused{number}").touch()
        return 2
    return 0


def test_of_many_that_find_a_stale_lock_one_gets_it(tmp_path: Path) -> None:
    left_by(tmp_path, pid=a_dead_process())
    children = []
    for number in range(8):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = _race(tmp_path, number)
            finally:
                os._exit(code)
        children.append(pid)
    (tmp_path / "go").touch()
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert sorted(codes) == [0] + 7 * [2]


def test_an_owner_that_lost_the_directory_says_so_and_leaves_the_other_ones_lock(tmp_path: Path) -> None:
    with quick(tmp_path) as lock:
        lock.check()
        change(tmp_path, token="of another", pid=4321)
        time.sleep(0.3)
        with pytest.raises(RunFailed, match="was taken over by process 4321"):
            lock.check()
    assert (tmp_path / ".lock").exists()


def test_a_lock_that_says_nothing_is_no_owner(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("")
    with quick(tmp_path):
        pass
