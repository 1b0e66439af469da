"""The command line in a child of this process: imports are there already, faults can be put in, and it can be killed."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from mae_bench.cli import main as command_line

Hook = Callable[[], None]


class Child:
    """``mae-bench ARGUMENTS`` begun; `hook` runs in the child first, to put faults in."""

    def __init__(self, err: Path, *arguments: object, hook: Hook | None = None) -> None:
        self.err_path = err
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os._exit(_be_the_command(err, [str(a) for a in arguments], hook))

    def wait(self, seconds: float = 60) -> int:
        """The exit code, minus the signal's number when one ended it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError(f"still running after {seconds} s:\n{self.err}")

    @property
    def err(self) -> str:
        """What it wrote so far."""
        return self.err_path.read_text(errors="replace")


def _be_the_command(err: Path, arguments: list[str], hook: Hook | None) -> int:
    code: object = 70
    try:
        file = os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115 (the child's until it ends)
        sys.stderr = sys.__stderr__ = open(2, "w", closefd=False)  # noqa: SIM115
        sys.argv = ["mae-bench", *arguments]
        if hook is not None:
            hook()
        command_line.main()
        code = 0
    except SystemExit as e:
        code = e.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 1
