"""Faults at random moments of runs of the command line, and what was lost: the fault table.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/faults.py --times 20
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/faults.py --times 100 --faults SIGKILL --tasks all

A small run of a task on the embedded data set is made undisturbed once. Then, for each fault, runs are disturbed at moments
drawn from a seed and started again by the same command until they end. Counted: faults that hit a running process, starts that
did not end as documented, runs whose weights or metrics differ from the undisturbed one's in any bit, steps that the log has
twice or not at all, files left half written. With several tasks the faults are shared out among them. Processes are forked from
this one, which has imported everything: a start takes a second.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mae_bench import api
from mae_bench.cli import main as cli

SMALL = (
    *("--set", "data.options.pretrain_count=200", "--set", "data.options.train_count=240"),
    *("--set", "data.options.val_count=60", "--set", "data.options.scene_train_count=20"),
    *("--set", "data.options.scene_val_count=8", "--set", "train.log_every_steps=2"),
    *("--set", "train.checkpoint_every_steps=3"),
)
SCRATCH = ("run", "--scratch", "vit_micro_patch8")
DENSE = (
    *("--set", "schedule.iterations=16", "--set", "schedule.warmup_iterations=2", "--set", "train.batch_size=2"),
    *("--set", "train.workers=0"),
)
TASKS: dict[str, tuple[str, ...]] = {
    "pretraining": (
        *("pretrain", "pretrain/vit_micro_patch8_embedded", *SMALL, "--set", "data.limit_train=80"),
        *("--set", "train.batch_size=8", "--set", "schedule.epochs=2", "--set", "schedule.warmup_epochs=0"),
    ),
    "classification": (
        *(*SCRATCH, "--tasks", "finetune/vit_micro_patch8_embedded", *SMALL, "--set", "data.limit_train=80"),
        *("--set", "train.batch_size=8", "--set", "schedule.epochs=2", "--set", "schedule.warmup_epochs=0"),
    ),
    "probing": (
        *(*SCRATCH, "--tasks", "probe/vit_micro_patch8_embedded", *SMALL, "--set", "data.limit_train=80"),
        *("--set", "train.batch_size=8", "--set", "schedule.epochs=2"),
    ),
    "detection": (*SCRATCH, "--tasks", "detection/vit_micro_patch8_embedded", *SMALL, *DENSE),
    "segmentation": (*SCRATCH, "--tasks", "segmentation/vit_micro_patch8_embedded", *SMALL, *DENSE),
}


def start(task: str, out: Path, workers: int) -> int:
    """The process number of a task's command."""
    pid = os.fork()
    if pid:
        return pid
    code: object = 70
    try:
        os.setpgid(0, 0)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        workers_key = ("--set", f"train.workers={workers}") if workers else ()
        sys.argv = ["mae-bench", *TASKS[task], *workers_key, "--out", str(out)]
        cli.main()
        code = 0
    except SystemExit as e:
        code = e.code or 0
    finally:
        os._exit(code if isinstance(code, int) else 1)


def ended(pid: int, seconds: float) -> int | None:
    """The exit code once the process has ended; None when it has not within `seconds`."""
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(0.002)


Disturb = Callable[
    [int, Path, random.Random], bool
]  # (process, run directory) -> whether there was something to disturb


def signalled(number: signal.Signals) -> Disturb:
    """The run's process gets a signal."""

    def disturb(pid: int, _: Path, __: random.Random) -> bool:
        os.kill(pid, number)
        return True

    return disturb


def damaged(cut: bool) -> Disturb:
    """Killed, and its newest checkpoint cut off at a random place or one random bit of it flipped."""

    def disturb(pid: int, out: Path, draw: random.Random) -> bool:
        os.kill(pid, signal.SIGKILL)
        found = sorted(out.rglob("checkpoints/step_*.pt"))
        if len(found) < 2:  # with a single one nothing can be gone back to
            return False
        content = bytearray(found[-1].read_bytes())
        at = draw.randrange(len(content) - 73)  # the checksum's own line is 73 bytes
        if cut:
            del content[at:]
        else:
            content[at] ^= 1 << draw.randrange(8)
        found[-1].write_bytes(content)
        return True

    return disturb


def worker_killed(pid: int, _: Path, draw: random.Random) -> bool:
    """One of its data workers gets SIGKILL, as from the system when memory is short."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    if not children:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(draw.choice(children)), signal.SIGKILL)
    return True


@dataclass(frozen=True)
class Fault:
    """What is done, the exit codes that are documented for it, data workers."""

    disturb: Disturb
    codes: tuple[int, ...]
    workers: int = 0


FAULTS = {
    "SIGKILL": Fault(signalled(signal.SIGKILL), (-9,)),
    # Before the run begins (the recipe is read) a signal ends the process as it ends any.
    "SIGTERM": Fault(signalled(signal.SIGTERM), (75, -15)),
    "SIGUSR1": Fault(signalled(signal.SIGUSR1), (75, -10)),
    "newest checkpoint cut off": Fault(damaged(cut=True), (-9,)),
    "a bit of the newest checkpoint flipped": Fault(damaged(cut=False), (-9,)),
    "data worker killed": Fault(worker_killed, (1,), workers=2),
}


@dataclass(frozen=True)
class Result:
    """What must be the same of an undisturbed and a disturbed run, to the bit."""

    weights: dict[str, str]
    metrics: Any
    loss: float | None


def result(out: Path) -> tuple[Result, list[int]]:
    """Of a finished run, with the steps of the log's training lines."""
    run_dir = next(out.rglob("record.json")).parent
    record = json.loads((run_dir / "record.json").read_text())
    lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    weights = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(run_dir.glob("*.safetensors"))}
    steps = [line["step"] for line in lines if line["kind"] == "train"]
    return Result(weights, record["metrics"], record["final_loss"]), steps


def inject(task: str, fault: Fault, times: int, wanted: Wanted, draw: random.Random) -> dict[str, int]:
    """Runs, disturbed until `times` faults have hit."""
    count = dict.fromkeys(COUNTS, 0)
    while count["injected"] < times:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            code: int | None = -1
            for attempt in range(200):
                pid = start(task, out, fault.workers)
                # The later faults of a run hit later: else no run would ever end.
                wait = draw.uniform(0, wanted.seconds * (1 + attempt / 4)) if count["injected"] < times else 600
                code = ended(pid, wait)
                hit = code is None and fault.disturb(pid, out, draw)
                if code is None:
                    code = ended(pid, 600)
                    count["wrong_exit_codes"] += code not in (*fault.codes, 0)  # 0: it was about to end
                    count["injected"] += hit and code != 0
                elif code != 0:
                    count["wrong_exit_codes"] += 1
                if code == 0:
                    break
            count["runs"] += 1
            found = result(out) if code == 0 else None
            count["runs_that_differ"] += found is None or found[0] != wanted.result
            count["log_differs"] += found is None or not _log_is_whole(found[1], wanted.steps)
            count["left_over_files"] += len(list(out.rglob(".*.tmp*")))
    return count


def _log_is_whole(steps: list[int], wanted: list[int]) -> bool:
    """Each step of the undisturbed run's log, in order and once; stops and saves add those that they were at."""
    return steps == sorted(set(steps)) and set(wanted) <= set(steps)


@dataclass(frozen=True)
class Wanted:
    """The undisturbed run, and how long one takes."""

    result: Result
    steps: list[int]
    seconds: float


def undisturbed(task: str) -> Wanted:
    """Runs twice: the first makes the data set, too."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        if ended(start(task, out, 0), 1800) != 0:
            sys.exit(f"the undisturbed run of {task} failed")
        found = result(out)
        began = time.monotonic()
        ended(start(task, Path(folder) / "again", 0), 1800)
        return Wanted(*found, time.monotonic() - began)


COUNTS = ("injected", "runs", "wrong_exit_codes", "runs_that_differ", "log_differs", "left_over_files")
HEADS = (
    *("task", "fault", "injected", "runs", "other exit codes", "runs that differ in a bit"),
    *("logs with a step twice or missing", "files left"),
)


def print_row(*cells: object) -> None:
    """A row of a Markdown table, at once."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20, help="faults of each kind, over all tasks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", default="pretraining", help="comma-separated, or all: " + ", ".join(TASKS))
    parser.add_argument("--faults", help="comma-separated, default all: " + ", ".join(FAULTS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    assert api  # imported before the fork: a child starts with everything loaded
    tasks = list(TASKS) if options.tasks == "all" else options.tasks.split(",")
    faults = options.faults.split(",") if options.faults else list(FAULTS)
    draw = random.Random(options.seed)
    counts: dict[str, dict[str, dict[str, int]]] = {}
    if not options.json:
        print_row(*HEADS)
        print_row(*["---"] * len(HEADS))
    for place, task in enumerate(tasks):
        wanted = undisturbed(task)
        share = options.times // len(tasks) + (place < options.times % len(tasks))
        for fault in faults:
            counts.setdefault(task, {})[fault] = inject(task, FAULTS[fault], share, wanted, draw)
            if not options.json:
                print_row(task, fault, *counts[task][fault].values())
    if options.json:
        print(json.dumps(counts, indent=1))


if __name__ == "__main__":
    main()
