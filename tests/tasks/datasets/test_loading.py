"""Data workers that die are explained in a line: with what torch really says, and for the causes that users meet."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset

from backbones.errors import RunFailed
from tasks.datasets.loading import dead_workers_explained, explain_dead_worker, leave_signals_to_parent


class Deadly(Dataset[Any]):
    """Reading sample 3 ends the process."""

    def __init__(self, how: signal.Signals | None) -> None:
        self.how = how

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> int:
        if i == 3:
            if self.how is None:
                os._exit(9)
            os.kill(os.getpid(), self.how)
            time.sleep(30)
        return i


def read(how: signal.Signals | None, **options: Any) -> None:
    with dead_workers_explained(), dead_workers_explained():  # as a job does it, and why twice: `mae_bench.jobs`
        for _ in DataLoader(Deadly(how), num_workers=1, worker_init_fn=leave_signals_to_parent, **options):
            pass


@pytest.mark.parametrize("how", [signal.SIGKILL, None], ids=["killed", "exit"])
def test_a_dead_worker_is_named_with_a_way_out(how: signal.Signals | None) -> None:
    with pytest.raises(RunFailed, match=r"^data worker \(pid \d+\) (was ended|left with exit code 9).*train\.workers"):
        read(how)


@pytest.mark.parametrize(
    ("torch_says", "we_say"),
    [
        (
            "(pid 7) is killed by signal: Killed. ",
            "(pid 7) was ended by a signal (Killed), most likely by the",
        ),
        (
            "(pid 7) is killed by signal: Bus error. It is possible",
            "(pid 7) was ended by a signal (Bus error), most likely /dev",
        ),
        (
            "(pid 7) is killed by signal: Segmentation fault. ",
            "(pid 7) was ended by a signal (Segmentation fault), most",
        ),
        ("(pid 7) is killed by signal: Aborted. ", "(pid 7) was ended by a signal (Aborted), set train.workers=0"),
        ("(pid 7) exited unexpectedly with exit code 9. Details", "(pid 7) left with exit code 9: set train.workers=0"),
        ("(pid(s) 7, 8) exited unexpectedly", "(pid 7, 8) was ended unexpectedly, most likely by the system"),
    ],
)
def test_the_likely_cause_is_given(torch_says: str, we_say: str) -> None:
    assert (explain_dead_worker(RuntimeError(f"DataLoader worker {torch_says}")) or "").startswith(
        f"data worker {we_say}"
    )


def test_a_worker_that_hangs_is_named_where_a_limit_is_set() -> None:
    with pytest.raises(
        RunFailed, match=r"no data worker gave a batch for 1 s: look whether the data's file system answers"
    ):
        read(signal.SIGTERM, timeout=1)  # which workers leave to the parent: it sleeps on


def test_other_errors_are_left_as_they_are() -> None:
    assert explain_dead_worker(RuntimeError("CUDA error: an illegal memory access")) is None
    with pytest.raises(RuntimeError, match=r"^other$"), dead_workers_explained():
        raise RuntimeError("other")
