"""Work in forked processes: what comes back, what a killed one leaves, and that none outlives its use."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from functools import partial

import pytest

from mae_bench.common.children import from_children

linux = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")


def count(start: int, *, then: int | None = None) -> Iterator[tuple[int, int]]:
    yield from ((number, os.getpid()) for number in range(start, start + 3))
    if then is not None:
        os.kill(os.getpid(), then)
        yield (99, os.getpid())


@linux
def test_each_works_in_a_process_of_its_own_and_all_comes_back() -> None:
    found = dict(from_children([partial(count, 0), partial(count, 10)]))
    assert sorted(found) == [0, 1, 2, 10, 11, 12]
    assert len({*found.values()}) == 2
    assert os.getpid() not in found.values()


@linux
def test_one_that_is_killed_yields_what_it_had() -> None:
    found = dict(from_children([partial(count, 0, then=signal.SIGKILL), partial(count, 10)]))
    assert sorted(found) == [0, 1, 2, 10, 11, 12]


@linux
def test_none_outlives_its_use() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield os.getpid()

    pid = next(from_children([endless]))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_elsewhere_the_work_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert dict(from_children([partial(count, 0)])) == dict.fromkeys(range(3), os.getpid())
