"""One process on a run directory: the living keep it, the dead give way, and of many that come at once one gets it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from backbones.errors import RunFailed, UserError
from mae_bench.jobs.lock import RunLock
from tests.conftest import REPO


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


def test_without_flock_the_one_whose_file_stays_has_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_here(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    def another_writes(seconds: float) -> None:
        if seconds == first.settle:
            quick(tmp_path)._write(0)

    monkeypatch.setattr(fcntl, "flock", not_here)
    first = quick(tmp_path)
    with monkeypatch.context() as sleeping:
        sleeping.setattr(time, "sleep", another_writes)
        with pytest.raises(UserError, match="in use by process"):
            first.__enter__()
    (tmp_path / ".lock").unlink()
    with quick(tmp_path):
        pass


_FIGHT = """
import os, random, signal, sys, time
from pathlib import Path
import mae_bench.jobs.lock as module
from backbones.errors import UserError
module.say = lambda _: None
folder, end = Path(sys.argv[1]), time.monotonic() + float(sys.argv[2])
log = os.open(folder / "events", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
while time.monotonic() < end:
    if os.fork():
        os.wait()
        continue
    draw = random.Random(os.urandom(8))
    try:
        with module.RunLock(folder, beat=0.2, watch=2.0):
            os.write(log, f"{time.monotonic()} in\\n".encode())
            time.sleep(draw.uniform(0, 0.2))
            os.write(log, f"{time.monotonic()} out\\n".encode())
            if draw.random() < 0.3:
                os.kill(os.getpid(), signal.SIGKILL)
    except UserError:
        time.sleep(draw.uniform(0, 0.1))
    os._exit(0)
"""


@pytest.mark.slow
def test_nodes_that_share_a_folder_have_it_one_at_a_time_whoever_dies(tmp_path: Path) -> None:
    """Three hosts with processes of their own, of which those that have the directory often die with it."""
    away = ["unshare", "--uts", "--pid", "--fork", "--mount-proc", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*away, "hostname x"], capture_output=True).returncode:
        pytest.skip("no right to make namespaces here")
    begin = f"hostname $0; exec {sys.executable} -c '{_FIGHT}' {tmp_path} 8"
    nodes = [subprocess.Popen([*away, begin, f"node{k}"], cwd=REPO, stderr=subprocess.PIPE) for k in range(3)]
    assert [(node.communicate()[1], node.returncode) for node in nodes] == [(b"", 0)] * 3
    events = sorted(
        (float(when), what) for when, what in map(str.split, (tmp_path / "events").read_text().splitlines())
    )
    assert len(events) >= 6
    assert [what for _, what in events] == ["in", "out"] * (len(events) // 2)


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
