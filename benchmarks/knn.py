"""Queries a second and peak memory of weighted k-NN, ours beside the whole matrix at once and scikit-learn's brute force.

Every reading is of a process of its own, so that peak memory is one method's; methods take turns. Features are random, of which
the time of an exact search does not depend; all methods read the same memory-mapped file. Prints a markdown table, or JSON with
every reading under ``--json``. Predictions of all methods are compared.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

METHODS = ("ours", "matrix", "sklearn")
NOTES = {
    "ours": "chunks, running top-k, every k at once",
    "matrix": "all similarities in memory, torch",
    "sklearn": "NearestNeighbors(algorithm='brute', metric='cosine')",
}
TEMPERATURE = 0.07
SEED = 0


def ours(train: Any, labels: NDArray[Any], queries: NDArray[Any], args: argparse.Namespace) -> NDArray[Any]:
    """Classes of the queries, as the recipes find them."""
    import torch

    from tasks.probing.config import KnnConfig
    from tasks.probing.knn import NearestNeighbours

    config, device = KnnConfig(), "cuda" if torch.cuda.is_available() else "cpu"
    search = NearestNeighbours(
        train, labels.tolist(), args.classes, [args.k], TEMPERATURE, chunk=config.train_chunk, device=device
    )
    blocks = [torch.from_numpy(queries[i : i + config.query_chunk]) for i in range(0, len(queries), config.query_chunk)]
    return np.concatenate([next(search.votes(block))[1].argmax(1).cpu().numpy() for block in blocks])


def matrix(train: Any, labels: NDArray[Any], queries: NDArray[Any], args: argparse.Namespace) -> NDArray[Any]:
    """The same by one product and one top-k."""
    import torch
    from torch.nn.functional import normalize

    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = normalize(torch.from_numpy(np.array(train)).to(device).float(), dim=1)
    asked = normalize(torch.from_numpy(queries).to(device), dim=1)
    similarity, index = (asked @ rows.T).topk(args.k, dim=1)
    votes = torch.zeros(len(asked), args.classes, device=device)
    votes.scatter_add_(1, torch.from_numpy(labels).to(device)[index], (similarity / TEMPERATURE).exp())
    found: NDArray[Any] = votes.argmax(1).cpu().numpy()
    return found


def sklearn(train: Any, labels: NDArray[Any], queries: NDArray[Any], args: argparse.Namespace) -> NDArray[Any]:
    """The same by the library's own search."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=args.k, algorithm="brute", metric="cosine").fit(np.array(train, np.float32))
    distance, index = search.kneighbors(queries)
    votes = np.zeros((len(queries), args.classes))
    np.add.at(votes, (np.arange(len(queries))[:, None], labels[index]), np.exp((1 - distance) / TEMPERATURE))
    return votes.argmax(1)


def work(args: argparse.Namespace) -> None:
    """One reading, as a line of JSON: seconds, bytes, and the classes found."""
    import torch

    torch.set_num_threads(args.threads)
    train = np.load(args.folder / "train.npy", mmap_mode="r")
    labels, queries = np.load(args.folder / "labels.npy"), np.load(args.folder / "queries.npy")
    method = globals()[args.work]
    small = argparse.Namespace(**{**vars(args), "k": 1})
    method(train[:10], labels[:10], queries[:2], small)  # imports, and what libraries set up
    begin = time.perf_counter()
    found = method(train, labels, queries, args)
    seconds = time.perf_counter() - begin
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if torch.cuda.is_available() and args.work != "sklearn":
        peak = torch.cuda.max_memory_allocated()
    print(json.dumps({"seconds": seconds, "bytes": peak, "classes": found.tolist()}))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All readings of all methods."""
    noise = np.random.default_rng(SEED)
    methods: dict[str, Any] = {name: {"seconds": [], "bytes": []} for name in args.methods}
    result: dict[str, Any] = {"methods": methods, "left_out": {}, "agree": {}}
    with tempfile.TemporaryDirectory() as folder:
        np.save(
            Path(folder) / "train.npy", noise.standard_normal((args.train, args.width), np.float32).astype(np.float16)
        )
        np.save(Path(folder) / "labels.npy", noise.integers(0, args.classes, args.train))
        np.save(Path(folder) / "queries.npy", noise.standard_normal((args.queries, args.width), np.float32))
        found: dict[str, NDArray[Any]] = {}
        for turn in range(args.rounds):
            for name in args.methods[turn % len(args.methods) :] + args.methods[: turn % len(args.methods)]:
                if name in result["left_out"]:
                    continue
                command = [sys.executable, __file__, *sys.argv[1:], "--work", name, "--folder", folder]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    result["left_out"][name] = (done.stderr.strip().splitlines() or ["killed: is memory short?"])[-1]
                    methods.pop(name)
                    continue
                answer = json.loads(done.stdout)
                found[name] = np.array(answer["classes"])
                methods[name]["seconds"].append(answer["seconds"])
                methods[name]["bytes"].append(answer["bytes"])
    first = next(iter(methods), None)
    result["agree"] = {name: float((found[name] == found[first]).mean()) for name in methods if first}
    return result


def table(result: dict[str, Any], args: argparse.Namespace) -> str:
    """Markdown, a row a method."""
    lines = ["| method | queries/s, median (min–max) | peak memory, GiB | same answers |", "|---|---|---|---|"]
    for name, figures in result["methods"].items():
        rates = [args.queries / s for s in figures["seconds"]]
        spread = f"{median(rates):.0f} ({min(rates):.0f}–{max(rates):.0f})"
        peak = max(figures["bytes"]) / 2**30
        lines.append(f"| {name}: {NOTES[name]} | {spread} | {peak:.2f} | {result['agree'][name]:.2%} |")
    lines += ["", f"{args.train} training images, {args.queries} queries, width {args.width}, k {args.k}."]
    return "\n".join(lines + [f"Left out: {name}: {why}" for name, why in result["left_out"].items()])


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=100_000, help="training images")
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--width", type=int, default=768, help="of a feature")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("-k", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3, help="readings of each method")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--methods", type=lambda v: v.split(","), default=list(METHODS), help=",".join(METHODS))
    parser.add_argument("--json", action="store_true", help="print every reading instead of the table")
    parser.add_argument("--work", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if unknown := set(args.methods) - set(METHODS):
        parser.error(f"{', '.join(sorted(unknown))}: give some of {', '.join(METHODS)}")
    if min(args.train, args.queries, args.width, args.rounds, args.k) < 1 or args.k > args.train:
        parser.error("give at least 1 of everything, and no more neighbours than training images")
    return args


def main() -> int:
    """Measures and prints; 1 when no method could run."""
    args = parse()
    if args.work:
        work(args)
        return 0
    result = measure(args)
    print(json.dumps(result, indent=1) if args.json else table(result, args))
    return 0 if result["methods"] else 1


if __name__ == "__main__":
    sys.exit(main())
