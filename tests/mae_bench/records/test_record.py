"""A record survives writing and reading; what is no record is named in one line; a reader never sees half a file."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones.errors import UserError
from mae_bench.records import provenance, record
from tests.mae_bench.made_records import make


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    written = make(protocol="detection", seed=3, warnings=["2 images skipped", "Zeile – ü"])
    path = record.write(written, tmp_path)
    assert path == tmp_path / "record.json"
    assert record.read(path) == written
    assert record.read(tmp_path) == written  # the run folder will do
    assert record.read(path).path == path


def test_a_record_of_version_1_is_read_as_one_of_the_newest(tmp_path: Path) -> None:
    kept = Path(__file__).parent / "record_version_1.json"  # as the first version wrote it
    raw = json.loads(kept.read_text())
    old = record.read(kept)
    assert (raw["schema_version"], old.schema_version) == (1, record.SCHEMA_VERSION)
    again = old.to_dict()
    looked = {"account": {}, "class_names": [], "looked": []}
    expected = {**raw, "init": {**raw["init"], "sources": {}}, "data": {**raw["data"], **looked}}
    assert {name: again[name] for name in raw if name != "schema_version"} == {
        name: value for name, value in expected.items() if name != "schema_version"
    }
    unknown = {name: again[name] for name in again.keys() - raw.keys()}
    later = {"inference_s_per_image": None, "recovered": {}, "command": None, "host": None, "variant": ""}
    assert unknown == {**later, "preprocessing": None, "exports": {}}
    assert record.read(record.write(old, tmp_path)) == old
    assert json.loads(kept.read_text()) == raw  # a file is never rewritten by reading it


def test_a_record_of_version_1_with_a_mistake_is_refused(tmp_path: Path) -> None:
    raw = json.loads((Path(__file__).parent / "record_version_1.json").read_text())
    (tmp_path / "record.json").write_text(json.dumps({**raw, "seed": "three"}))
    assert "seed: 'three' is not of type 'integer'" in assert_one_line(tmp_path / "record.json")


def test_the_command_is_recorded_so_that_it_can_be_called_again(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for first in ("/usr/local/bin/mae-bench", "/site-packages/mae_bench/__main__.py"):
        monkeypatch.setattr(sys, "argv", [first, "run", "--out", "a b"])
        assert provenance.command() == record.Command(argv=["mae-bench", "run", "--out", "a b"], folder=str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["notebook.py"])
    assert provenance.command().argv == sys.orig_argv


def test_the_host_says_threads_and_the_variables_that_count_but_no_others(monkeypatch: Any) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("SOME_TOKEN", "secret")
    host = provenance.host()
    assert host.environment["OMP_NUM_THREADS"] == "7"
    assert "secret" not in str(host)
    assert host.threads == torch.get_num_threads()
    assert 1 <= host.cpus <= (os.cpu_count() or 1)


def test_schema_is_a_schema_and_covers_every_field() -> None:
    jsonschema.Draft202012Validator.check_schema(record.schema())
    assert set(record.schema()["properties"]) == set(make().to_dict())
    assert set(record.schema()["required"]) == set(make().to_dict())


@given(st.floats(), st.floats(allow_nan=True))
def test_not_a_number_is_stored_as_null(top1: float, loss: float) -> None:
    raw = make(metrics={"top1": top1}, final_loss=loss).to_dict()
    assert raw["metrics"]["last"]["top1"] == (top1 if math.isfinite(top1) else None)
    assert raw["final_loss"] == (loss if math.isfinite(loss) else None)
    json.dumps(raw, allow_nan=False)


def test_scalars_of_numpy_and_torch_and_paths_become_plain(tmp_path: Path) -> None:
    written = make(
        metrics={"top1": np.float32(50.5), "top5": torch.tensor(75.25)},
        peak_memory_bytes=np.int64(1024),
        checkpoints=[Path("checkpoints/last")],
        recipe={"betas": (0.9, 0.95)},
    )
    read = record.read(record.write(written, tmp_path))
    assert read.metrics.last == {"top1": 50.5, "top5": 75.25}
    assert read.peak_memory_bytes == 1024
    assert read.checkpoints == ["checkpoints/last"]
    assert read.recipe == {"betas": [0.9, 0.95]}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"metrics": {"top1": 101.0}}, "metrics.last.top1"),
        ({"protocol": "finetune", "task": "detection"}, "protocol: finetune is of task classification"),
        ({"sha256": "abc"}, "init.sha256"),
        ({"images_per_s": -1.0}, "images_per_s"),
        ({"started": "yesterday"}, "started"),
        ({"primary_metric": "mIoU"}, 'primary metric "mIoU" is missing'),
    ],
)
def test_an_invalid_record_is_not_written(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        record.write(make(**changes), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_record_and_nothing_else(tmp_path: Path, monkeypatch: Any) -> None:
    old = make(seed=1)
    record.write(old, tmp_path)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        record.write(make(seed=2), tmp_path)
    assert record.read(tmp_path) == old
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_a_reader_of_the_old_record_never_sees_the_new_one_half_written(tmp_path: Path) -> None:
    old = record.write(make(seed=1), tmp_path)
    text = old.read_text()
    with old.open() as reader:
        record.write(make(seed=2), tmp_path)
        assert reader.read() == text  # the file was replaced, not written over


@settings(max_examples=40)
@given(st.floats(0, 0.9999))
def test_a_torn_file_is_named(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    folder = tmp_path_factory.mktemp("torn")
    path = record.write(make(), folder)
    whole = path.read_bytes().rstrip()
    path.write_bytes(whole[: int(share * len(whole))])
    assert_one_line(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfe\x00", "not a whole JSON file"),
        (b"[" * 100_000, "not a whole JSON file"),
        (b'{"schema_version": 1, "final_loss": NaN}', "NaN is no JSON"),
        (b"[1, 2]", "not a record"),
        (b"{}", "not a record"),
        (b'{"schema_version": true}', "not a record"),
        (b'{"schema_version": "1"}', "not a record"),
        (b'{"schema_version": 1}', "not a valid record"),
        (b'{"schema_version": 5, "unheard of": 1}', "upgrade mae-bench"),
        (b'{"schema_version": 0}', "not a valid record"),
    ],
)
def test_what_is_no_record_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    assert says in assert_one_line(path)


def test_missing_and_unknown_fields_are_named(tmp_path: Path) -> None:
    path = record.write(make(), tmp_path)
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in raw.items() if key != "seed"}))
    assert "'seed'" in assert_one_line(path)
    path.write_text(json.dumps({**raw, "extra": 1}))
    assert "'extra'" in assert_one_line(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "No such file" in assert_one_line(tmp_path / "record.json")


def test_find_takes_every_record_below_and_warns_of_bad_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for place in ("b/seed1", "a", "b/seed0"):
        (tmp_path / place).mkdir(parents=True)
        record.write(make(name=place), tmp_path / place)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "record.json").write_text('{"schema_version": 1, "na')
    with caplog.at_level(logging.WARNING):
        found = record.find(tmp_path)
    assert [r.name for r in found] == ["a", "b/seed0", "b/seed1"]
    assert [r.path for r in found] == [tmp_path / r.name / "record.json" for r in found]
    assert len(caplog.messages) == 1
    assert str(tmp_path / "c" / "record.json") in caplog.messages[0]


def test_find_names_a_missing_folder(tmp_path: Path) -> None:
    assert record.find(tmp_path) == []
    with pytest.raises(UserError, match="nowhere: no such folder"):
        record.find(tmp_path / "nowhere")


def assert_one_line(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        record.read(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text


def test_software_names_what_is_installed_and_leaves_out_the_rest(monkeypatch: Any) -> None:
    versions = provenance.software()
    assert versions["torch"] == torch.__version__.split("+")[0] or versions["torch"] == torch.__version__
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    monkeypatch.setitem(provenance._DISTRIBUTIONS, "no_such_module", ("no-such-dist",))
    assert "no_such_module" not in provenance.software()


def test_software_finds_a_stand_in_distribution_and_says_so(monkeypatch: Any, tmp_path: Path) -> None:
    info = tmp_path / "kept_up-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kept-up\nVersion: 1.2\n")
    (tmp_path / "bare_checkout.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(provenance._DISTRIBUTIONS, "given_up", ("given-up", "kept-up"))
    monkeypatch.setitem(provenance._DISTRIBUTIONS, "bare_checkout", ("bare-checkout",))
    assert provenance.software()["given_up"] == "1.2 (kept-up)"
    assert provenance.software()["bare_checkout"] == "unknown version"


def test_git_tells_commit_and_changes_of_this_checkout_only(tmp_path: Path, monkeypatch: Any) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "--no-verify", "-m", "one")
    found = provenance.git(tmp_path)
    assert found is not None
    assert (found.commit, found.dirty) == (git("rev-parse", "HEAD"), False)
    (tmp_path / "untracked").write_text("x")
    assert provenance.git(tmp_path) == found
    (tmp_path / "file").write_text("two")
    monkeypatch.setenv("GIT_DIR", "/nonexistent")  # as a hook sets it
    changed = provenance.git(tmp_path)
    assert changed is not None
    assert changed.dirty
    package = tmp_path / "site-packages"  # installed into a virtual environment inside somebody's repository
    package.mkdir()
    assert provenance.git(package) is None


def test_device_and_peak_memory_of_the_processor() -> None:
    here = provenance.device(torch.device("cpu"), 2)
    assert (here.type, here.count) == ("cpu", 2)
    assert here.name
    before = provenance.peak_memory_bytes(torch.device("cpu"))
    assert before is not None
    block = np.ones(200 << 20, dtype=np.uint8)  # touched, so resident
    after = provenance.peak_memory_bytes(torch.device("cpu"))
    assert after is not None
    assert after >= block.nbytes
    assert after < 1 << 40


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_device_and_peak_memory_of_the_accelerator() -> None:
    kind = torch.device("cuda", 0)
    assert provenance.device(kind, 1).name == torch.cuda.get_device_name(0)
    block = torch.ones(64 << 20, dtype=torch.uint8, device=kind)
    assert (provenance.peak_memory_bytes(kind) or 0) >= block.nbytes


def test_every_field_is_explained_in_the_documentation() -> None:
    text = (Path(__file__).parents[3] / "docs" / "records.md").read_text()
    assert [name for name in record.schema()["properties"] if f"`{name}`" not in text] == []
