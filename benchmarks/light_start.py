"""Start-up of the verbs that need no torch: seconds and peak memory, median of five processes each.

.venv/bin/python benchmarks/light_start.py --runs RUNS      # RUNS: a folder with records, such as runs/quickstart
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

LIMITS = {"--help": (0.4, 150)}  # seconds, MB
OTHERS = (0.8, 150)


def measure(arguments: list[str]) -> tuple[float, float]:
    """(seconds, MB of peak memory) of one process."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "mae_bench", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise RuntimeError(f"mae-bench {' '.join(arguments)} failed")
    return seconds, usage.ru_maxrss / 1024


def main() -> None:
    """Prints a markdown table; exit code 1 where a limit of the issue is passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", required=True, help="folder with records")
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    verbs = [
        ["--help"],
        ["list", "recipes"],
        ["list", "tables"],
        ["list", "suites"],
        ["table", "table3", "--runs", options.runs],
        ["status", options.runs],
    ]
    print("| command | seconds, median (min–max) | peak memory, MB |\n|---|---:|---:|")
    passed = True
    for verb in verbs:
        figures = [measure(verb) for _ in range(options.times)]
        seconds = sorted(s for s, _ in figures)
        median, memory = statistics.median(seconds), statistics.median(m for _, m in figures)
        most_seconds, most_memory = LIMITS.get(verb[0], OTHERS)
        passed &= median < most_seconds and memory < most_memory
        print(
            f"| `mae-bench {' '.join(verb[:2])}` | {median:.2f} ({seconds[0]:.2f}–{seconds[-1]:.2f}) | {memory:.0f} |"
        )
    sys.exit(not passed)


if __name__ == "__main__":
    main()
