"""Jobs as processes of this machine, side by side on as many devices as each needs, which its launcher says."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mae_bench.common.console import say
from mae_bench.common.signals import stop_signals
from mae_bench.jobs import ledger
from mae_bench.jobs.job import JobPlan, PlannedJob
from mae_bench.launchers import live
from mae_bench.launchers.base import Outcome, blocked, settle
from mae_bench.launchers.last_words import last_words

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Call:
    """A process to start: its arguments, and what is added to its environment."""

    arguments: Sequence[str]
    environment: Mapping[str, str]


@dataclass
class _Running:
    process: subprocess.Popen[bytes]
    devices: list[str]
    log: Path
    log_begins: int  # bytes of earlier starts


def choose(ready: Sequence[PlannedJob], needs: Mapping[str, int], free: int) -> PlannedJob | None:
    """Which of the jobs that could start does: the one that needs most among those that fit, the first of several such."""
    fitting = [job for job in ready if needs[job.name] <= free]
    return max(fitting, key=lambda job: needs[job.name], default=None)


def run(
    plan: JobPlan,
    out: Path,
    devices: Sequence[str],
    needs: Mapping[str, int],
    call: Callable[[PlannedJob, list[str]], Call],
) -> Outcome:
    """Runs all jobs, each on as many of `devices` as it needs, after what it starts from.

    A signal is handed on to the processes, which save and leave; the rest then stays for the next start. A second Ctrl-C kills
    them.
    """
    outcome = Outcome()
    free, pending, running = list(devices), list(plan.jobs), dict[str, _Running]()
    with stop_signals() as stop, stop.deferred(), _none_left_behind(running), live.display(out) as shown:
        while (pending and not outcome.interrupted) or running:
            if stop.is_set() and not outcome.interrupted:
                outcome.interrupted = True
                _hand_on(running)
            _start_ready(plan, out, free, pending, running, needs, call, outcome)
            for name in [n for n, r in running.items() if r.process.poll() is not None]:
                ended = running.pop(name)
                free += ended.devices
                said = last_words(ended.log, ended.log_begins)
                settle(plan, plan[name], out, ended.process.returncode, outcome, ended.log, said)
                say(f"{name}: {_came_to(name, outcome)}")
            shown(running)
            time.sleep(_POLL_SECONDS)
    return outcome


def _start_ready(
    plan: JobPlan,
    out: Path,
    free: list[str],
    pending: list[PlannedJob],
    running: dict[str, _Running],
    needs: Mapping[str, int],
    call: Callable[[PlannedJob, list[str]], Call],
    outcome: Outcome,
) -> None:
    pending[:] = [job for job in pending if not blocked(plan, job, outcome, out)]
    while not outcome.interrupted:
        waiting = {job.name for job in pending} | set(running)
        job = choose([s for s in pending if s.after not in waiting], needs, len(free))
        if job is None:
            return
        pending.remove(job)
        mine = [free.pop(0) for _ in range(needs[job.name])]
        running[job.name] = _start(job, call(job, mine), mine, out)
        say(f"{job.name}: started on {', '.join(mine)}")


def _start(job: PlannedJob, call: Call, devices: list[str], out: Path) -> _Running:
    ledger.clear_note(out, job.name)  # of an earlier start, which is not why this one ends
    log = ledger.log_file(out, job.name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        begins = file.tell()
        # In a session of its own: Ctrl-C reaches this process alone, which hands it on once.
        process = subprocess.Popen(
            list(call.arguments),
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **call.environment},
            start_new_session=True,
        )
    return _Running(process, devices, log, begins)


def _came_to(name: str, outcome: Outcome) -> str:
    if name in outcome.failures:
        return outcome.failures[name]
    return "done" if any(record.name == name for record in outcome.records) else "interrupted"


def _hand_on(running: Mapping[str, _Running]) -> None:
    for one in running.values():
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGTERM)


@contextmanager
def _none_left_behind(running: Mapping[str, _Running]) -> Iterator[None]:
    """Processes in sessions of their own outlive this one: whatever ends the block early ends them, too."""
    try:
        yield
    except BaseException:
        for one in running.values():
            one.process.kill()
        raise
