"""Images a second and peak memory of an MAE pre-training step, ours beside its peers, in one run; see README.md beside it.

Peers take turns step by step, in another order each round, so that a machine that gets busy slows all of them. Prints a
markdown table, or JSON with every reading under ``--json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

PEERS = ("ours", "official", "huggingface", "stable-pretraining")
PRECISIONS = ("fp32", "bf16")
WARMUP = 2
WORKER = Path(__file__).with_name("worker.py")


class PeerError(Exception):
    """A peer cannot run here, and why."""


class Process:
    """A `worker.py`; `ask` sends a request and waits for the answer."""

    def __init__(self, python: str) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [python, str(WORKER)], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, what: str, **request: Any) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            PeerError: the worker failed, or is gone.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps({"do": what, **request}), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerError(f"its process ended with status {self.process.wait()}: is memory short?")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def open_peer(stack: ExitStack, args: argparse.Namespace, peer: str) -> tuple[Process, dict[str, Any]]:
    """A process that holds `peer`, closed by `stack`, and what it says of itself."""
    process = stack.enter_context(Process(args.peer_python.get(peer, sys.executable)))
    about = process.ask(
        "open",
        peer=peer,
        arch=args.arch,
        batch_size=args.batch_size,
        official=args.official,
        official_timm=args.official_timm,
    )
    return process, about


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that the table shows, and every reading."""
    result: dict[str, Any] = {"arch": args.arch, "batch_size": args.batch_size, "peers": {}, "left_out": {}}
    with Process(sys.executable) as process:
        result["flops_per_image"] = process.ask("step_flops", arch=args.arch)["flops"]
        result["matmul_peak"] = {p: process.ask("matmul_peak", precision=p)["flops"] for p in args.precisions}
    with ExitStack() as stack:
        processes = {}
        for peer in args.peers:
            try:
                processes[peer], about = open_peer(stack, args, peer)
                result["peers"][peer] = {**about, "peak_bytes": measure_memory(args, peer, processes[peer])}
            except PeerError as error:
                processes.pop(peer, None)
                result["left_out"][peer] = str(error)
        if processes:
            measure_times(args, processes, result["peers"])
    return result


def measure_memory(args: argparse.Namespace, peer: str, fresh: Process) -> dict[str, int]:
    """Peak bytes of each precision, from a process that has taken no other step: `fresh` for the first one."""
    first, *others = args.precisions
    peaks = {first: fresh.ask("memory", precision=first)["bytes"]}
    for precision in others:
        with ExitStack() as stack:
            peaks[precision] = open_peer(stack, args, peer)[0].ask("memory", precision=precision)["bytes"]
    return peaks


def measure_times(args: argparse.Namespace, processes: dict[str, Process], peers: dict[str, Any]) -> None:
    """Adds the readings to `peers`: each takes one step when its turn comes."""
    for figures in peers.values():
        figures |= {"seconds": {p: [] for p in args.precisions}, "loss": {}}
    names = list(processes)
    for turn in range(WARMUP + args.steps):
        first = turn % len(names)
        for precision in args.precisions:
            for peer in names[first:] + names[:first]:
                answer = processes[peer].ask("step", precision=precision)
                peers[peer]["loss"][precision] = answer["loss"]
                if turn >= WARMUP:
                    peers[peer]["seconds"][precision].append(answer["seconds"])
        print(f"round {turn + 1} of {WARMUP + args.steps}", file=sys.stderr, flush=True)


def table(result: dict[str, Any]) -> str:
    """Markdown, a row for each peer and precision; ratios are of medians."""
    peers, batch = result["peers"], result["batch_size"]
    left_out = [f"Left out: {peer}: {why}" for peer, why in result["left_out"].items()]
    if not peers:
        return "\n".join(left_out)
    baseline = "official" if "official" in peers else next(iter(peers))
    lines = [
        f"| peer | precision | images/s, median (min–max) | × {baseline} fp32 | peak memory, GiB | of matmul peak |",
        "|---|---|---|---|---|---|",
    ]
    for peer, figures in peers.items():
        for precision, seconds in figures["seconds"].items():
            rates = [batch / s for s in seconds]
            reference = peers[baseline]["seconds"].get("fp32")
            ratio = f"{median(reference) / median(seconds):.2f}" if reference else "–"
            spread = f"{median(rates):.2f} ({min(rates):.2f}–{max(rates):.2f})"
            share = result["flops_per_image"] * median(rates) / result["matmul_peak"][precision]
            lines.append(
                f"| {peer} ({figures['note']}) | {precision} | {spread} | {ratio} "
                f"| {figures['peak_bytes'][precision] / 2**30:.2f} | {share:.0%} |"
            )
    machine = sorted({f"{figures['device']}, torch {figures['torch']}" for figures in peers.values()})
    peak = ", ".join(f"{p} {flops / 1e12:.2f}" for p, flops in result["matmul_peak"].items())
    lines += [
        "",
        f"ViT {result['arch']}, batch {batch}, {'; '.join(machine)}; matrix product at its best, TFLOP/s: {peak}.",
    ]
    return "\n".join([*lines, *left_out])


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="base", choices=["micro", "base", "large"])
    parser.add_argument("--batch-size", type=int, default=16, help="images a step")
    parser.add_argument(
        "--steps", type=int, default=5, help="readings of each peer and precision, after two rounds unread"
    )
    parser.add_argument("--peers", type=lambda v: v.split(","), default=list(PEERS), help=",".join(PEERS))
    parser.add_argument(
        "--precisions", type=lambda v: v.split(","), default=list(PRECISIONS), help=",".join(PRECISIONS)
    )
    parser.add_argument("--official", metavar="DIR", help="a checkout of facebookresearch/mae")
    parser.add_argument("--official-timm", metavar="DIR", help="a folder with timm 0.3.2; without, the one installed")
    parser.add_argument(
        "--peer-python", metavar="PEER=PYTHON", action="append", default=[], help="the interpreter that has a peer"
    )
    parser.add_argument("--json", action="store_true", help="print every reading instead of the table")
    args = parser.parse_args(arguments)
    for given, known in ((args.peers, PEERS), (args.precisions, PRECISIONS)):
        if unknown := set(given) - set(known):
            parser.error(f"{', '.join(sorted(unknown))}: give some of {', '.join(known)}")
    if args.steps < 1 or args.batch_size < 1:
        parser.error("--steps and --batch-size: give at least 1")
    args.peer_python = dict(pair.split("=", 1) for pair in args.peer_python)
    return args


def main() -> int:
    """Measures and prints; 1 when no peer could run."""
    args = parse()
    result = measure(args)
    print(json.dumps(result, indent=1) if args.json else table(result))
    return 0 if result["peers"] else 1


if __name__ == "__main__":
    sys.exit(main())
