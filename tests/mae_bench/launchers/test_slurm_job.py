"""What a job does when Slurm tells it that its time is up."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from mae_bench.common.exit_codes import INTERRUPTED
from mae_bench.launchers.slurm_job import MOST_FRUITLESS, SlurmStep

pytest.importorskip("submitit")

_READY = f"""
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: sys.exit({INTERRUPTED}))
print("ready", flush=True)
time.sleep(60)
"""


def under_way(command: list[str], fruitless: int = 0) -> SlurmStep:
    step = SlurmStep(command, fruitless)
    process = step._process = subprocess.Popen(command, stdout=subprocess.PIPE)
    step._waiter = threading.Thread(target=process.wait, daemon=True)
    step._waiter.start()
    return step


def test_a_command_that_saves_goes_back_into_the_queue_as_often_as_it_takes() -> None:
    step = under_way([sys.executable, "-c", _READY], MOST_FRUITLESS - 1)
    assert step._process.stdout is not None
    assert step._process.stdout.readline() == b"ready\n"
    assert step.checkpoint().function.fruitless == 0


def test_a_command_that_never_gets_ready_is_not_started_for_ever() -> None:
    step = SlurmStep(["sleep", "60"])
    for times in range(1, MOST_FRUITLESS):
        step = under_way(step.command, step.fruitless).checkpoint().function
        assert step.fruitless == times
    with pytest.raises(RuntimeError, match="its time was up 3 times in a row before it had started: give it more"):
        under_way(step.command, step.fruitless).checkpoint()
