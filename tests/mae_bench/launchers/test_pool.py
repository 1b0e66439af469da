"""Two hundred jobs on four devices, which are made up as the jobs are: who runs where, what a failure and a signal stop."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mae_bench.jobs.job import JobPlan, PlannedJob, identity_facts
from mae_bench.launchers import pool
from mae_bench.launchers.base import Outcome
from mae_bench.recipes.load import load_recipe
from mae_bench.records import record
from tests.mae_bench.made_records import make

DEVICES = ["0", "1", "2", "3"]
WEIGHTS = b"weights"  # which every job leaves
# Holds its devices, works, and leaves what a job leaves; a job that is done leaves at once.
JOB = """
[ -e {run}/record.json ] && exit 0
for device in {devices}; do mkdir {locks}/$device || {{ echo "error: device $device is taken"; exit 1; }}; done
trap 'for device in {devices}; do rmdir {locks}/$device; done' EXIT
echo {name} >> {out}/started
sleep 0.02
{last}
"""


@dataclass
class Farm:
    """Jobs that do nothing, and what they tell of it."""

    out: Path
    jobs: list[PlannedJob]
    needs: dict[str, int]
    broken: set[str] = field(default_factory=set)
    at_start: Callable[[], None] = lambda: None

    def run(self) -> Outcome:
        """As a launcher does it."""
        return pool.run(JobPlan(self.jobs), self.out, DEVICES, self.needs, self.call)

    def call(self, job: PlannedJob, mine: list[str]) -> pool.Call:
        self.at_start()
        run_dir = self.out / f"{job.name}-00000000"
        made = self.out / "made" / job.name
        last = f"mkdir -p {run_dir}; cp {made}/model.safetensors {made}/job.json {run_dir}; cp {made}/record.json {run_dir}"
        last = "echo 'error: as it was told'; exit 1" if job.name in self.broken else last
        places = {"locks": self.out / "locks", "out": self.out, "run": run_dir}
        return pool.Call(["sh", "-c", JOB.format(devices=" ".join(mine), name=job.name, last=last, **places)], {})

    def started(self) -> list[str]:
        """Names, in the order of their beginnings."""
        return (self.out / "started").read_text().split()


@pytest.fixture
def farm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Farm:
    """20 pre-trainings, nine jobs from each."""
    monkeypatch.setattr(pool, "_POLL_SECONDS", 0.005)
    recipes = {name: load_recipe(f"{name}/vit_micro_patch8_embedded") for name in ("pretrain", "finetune")}
    jobs = []
    for first in range(20):
        before = PlannedJob("pretrain/x", recipes["pretrain"], variant=f"{first}")
        jobs.append(before)
        for k in range(9):
            job = PlannedJob("finetune/x", recipes["finetune"], variant=f"{first}-{k}", after=before.name)
            jobs.append(job)
    (tmp_path / "locks").mkdir()
    start = hashlib.sha256(WEIGHTS).hexdigest()
    for job in jobs:
        made = tmp_path / "made" / job.name
        made.mkdir(parents=True)
        (made / "model.safetensors").write_bytes(WEIGHTS)
        facts = {**identity_facts(job), "start": start if job.after else "scratch"}
        (made / "job.json").write_text(json.dumps({"id": "0" * 64, **facts}))
        record.write(make(name=job.name), made)
    needs = {job.name: (4, 2, 1, 1)[k % 4] for k, job in enumerate(jobs)}
    return Farm(tmp_path, jobs, needs)


@pytest.mark.slow
def test_two_hundred_jobs_fill_four_devices_and_a_failure_stops_what_starts_from_it(farm: Farm) -> None:
    broken = farm.jobs[30]
    farm.broken = {broken.name}
    began = time.monotonic()
    outcome = farm.run()
    print(f"200 jobs, {sum(farm.needs.values())} devices in all, in {time.monotonic() - began:.2f} s")
    waiting = {job.name for job in farm.jobs if job.after == broken.name}
    assert set(outcome.not_run) == waiting
    assert {name: said.split(" (")[0] for name, said in outcome.failures.items()} == {broken.name: "as it was told"}
    assert len(outcome.records) == 190
    assert len(farm.started()) == 191  # none twice, and no device by two: that would have been a failure

    farm.broken = set()
    again = farm.run()
    assert len(again.records) == 200
    assert not again.failures
    assert len(farm.started()) == 191 + 10


@pytest.mark.slow
def test_a_new_start_goes_on_where_a_signal_came(farm: Farm) -> None:
    calls: list[int] = []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 80:
            os.kill(os.getpid(), signal.SIGTERM)

    farm.at_start = stop
    outcome = farm.run()
    assert outcome.interrupted
    assert not outcome.failures
    done = {each.name for each in outcome.records}
    assert 70 <= len(done) < 85
    for path in (farm.out / "locks").iterdir():
        path.rmdir()
    before = len(farm.started())
    farm.at_start = lambda: None
    again = farm.run()
    assert len(again.records) == 200
    assert not done & set(farm.started()[before:])
