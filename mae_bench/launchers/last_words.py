"""Why a job's process ended, by its log, where it wrote nothing else: its own last line, or what torchrun stopped with."""

from __future__ import annotations

from pathlib import Path

from mae_bench.common.text import plain

_TAIL = 1_000_000  # bytes
_AGAIN = "start the same command on every node, with the same place to meet"
# Last lines of torchrun's traceback.
_MEETING = {
    "RendezvousTimeoutError": f"the other nodes did not come in time (train.rendezvous_timeout): {_AGAIN}",
    "client socket has timed out": f"nobody is where the nodes meet (train.rendezvous_timeout): {_AGAIN}",
    "DistStoreError": f"the other nodes did not come in time (train.rendezvous_timeout): {_AGAIN}",
    "RendezvousConnectionError": f"the node where the nodes meet is gone or was never there: {_AGAIN}",
    "RendezvousClosedError": f"the other nodes have left already: {_AGAIN}",
}


def last_words(log: Path, begins: int = 0) -> str | None:
    """What is said in `log` from byte `begins` on; None where that is nothing that we know."""
    try:
        with open(log, "rb") as file:
            file.seek(max(begins, log.stat().st_size - _TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    own = [text for line in lines for mark in ("error: ", "interrupted: ") if (text := line.removeprefix(mark)) != line]
    if own:
        return plain(own[-1])
    last = next((line for line in reversed(lines) if line.strip()), "")
    return next((said for mark, said in _MEETING.items() if mark in last), None)
