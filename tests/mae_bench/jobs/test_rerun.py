"""``run --from``: a record's job again. What a record may not do."""

from __future__ import annotations

from pathlib import Path

import pytest

from backbones.errors import UserError
from mae_bench.jobs.rerun import rerun
from mae_bench.records.record import Init, write
from tests.mae_bench import made_records


def test_a_record_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets_of_a_record.py").write_text("raise SystemExit('was run')\n")
    init = Init(method="a", checkpoint="module:nets_of_a_record:encoder", sha256="0" * 64, layout=None)
    (tmp_path / "old").mkdir()
    path = write(made_records.make(init=init), tmp_path / "old")
    with pytest.raises(
        UserError, match=r"runs no code: .*--checkpoint module:nets_of_a_record:encoder --tasks finetune"
    ):
        rerun(path, tmp_path / "again")
