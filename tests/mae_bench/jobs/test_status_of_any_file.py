"""`mae-bench status` bears whatever lies in a run's folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mae_bench.cli.status import rows
from mae_bench.jobs.status import collect

ODD = ["", "[]", "null", '"x"', "{", '{"state":', '{"state": "running", "host": "h", "pid": 1e30}', "[" * 10_000]
STATUS = {"state": 5, "host": 1, "pid": -1, "step": "x", "total": "y", "images_per_s": "z", "seconds_left": []}


@pytest.mark.parametrize("name", ["job.json", "status.json", "record.json"])
@pytest.mark.parametrize(
    "content", [*ODD, json.dumps(STATUS), '{"name": 7, "metrics": 5}', '{"metrics": {"last": {"a": "b"}}}']
)
def test_any_content(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / "job.json").write_text('{"id": "x", "name": "mine"}')
    (tmp_path / name).write_text(content)
    assert len(rows(collect(tmp_path))) == 1


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text('{"id": "x", "name": "mine"}')
    os.mkfifo(tmp_path / "status.json")
    assert [job.state for job in collect(tmp_path)] == ["interrupted"]


def test_a_plan_leads_nowhere_else(tmp_path: Path) -> None:
    names = ["a/b", "../../../etc/passwd", "/etc/hostname", "a\nb", 5, "\x1b[31m"]
    (tmp_path / "plan.json").write_text(json.dumps({"jobs": names}))
    assert [job.name for job in collect(tmp_path)] == ["a/b"]
