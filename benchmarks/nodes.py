"""Faults of runs on several nodes, and what was lost: the fault table of docs/launchers.md.

    OMP_NUM_THREADS=1 PYTHONPATH=. .venv/bin/python benchmarks/nodes.py --times 3

A small fine-tuning on the embedded data set runs undisturbed on two nodes, once: two torchrun agents that meet on loopback.
Then runs of the same job, by ``--launcher torchrun`` and on a Slurm cluster of three nodes on this machine, are disturbed
after a checkpoint, at a moment drawn from a seed. Counted: jobs that were hit and resumed; jobs that came to their end by
themselves, or by the same command given once more; jobs whose weights differ from the undisturbed one's in any bit; steps
that were done twice. Of an array each job counts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.end_to_end import slurm_cluster

STEPS = 120
JOB = (
    *("run", "--scratch", "vit_micro_patch8", "--tasks", "finetune"),
    *("--set", "data.options.pretrain_count=200", "--set", "data.options.train_count=80"),
    *("--set", "data.options.val_count=21", "--set", "data.options.scene_train_count=12"),
    *("--set", "data.options.scene_val_count=5", "--set", "train.batch_size=20"),
    *("--set", f"schedule.epochs={STEPS // 4}", "--set", "schedule.warmup_epochs=0", "--set", "train.workers=0"),
    *("--set", "train.log_every_steps=2", "--set", "train.checkpoint_every_steps=10"),
)
SLURM = ("--launcher", "slurm", "--slurm", "gpus_per_node=0,cpus_per_task=1,nodes=2,signal_delay_s=30,time=30")
ARRAY = ("--seeds", "0,1")
LIMIT = 500.0  # seconds that a run may take, restarts with it


@dataclass
class Bench:
    """Where things run, and what an undisturbed run came to."""

    folder: Path
    draw: random.Random
    cluster: slurm_cluster.Cluster | None = None
    wanted: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> Mapping[str, str]:
        """Of every process."""
        return self.cluster.environment if self.cluster else os.environ

    def slurm(self, *command: str) -> str:
        """A client of the cluster."""
        return subprocess.run(command, env=dict(self.environment), capture_output=True, text=True).stdout

    def start(self, out: Path, *options: str) -> subprocess.Popen[bytes]:
        """The job's command."""
        log = open(out.with_suffix(".log"), "ab")  # noqa: SIM115 (the process's)
        command = [sys.executable, "-m", "mae_bench", *JOB, *options, "--out", str(out)]
        return subprocess.Popen(command, env=dict(self.environment), stdout=log, stderr=log, start_new_session=True)


def agents(bench: Bench, out: Path, restarts: int, *others: str) -> list[subprocess.Popen[bytes]]:
    """Two nodes by torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"nproc_per_node=1,nnodes=2,rdzv_endpoint=127.0.0.1:{port},max_restarts={restarts}"
    return [bench.start(out, "--launcher", "torchrun", "--torchrun", options, *others) for _ in range(2)]


def under_way(bench: Bench, out: Path) -> None:
    """Waits for the first checkpoint, and a moment longer."""
    until(lambda: any(out.rglob("step_*.pt")), 90)
    time.sleep(bench.draw.uniform(0, 1.0))


def until(true: Callable[[], bool], seconds: float = LIMIT) -> bool:
    """Whether it came to be true in that time."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def weights(out: Path) -> dict[str, str]:
    """Of finished jobs: name of the folder -> digest."""
    found = (path for path in out.rglob("model.safetensors") if path.with_name("record.json").is_file())
    return {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def resumed(out: Path) -> int:
    """Finished jobs that were begun more than once: the fault has hit them."""
    records = [json.loads(path.read_text()) for path in out.rglob("record.json")]
    return sum(any("resumed" in line for line in record["warnings"]) for record in records)


def lost(out: Path) -> int:
    """Steps that a job's log tells of beyond its newest checkpoint: they are done twice; of several jobs the most."""
    return max((_lost(log) for log in out.rglob("log.jsonl")), default=0)


def _lost(log: Path) -> int:
    saved = max((int(path.stem.rpartition("_")[2]) for path in log.parent.rglob("step_*.pt")), default=0)
    return max([0, *(json.loads(line).get("step", 0) - saved for line in log.read_text().splitlines())])


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def worker_dies(bench: Bench, out: Path) -> int:
    """torchrun: the worker of one node is killed; both agents start anew by themselves."""
    launchers = agents(bench, out, restarts=3)
    under_way(bench, out)
    steps = lost(out)
    (agent,) = children(bench.draw.choice(launchers).pid)
    os.kill(children(agent)[0], signal.SIGKILL)
    for launcher in launchers:
        launcher.wait(LIMIT)
    return steps


def node_of_torchrun_dies(bench: Bench, out: Path) -> int:
    """torchrun: one node is gone, launcher, agent and worker; the other leaves, and the same command goes on."""
    launchers = agents(bench, out, restarts=0)
    under_way(bench, out)
    steps = lost(out)
    dead = bench.draw.choice(launchers)
    (agent,) = children(dead.pid)
    for pid in (dead.pid, agent, *children(agent)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for launcher in launchers:
        launcher.wait(LIMIT)
    for launcher in agents(bench, out, restarts=0):
        launcher.wait(LIMIT)
    return steps


def submitted(bench: Bench, out: Path, *options: str) -> str:
    """The job in Slurm's queue (of an array the last), by its id."""
    bench.start(out, *SLURM, *options).wait(120)
    return out.with_suffix(".log").read_text().split()[-1]


def disturbed(act: Callable[[Bench, str], None], *options: str, jobs: int = 1) -> Callable[[Bench, Path], int]:
    """Jobs in the queue, disturbed by `act` after a checkpoint of each, which go on by themselves."""

    def run(bench: Bench, out: Path) -> int:
        job = submitted(bench, out, *options)
        until(lambda: len({path.parent for path in out.rglob("step_*.pt")}) == jobs, 200)
        under_way(bench, out)
        steps = lost(out)
        act(bench, job)
        until(lambda: len(weights(out)) == jobs)
        until(lambda: not bench.slurm("squeue", "-h", "-t", "R,CG,PD"), 60)
        return steps

    return run


def node_dies(bench: Bench, job: str) -> None:
    """A node of the job loses its power, and comes back later."""
    assert bench.cluster
    node = bench.draw.choice(bench.slurm("squeue", "-h", "-j", job, "-o", "%N").strip().split(","))
    bench.cluster.kill_node(node)
    until(lambda: bench.slurm("squeue", "-h", "-j", job, "-o", "%N").strip() not in ("", node), 60)
    bench.cluster.start(node)


def preempted(bench: Bench, _: str) -> None:
    """A job of a partition that goes before wants all nodes."""
    bench.slurm("sbatch", "-p", "urgent", "-N3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 3")


def requeued(bench: Bench, job: str) -> None:
    """``scontrol requeue``."""
    bench.slurm("scontrol", "requeue", job)


def time_limit(bench: Bench, job: str) -> None:
    """Slurm is told that the time is nearly up, and sends its signal by itself; the job has time again when it comes back."""
    minutes = int(bench.slurm("squeue", "-h", "-j", job, "-o", "%M").strip().split(":")[-2]) + 1
    bench.slurm("scontrol", "update", f"jobid={job}", f"timelimit={minutes}")
    until(lambda: "Restarts=0" not in bench.slurm("scontrol", "show", "job", job), 90)
    bench.slurm("scontrol", "update", f"jobid={job}", "timelimit=30")


FAULTS: dict[str, tuple[bool, Callable[[Bench, Path], int]]] = {
    "torchrun, 2 nodes: a worker killed, `max_restarts=3`": (False, worker_dies),
    "torchrun, 2 nodes: a node killed, the same command again": (False, node_of_torchrun_dies),
    "Slurm, 2 of 3 nodes: a node dies (`slurmd`, step and processes)": (True, disturbed(node_dies)),
    "Slurm, 2 nodes: preempted by a higher partition": (True, disturbed(preempted)),
    "Slurm, 2 nodes: `scontrol requeue`": (True, disturbed(requeued)),
    "Slurm, 2 nodes: the time limit comes near": (
        True,
        disturbed(time_limit, "--slurm", "signal_delay_s=55"),  # due 5 s into the job's current minute
    ),
    "Slurm, an array of 2 jobs, each on 2 of 3 nodes: a node dies": (True, disturbed(node_dies, *ARRAY, jobs=2)),
    "Slurm, an array of 2 jobs, each on 2 of 3 nodes: preempted": (True, disturbed(preempted, *ARRAY, jobs=2)),
}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3, help="of each fault")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="faults whose line has this text")
    options = parser.parse_args()
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as held:
        bench = Bench(Path(folder), random.Random(options.seed))
        for agent in agents(bench, bench.folder / "whole", 0, *ARRAY):
            agent.wait(LIMIT)
        bench.wanted = weights(bench.folder / "whole")
        reason = slurm_cluster.why_not(3)
        if reason:
            print(f"without Slurm: {reason}", file=sys.stderr)
        else:
            bench.cluster = held.enter_context(slurm_cluster.cluster(bench.folder / "cluster", 3))
        print(
            "| what was done | times | jobs hit | went on to the end | weights that differ in a bit | steps done twice |"
        )
        print("|---|---:|---:|---:|---:|---:|")
        for number, (name, (slurm, fault)) in enumerate(FAULTS.items()):
            if options.only not in name or (slurm and reason):
                continue
            found, steps, hit = [], [], 0
            for k in range(options.times):
                out = bench.folder / f"f{number}-{k}"
                steps.append(fault(bench, out))
                found += [digest == bench.wanted[job] for job, digest in weights(out).items()]
                hit += resumed(out)
                if not weights(out):
                    print(
                        out.with_suffix(".log").read_text(), *map(Path.read_text, out.rglob("*.err")), file=sys.stderr
                    )
            row = (name, options.times, hit, len(found), found.count(False), f"{max(steps)} at most")
            print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    main()
