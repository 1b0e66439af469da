"""A run's folder after a bad day: torn or changed files are said, made anew or refused; never used without a word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from backbones.errors import UserError
from backbones.files.tensor_files import sha256_file
from mae_bench.jobs.job import PlannedJob
from mae_bench.jobs.run_folder import damaged_exports, is_finished, notes, reopen, say_where_data_changed, write_job
from mae_bench.recipes.load import load_recipe

NAME = "knn/vit_micro_patch8_embedded"
ID, OTHER = "a" * 64, "b" * 64


def job(*overrides: str) -> PlannedJob:
    return PlannedJob(NAME, load_recipe(NAME, overrides))


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "name-aaaaaaaa"
    folder.mkdir()
    write_job(folder, job(), ID, "knn20_top1")
    return folder


def finish(run_dir: Path) -> Path:
    file = run_dir / "encoder.safetensors"
    file.write_bytes(b"weights")
    (run_dir / "record.json").write_text(json.dumps({"job_id": ID, "exports": {file.name: sha256_file(file)}}))
    return file


@pytest.mark.parametrize("torn", ["", "{", "[]", "null", '"x"'])
def test_a_torn_job_json_is_known_again_by_config_yaml(run_dir: Path, torn: str) -> None:
    (run_dir / "job.json").write_text(torn)
    assert not is_finished(run_dir, ID)
    with pytest.raises(UserError, match=r"job\.json is torn"):
        is_finished(run_dir, OTHER)
    write_job(run_dir, job(), ID, "knn20_top1")
    assert json.loads((run_dir / "job.json").read_text())["id"] == ID


def test_a_torn_job_json_is_known_again_by_the_record(run_dir: Path) -> None:
    finish(run_dir)
    for name in ("job.json", "config.yaml"):
        (run_dir / name).write_text("")
    assert is_finished(run_dir, ID)


@pytest.mark.parametrize("content", ['{"id": 5, "name": 7}', "{}"])
def test_another_jobs_folder_is_refused(run_dir: Path, content: str) -> None:
    (run_dir / "job.json").write_text(content)
    with pytest.raises(UserError, match="belongs to another"):
        is_finished(run_dir, ID)


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="holds no run"):
        is_finished(tmp_path, ID)


@pytest.mark.parametrize("content", [b"", b"weight", b"weightS", None], ids=["empty", "cut", "bit", "gone"])
def test_a_finished_run_whose_files_are_not_what_its_record_says_is_open_again(
    run_dir: Path, content: bytes | None
) -> None:
    file = finish(run_dir)
    assert damaged_exports(run_dir) == []
    file.unlink() if content is None else file.write_bytes(content)
    assert damaged_exports(run_dir) == [file.name]
    reopen(run_dir, damaged_exports(run_dir))
    assert not is_finished(run_dir, ID)


@pytest.mark.parametrize("key", ["train.micro_batch_size=2", "train.log_every_steps=7"])
def test_what_changes_the_bits_of_a_run_that_goes_on_is_noted(
    run_dir: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_job(run_dir, job(key), ID, "knn20_top1")
    assert notes(run_dir) == []  # nothing was trained before
    write_job(run_dir, job(), ID, "knn20_top1")
    (run_dir / "checkpoints").mkdir()
    (run_dir / "checkpoints/step_00000001.pt").touch()
    for _ in range(2):
        write_job(run_dir, job(key), ID, "knn20_top1")
    assert len(notes(run_dir)) == 1
    assert key.partition("=")[0] in notes(run_dir)[0]
    assert key.partition("=")[0] in capsys.readouterr().err


def test_another_release_of_torch_or_number_of_threads_is_noted_of_a_run_that_goes_on(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_job(run_dir, job(), ID, "knn20_top1")
    (run_dir / "checkpoints").mkdir()
    (run_dir / "checkpoints/step_00000001.pt").touch()
    write_job(run_dir, job(), ID, "knn20_top1")
    assert notes(run_dir) == []
    monkeypatch.setattr(torch, "__version__", "1.0")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    write_job(run_dir, job(), ID, "knn20_top1")
    assert [line.split(" was ")[0] for line in notes(run_dir)] == ["torch", "threads"]
    assert "from a later start on 99: the last bits may differ" in capsys.readouterr().err


def test_a_job_that_begins_anew_for_other_data_says_so(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = run_dir.with_name("name-bbbbbbbb")
    say_where_data_changed(again, job(), OTHER)
    assert "the data are not those of" in capsys.readouterr().err
    say_where_data_changed(again, job("seed=5"), OTHER)
    assert capsys.readouterr().err == ""
