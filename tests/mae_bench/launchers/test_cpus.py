"""`--launcher cpus`: jobs side by side on the cores of this machine, each with its share of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backbones.errors import UserError
from mae_bench.jobs.plan import Request, make_plan
from mae_bench.jobs.status import JobStatus
from mae_bench.launchers import cpus, live
from mae_bench.launchers.base import Outcome, Settings

REQUEST = Request(
    scratch="vit_micro_patch8", tasks=["knn/vit_micro_patch8_embedded", "linear/vit_micro_patch8_embedded"]
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Eight cores and 64 GiB, on which nothing is started."""
    asked: dict[str, Any] = {}

    def run(plan: Any, out: Path, places: Sequence[str], needs: Mapping[str, int], call: Callable[..., Any]) -> Outcome:
        calls = [call(job, [places[0]]) for job in plan.jobs]
        asked.update(
            places=places, needs=list(needs.values()), threads={c.environment["OMP_NUM_THREADS"] for c in calls}
        )
        return Outcome()

    monkeypatch.setattr(cpus.pool, "run", run)
    monkeypatch.setattr(cpus, "usable_cpus", lambda: 8)
    monkeypatch.setattr(cpus.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 64 << 30}))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return asked


def test_two_jobs_share_eight_cores(machine: dict[str, Any], tmp_path: Path) -> None:
    cpus.launch(REQUEST, make_plan(REQUEST), tmp_path, Settings())
    assert machine == {"places": ["place 1 of 2", "place 2 of 2"], "needs": [1, 1], "threads": {"4"}}


def test_as_many_at_once_as_there_is_memory_for(
    machine: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cpus.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 3 << 30}))
    cpus.launch(REQUEST, make_plan(REQUEST), tmp_path, Settings())
    assert (len(machine["places"]), machine["threads"]) == (1, {"8"})


def test_the_user_says_how_many_at_once_and_threads(
    machine: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cpus.launch(REQUEST, make_plan(REQUEST), tmp_path, Settings(jobs=4))
    assert (len(machine["places"]), machine["threads"]) == (4, {"1"})
    for jobs in (0, 9):
        with pytest.raises(UserError, match=f"--jobs {jobs}: this process may use 8 cores: give 1 to 8"):
            cpus.launch(REQUEST, make_plan(REQUEST), tmp_path, Settings(jobs=jobs))


def test_a_line_for_each_job_that_was_started() -> None:
    jobs = [
        JobStatus("a", "done"),
        JobStatus("b", "running", step=20, total=160, seconds_left=45.0),
        JobStatus("c", "left"),
        JobStatus("d", "left"),
    ]
    assert live.lines(jobs, {"b", "c"}) == ["b  20/160  12 %  45 s left", "c", "1 done, 2 running, 1 left"]
    narrow = [replace(jobs[1], name="linear/of_an_encoder")]
    assert live.lines(narrow, (), 40)[0] == "linear/of_an_e…  20/160  12 %  45 s left"
