"""What a Slurm job runs: one step's command, and what to do when the cluster wants its machine back; `slurm` submits it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import Any

from mae_bench.common.exit_codes import INTERRUPTED
from mae_bench.jobs import slurm_queue

SIGNAL = "USR1"  # what Slurm sends before the time limit, to this process and to the command that it runs
_LEAVE_SECONDS = 600
MOST_RESTARTS = 10  # after a process that is gone: the next start may lose it again
MOST_FRUITLESS = 3  # starts in a row, each too short to be ready: more of them only cost


class SlurmStep:
    """A callable that submitit pickles into the job; with several tasks, each is one process of a distributed run.

    Args:
        fruitless: how many starts in a row have come to nothing.
    """

    def __init__(self, command: Sequence[str], fruitless: int = 0) -> None:
        self.command, self.fruitless = list(command), fruitless

    def __call__(self) -> None:
        """Runs the command.

        Raises:
            RuntimeError: it failed; jobs that depend on this one do not start.
        """
        self._told_to_leave = False
        before = signal.getsignal(signal.SIGTERM)

        def preempted(number: int, frame: Any) -> None:
            self._told_to_leave = True
            if callable(before):
                before(number, frame)

        signal.signal(signal.SIGTERM, preempted)
        process = self._start()
        # Not `process.wait()`: the signal handler of submitit runs in this thread and waits for the same process.
        waiter = self._waiter = threading.Thread(target=process.wait, daemon=True)
        waiter.start()
        while waiter.is_alive():
            time.sleep(0.2)
        if process.returncode == INTERRUPTED:
            self._back_into_the_queue()
        if process.returncode:
            raise RuntimeError(f"{self.command[-1]}: its process ended with {process.returncode}")

    def checkpoint(self) -> Any:
        """submitit calls this on `SIGNAL` and then puts the job back into the queue: first the command has to save.

        Raises:
            RuntimeError: the command was not even ready to be told, as often as `MOST_FRUITLESS` says: so it would go on.
        """
        from submitit.helpers import DelayedSubmission

        number = getattr(signal, f"SIG{SIGNAL}")
        self._process.send_signal(number)
        deadline = time.monotonic() + _LEAVE_SECONDS
        while self._waiter.is_alive() and time.monotonic() < deadline:
            time.sleep(0.2)
        fruitless = self.fruitless + 1 if self._process.returncode == -number else 0
        if fruitless == MOST_FRUITLESS:
            raise RuntimeError(
                f"{self.command[-1]}: its time was up {fruitless} times in a row before it had started: "
                "give it more (--slurm time=…), or less to save in (--slurm signal_delay_s=…)"
            )
        return DelayedSubmission(SlurmStep(self.command, fruitless))

    def _start(self) -> subprocess.Popen[bytes]:
        if int(os.environ.get("SLURM_NTASKS", "1")) > 1:
            from submitit.helpers import TorchDistributedEnvironment

            # Overwritten: whoever submits may be a process of several itself.
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        self._process = subprocess.Popen(self.command)
        return self._process

    def _back_into_the_queue(self) -> None:
        """The command left before its end. If nobody has put the job back (or cancelled it), do so, and wait to be ended.

        Told to leave (preempted), the first process does. After the loss of a process, which may be the first, every other
        does; not for ever, since what ended that one may end it again.
        """
        job, lost = _job_id(), not self._told_to_leave and int(os.environ.get("SLURM_NTASKS", "1")) > 1
        if lost and int(os.environ.get("SLURM_RESTART_COUNT", "0")) >= MOST_RESTARTS:
            return
        first = os.environ.get("SLURM_PROCID", "0") == "0"
        if (first or lost) and slurm_queue.live().get(job) == "RUNNING":
            subprocess.run(["scontrol", "requeue", job], check=not lost)
        time.sleep(_LEAVE_SECONDS if slurm_queue.live().get(job) is not None else 0)


def _job_id() -> str:
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]
