"""Several processes find one another, and lose one another: what the environment says of them, the wait until all are there,
and what is said when one is gone.

Left to Accelerate and torch alone, half-set variables end in a traceback, and a process whose companions never come is silent
for half an hour and deaf to signals.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import PartialState

from backbones.errors import Interrupted, UserError

# Who starts processes, and what each calls their count and the number of this one.
_STARTERS = (
    ("WORLD_SIZE", "RANK"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
)
_LIMIT = "train.rendezvous_timeout"
_limit_seconds = [1800.0]  # what a recipe says, which is read before anybody is waited for
_SAID_AFTER_SECONDS = 30.0
_WAY_OUT = "start all processes by torchrun, or unset it for a single process"


def wait_at_most(seconds: float) -> None:
    """How long `join` waits for the other processes."""
    _limit_seconds[0] = seconds


def join() -> PartialState:
    """Which of how many processes this is, once all of them are there.

    Raises:
        UserError: the environment names processes by halves, or they did not come in time.
    """
    cpu = not torch.cuda.is_available()
    # Told of the CPU: else Accelerate takes processes without a GPU for single ones.
    if PartialState._shared_state != {} or torch.distributed.is_initialized() or not several_processes():
        return PartialState(cpu=cpu)
    state = _wait(lambda: PartialState(cpu=cpu, timeout=timedelta(seconds=_limit_seconds[0])))
    if state.device.type == "cuda":
        torch.cuda.set_device(state.device)  # which holds for a thread, and the state was made in another
    return state


def several_processes() -> bool:
    """Whether this is one of several processes, by the environment.

    Raises:
        UserError: variables that need one another are not all set, or are no numbers that fit.
    """
    found = [_count(size, rank) for size, rank in _STARTERS]
    told = next((count for count in found if count is not None), None)
    local = _number("LOCAL_RANK")
    if local is not None and told is None:
        raise UserError(f"LOCAL_RANK={local} is set and WORLD_SIZE is not: {_WAY_OUT}")
    if told is None or (told == 1 and local is None):
        return False
    if not os.environ.get("MASTER_ADDR"):
        raise UserError(f"this is one of {told} processes and MASTER_ADDR is not set: {_WAY_OUT}")
    _number("MASTER_PORT")
    return True


def _count(size: str, rank: str) -> int | None:
    """How many processes the variables `size` and `rank` tell of; None when they are not set."""
    count, number = _number(size), _number(rank)
    if count is None and number is None:
        return None
    if count == 1 and number is None:
        return 1
    if count is None or number is None:
        here, missing = (size, rank) if number is None else (rank, size)
        raise UserError(f"{here}={os.environ[here]} is set and {missing} is not: {_WAY_OUT}")
    if not number < count:
        raise UserError(f"{rank}={number} is beyond {size}={count}: {_WAY_OUT}")
    return count


def _number(name: str) -> int | None:
    text = os.environ.get(name, "").strip()
    if not text or text == "-1":
        return None
    if not text.isascii() or not text.isdigit():
        raise UserError(f"{name}={text} is no whole number: {_WAY_OUT}")
    return int(text)


def _wait(make: Callable[[], PartialState]) -> PartialState:
    """`make` in a thread, while this one hears signals and says after a while what it waits for."""
    made: list[PartialState] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            made.append(make())
        except Exception as e:
            failed.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    began, said = time.monotonic(), False
    while thread.is_alive():
        thread.join(0.1)
        if not said and time.monotonic() - began > _SAID_AFTER_SECONDS:
            said = True
            place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT', '29500')}"
            text = f"waiting for the other processes at {place}, for {_limit_seconds[0]:g} s at most ({_LIMIT}): {_WAY_OUT}"
            print(text, file=sys.stderr, flush=True)
    if failed:
        first = (str(failed[0]).strip().splitlines() or [type(failed[0]).__name__])[0][:200]
        raise UserError(f"the other processes were not found ({first}): {_WAY_OUT}") from failed[0]
    return made[0]


# What gloo and NCCL say of a connection whose other side is gone, or silent for longer than the group's time limit.
_GONE = re.compile(
    r"connection (closed|reset|refused)|broken pipe|timed out|timeout|remote process exited|aborted", re.I
)


@contextmanager
def lost_companions_explained() -> Iterator[None]:
    """`Interrupted` in place of the error of a connection between processes: nothing that needs all of them can follow."""
    try:
        yield
    except RuntimeError as e:
        between = isinstance(e, torch.distributed.DistError) or "gloo" in str(e).lower()
        found = _GONE.search(str(e)) if between else None
        if found is None:
            raise
        raise Interrupted(
            f"another process of this run is gone or does not answer ({found[0].lower()}): what it said last tells why; "
            "the same command goes on from the last checkpoint"
        ) from e


def all_say(what: str, seconds: float = 10.0) -> bool:
    """Whether all processes say `what` in that time. They meet in the store: a collective would meet others half-way."""
    world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    if world == 1:
        return True
    store = torch.distributed.distributed_c10d._get_default_store()
    return said_by_all(store, what, torch.distributed.get_rank(), world, seconds)


def said_by_all(store: torch.distributed.Store, what: str, rank: int, world: int, seconds: float) -> bool:
    """`all_say` of the process `rank` of `world` in a store."""
    store.set(f"mae_bench/{what}/{rank}", "1")
    try:
        store.wait([f"mae_bench/{what}/{k}" for k in range(world)], timedelta(seconds=seconds))
    except torch.distributed.DistError:
        return False
    return True
