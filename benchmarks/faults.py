"""Faults at random moments of runs of the command line, and what was lost: the fault table.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/faults.py --times 20

A pre-training of 20 steps on the embedded data set is run undisturbed once. Then, for each fault, runs are disturbed at moments
drawn from a seed and started again by the same command until they end. Counted: faults that hit a running process, starts that
did not end as documented, runs whose weights differ from the undisturbed one's in any bit, steps that the log has twice or
not at all, files left half written. Processes are forked from this one, which has imported everything: a start takes a second.
"""

from __future__ import annotations

import argparse
import contextlib
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

import torch

from mae_bench import api
from mae_bench.cli import main as cli

STEPS = 20
COMMAND = [
    *("pretrain", "pretrain/vit_micro_patch8_embedded", "--set", "data.options.pretrain_count=200"),
    *("--set", "data.limit_train=80", "--set", "train.batch_size=8", "--set", "schedule.epochs=2"),
    *(
        "--set",
        "schedule.warmup_epochs=0",
        "--set",
        "train.log_every_steps=2",
        "--set",
        "train.checkpoint_every_steps=3",
    ),
]


def start(out: Path, workers: int) -> int:
    """The command's process number."""
    pid = os.fork()
    if pid:
        return pid
    code: object = 70
    try:
        os.setpgid(0, 0)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        sys.argv = ["mae-bench", *COMMAND, "--set", f"train.workers={workers}", "--out", str(out)]
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
        found = sorted(out.glob("checkpoints/step_*.pt"))
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


def steps_logged(out: Path) -> list[int]:
    """Steps of training lines."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if line["kind"] == "train"]


def inject(fault: Fault, times: int, seconds: float, wanted: bytes, draw: random.Random) -> dict[str, int]:
    """Runs, disturbed until `times` faults have hit."""
    count = {
        "injected": 0,
        "runs": 0,
        "wrong_exit_codes": 0,
        "runs_that_differ": 0,
        "log_differs": 0,
        "left_over_files": 0,
    }
    while count["injected"] < times:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            code: int | None = -1
            for attempt in range(200):
                pid = start(out, fault.workers)
                # The later faults of a run hit later: else no run would ever end.
                code = ended(pid, draw.uniform(0, seconds * (1 + attempt / 4)) if count["injected"] < times else 120)
                hit = code is None and fault.disturb(pid, out, draw)
                if code is None:
                    code = ended(pid, 120)
                    count["wrong_exit_codes"] += code not in (*fault.codes, 0)  # 0: it was about to end
                    count["injected"] += hit and code != 0
                elif code != 0:
                    count["wrong_exit_codes"] += 1
                if code == 0:
                    break
            count["runs"] += 1
            same = code == 0 and (out / "mae.safetensors").read_bytes() == wanted
            count["runs_that_differ"] += not same
            count["log_differs"] += not same or steps_logged(out) != expected_log(out)
            count["left_over_files"] += len(list(out.rglob(".*.tmp*")))
    return count


def expected_log(out: Path) -> list[int]:
    """Every second step once; stops and saves add the odd ones that they were at, once and in order as well."""
    found = steps_logged(out)
    even = list(range(2, STEPS + 1, 2))
    odd = sorted({step for step in found if step % 2})
    return sorted(even + odd)


HEADS = (
    *("fault", "injected", "runs", "other exit codes", "runs with other weights"),
    *("logs with a step twice or missing", "files left"),
)


def print_row(*cells: object) -> None:
    """A row of a Markdown table, at once."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20, help="faults of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", help="comma-separated, default all: " + ", ".join(FAULTS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    assert api  # imported before the fork: a child starts with everything loaded
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        if ended(start(out, 0), 600) != 0:
            sys.exit("the undisturbed run failed")
        wanted = (out / "mae.safetensors").read_bytes()
        began = time.monotonic()
        ended(start(Path(folder) / "again", 0), 600)
        seconds = time.monotonic() - began
    names = options.faults.split(",") if options.faults else list(FAULTS)
    draw = random.Random(options.seed)
    counts = {}
    if not options.json:
        print_row(*HEADS)
        print_row(*["---"] * len(HEADS))
    for name in names:
        counts[name] = inject(FAULTS[name], options.times, seconds, wanted, draw)
        if not options.json:
            print_row(name, *counts[name].values())
    if options.json:
        print(json.dumps(counts, indent=1))


if __name__ == "__main__":
    main()
