"""A file is the old one or the new one, never a part, and a write that fails leaves nothing behind."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest
import torch

from backbones.atomic import append_to, check_writable, json_text, replacing, sweep, write_json, write_text
from backbones.errors import UserError
from backbones.files.tensor_files import save_tensors


@pytest.mark.parametrize("durable", [False, True])
def test_the_file_is_the_new_one_and_alone(tmp_path: Path, durable: bool) -> None:
    place = tmp_path / "a.txt"
    place.write_text("old")
    write_text(place, "neü", durable=durable)
    assert place.read_text("utf-8") == "neü"
    assert list(tmp_path.iterdir()) == [place]


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    place = tmp_path / "a.txt"
    place.write_text("old")

    def write_half() -> None:
        with replacing(place) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert place.read_text() == "old"
    assert list(tmp_path.iterdir()) == [place]


def test_a_full_disk_is_said_with_the_files_name(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught, replacing(tmp_path / "x.html"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "x.html")
    assert list(tmp_path.iterdir()) == []


def test_the_temporary_lies_beside_it_has_its_suffix_and_is_no_match_for_it(tmp_path: Path) -> None:
    with replacing(tmp_path / "step_1.npz") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".npz"
        temporary.touch()
        assert not list(tmp_path.glob("step_*"))


def test_not_a_number_and_infinity_are_null_in_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"loss": float("nan"), "all": [(1.5, float("-inf"))], "name": "Größe"})
    text = (tmp_path / "a.json").read_text("utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == {"loss": None, "all": [[1.5, None]], "name": "Größe"}


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    others = [".notes.tmp", ".lock", "a.tmp", "record.json"]
    for name in others:
        (tmp_path / name).touch()
    with replacing(tmp_path / "record.json") as temporary:
        left = temporary.read_bytes()
        name = temporary.name
    (tmp_path / name).write_bytes(left)
    sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(others)


def test_every_file_has_the_mode_that_the_umask_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.json", "{}")
        save_tensors(tmp_path / "a.safetensors", {"a": torch.ones(1)})
    finally:
        os.umask(before)
    assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {0o640}


def test_a_durable_file_is_on_the_disk_before_its_name_and_the_name_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: said.append(os.readlink(f"/proc/self/fd/{fd}")) or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda a, b: said.append("name") or replace(a, b))
    save_tensors(tmp_path / "a.safetensors", {"a": torch.ones(1)})
    assert len(said) == 3
    assert Path(said[0]).name.startswith(".a.")
    assert said[1:] == ["name", str(tmp_path)]


@pytest.mark.parametrize("link", [False, True])
def test_a_fifo_or_device_is_refused_and_stays(tmp_path: Path, link: bool) -> None:
    place = tmp_path / "out.md"
    if link:
        place.symlink_to("/dev/null")
    else:
        os.mkfifo(place)
    for write in (check_writable, lambda path: write_text(path, "x")):
        with pytest.raises(UserError, match="a device, a FIFO or a socket"):
            write(place)
    assert not place.is_file()
    assert list(tmp_path.iterdir()) == [place]


def test_json_holds_nothing_that_a_terminal_obeys() -> None:
    content = {"name": "\x1b[2J \x9b31m \u202e 漢字 \udcff"}
    text = json_text(content)
    assert text.replace("\n", "").isprintable()
    assert "漢字" in text
    assert json.loads(text) == content


def test_a_link_in_the_place_of_a_file_that_is_added_to_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    (tmp_path / "log.jsonl").symlink_to(tmp_path / "mine")
    (tmp_path / "guard").symlink_to(tmp_path / "nowhere")
    for name in ("log.jsonl", "guard"):
        with pytest.raises(OSError, match="symbolic links"):
            append_to(tmp_path / name)
    assert (tmp_path / "mine").read_text() == "x"
    assert not (tmp_path / "nowhere").exists()
    with append_to(tmp_path / "other") as file:
        file.write("y")
