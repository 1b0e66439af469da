"""A run directory belongs to one process (of several, the main one); a dead owner's directory is taken over.

``.lock`` names the owner and changes every 20 seconds as long as it lives. On this host the process itself is looked up; an
owner elsewhere counts as gone when its file has not changed while we watched, which compares no two machines' clocks.
Reading, judging and writing are one under ``flock`` on ``.lock.guard``. On a network file system without it the writer waits
and looks whether the file is still its own (Lamport 1987, "A fast mutual exclusion algorithm").
"""

from __future__ import annotations

import datetime
import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from backbones.atomic import append_to, read_json, write_json
from backbones.errors import RunFailed, UserError
from backbones.plain_files import JSON_LIMIT, read_plain
from mae_bench.common.console import say
from mae_bench.common.disk import writing
from mae_bench.records.status_file import is_running

BEAT_SECONDS = 20.0
WATCH_SECONDS = 90.0  # longer than the minute for which NFS may show an old file
SETTLE_SECONDS = 2.0  # without flock: longer than another process takes from reading the file to writing it


@dataclass(frozen=True)
class Owner:
    """A process; `born`, `boot` and `namespace` tell it from another one that has its number."""

    host: str
    pid: int
    since: str  # when it took the directory
    born: str
    boot: str
    namespace: str
    token: str

    @staticmethod
    def this_process() -> Owner:
        return Owner(
            host=socket.gethostname(),
            pid=os.getpid(),
            since=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            born=_born(os.getpid()),
            boot=_read("/proc/sys/kernel/random/boot_id"),
            namespace=_namespace(),
            token=uuid.uuid4().hex,
        )

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"

    def alive(self) -> bool | None:
        """Whether the process is alive; None if that cannot be seen from here."""
        if self.host != socket.gethostname():
            return None
        if self.boot != _read("/proc/sys/kernel/random/boot_id"):
            return False
        if self.namespace != _namespace():
            return None
        return self.born == _born(self.pid) and is_running(self.pid)


class RunLock:
    """``with RunLock(run_dir):`` the directory is this process's.

    Raises:
        UserError: another process has it; the line says which and since when.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        beat: float = BEAT_SECONDS,
        watch: float = WATCH_SECONDS,
        settle: float = SETTLE_SECONDS,
    ) -> None:
        self.path, self.beat, self.watch, self.settle = run_dir / ".lock", beat, watch, settle
        self.owner = Owner.this_process()
        self._stop, self._lost = threading.Event(), False
        self._thread = threading.Thread(target=self._keep, daemon=True, name="run-lock")

    def __enter__(self) -> RunLock:
        watched: tuple[object, float] | None = None
        while not self._try(watched):
            # An owner that cannot be looked up: see whether its file changes.
            watched = watched or (self._seen(), time.monotonic())
            time.sleep(min(1.0, self.watch / 10))
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(OSError), self._guard():
            if self._is_ours():
                self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raises `RunFailed` when another process took the directory over (this one was suspended for long)."""
        if self._lost:
            other = _owner(self.path) or "another process"
            raise RunFailed(f"{self.path.parent} was taken over by {other}: this process leaves it to that one")

    def _try(self, watched: tuple[object, float] | None) -> bool:
        """Takes the directory if it is free; False means keep waiting."""
        with writing(self.path), self._guard() as alone:
            owner = _owner(self.path)
            if owner is not None:
                alive = owner.alive()
                if alive is None and watched is None:
                    say(f"{self.path.parent} is or was in use by {owner}: watching whether that one lives")
                    return False
                if alive is None and watched is not None:
                    alive = self._seen() != watched[0]
                    if not alive and time.monotonic() - watched[1] < self.watch:
                        return False
                if alive:
                    raise UserError(
                        f"{self.path.parent} is in use by {owner}: wait for it, stop it, or give another --out"
                    )
                say(f"{self.path.parent} was in use by {owner}, which is gone: taken over")
            self._write(0)
        if alone:
            return True
        time.sleep(self.settle)
        return self._is_ours()

    def _seen(self) -> object:
        try:
            return read_plain(self.path, JSON_LIMIT), self.path.stat().st_mtime_ns
        except OSError:
            return None

    def _write(self, beat: int) -> None:
        write_json(self.path, {**asdict(self.owner), "beat": beat})

    def _is_ours(self) -> bool:
        owner = _owner(self.path)
        return owner is not None and owner.token == self.owner.token

    def _keep(self) -> None:
        beat = 0
        while not self._stop.wait(self.beat):
            beat += 1
            with suppress(OSError), self._guard():
                if not self._is_ours():
                    self._lost = True
                    return
                try:
                    self._write(beat)
                except OSError:  # a full disk
                    os.utime(self.path)

    @contextmanager
    def _guard(self) -> Iterator[bool]:
        """Only one process at a time is inside, if the file system can (True); the kernel opens it when a process dies."""
        with append_to(self.path.with_name(".lock.guard")) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:
                yield False
            else:
                yield True


def _owner(path: Path) -> Owner | None:
    found = read_json(path)
    if not isinstance(found, dict):
        return None
    found.pop("beat", None)
    try:
        return Owner(**found)
    except TypeError:
        return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _born(pid: int) -> str:
    """Start time of a process in clock ticks since boot; empty where there is no /proc."""
    return " ".join(_read(f"/proc/{pid}/stat").rpartition(")")[2].split()[19:20])


def _namespace() -> str:
    """Processes of another container cannot be looked up by number."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
