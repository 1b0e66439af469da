"""Work in processes that end with it, forked, so that nothing is imported or sent again. No jobs: those are `launchers`'."""

from __future__ import annotations

import gc
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def from_children(works: Sequence[Callable[[], Iterable[T]]]) -> Iterator[T]:
    """What each of `works` yields, each in a child of its own, as it comes; it must be small and can be pickled.

    The children begin at once: call it before there are threads (a progress bar). One that is killed yields nothing more, which
    is no error: who needs all of it counts. None outlives the iteration. Where a process that may have threads cannot be forked
    (macOS), everything runs here, one after the other.
    """
    if sys.platform != "linux":
        return chain.from_iterable(work() for work in works)
    context = multiprocessing.get_context("fork")
    children: list[tuple[Any, Connection]] = []
    for work in works:
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_send, args=(work, sender), daemon=True)
        child.start()
        sender.close()
        children.append((child, receiver))
    return _received(children)


def _received(children: list[tuple[Any, Connection]]) -> Iterator[Any]:
    receivers = [receiver for _, receiver in children]
    try:
        while receivers:
            ready = wait(receivers)
            for receiver in [each for each in receivers if each in ready]:
                try:
                    yield receiver.recv()
                except EOFError:
                    receivers.remove(receiver)
    finally:
        for child, _ in children:
            child.terminate()
            child.join()


def _send(work: Callable[[], Iterable[Any]], sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to tell, which then ends its children
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)  # as in workers of data loaders: OpenMP's threads are not there after a fork
    gc.freeze()  # what the parent has made stays: a collection need not look at it
    for item in work():
        sender.send(item)
