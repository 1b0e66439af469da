"""What Slurm's queue holds, by ``squeue``, and which nodes it has, by ``sinfo``; nothing where there is no Slurm."""

from __future__ import annotations

import shutil
import subprocess

_OVER = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")


def live() -> dict[str, str]:
    """Ids (``12``, ``12_3`` in an array) of jobs that are not over -> state, such as PENDING or RUNNING."""
    if shutil.which("squeue") is None:
        return {}
    result = subprocess.run(["squeue", "-h", "-r", "-o", "%i|%T"], capture_output=True, text=True, timeout=60)
    pairs = (line.split("|") for line in result.stdout.split() if line.count("|") == 1)
    return {job: state for job, state in pairs if state not in _OVER}


def nodes(partition: str | None) -> int:
    """Nodes of a partition, or of all that are shown; 0 where nobody tells."""
    if shutil.which("sinfo") is None:
        return 0
    where = ["-p", partition] if partition else []
    result = subprocess.run(["sinfo", "-h", "-N", "-o", "%N", *where], capture_output=True, text=True, timeout=60)
    return len(set(result.stdout.split()))
