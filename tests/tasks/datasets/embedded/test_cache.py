"""`prepare`: the same bytes from the same seed, made once, whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from backbones.errors import UserError
from tasks import progress
from tasks.datasets.cache_folder import default_cache_root
from tasks.datasets.embedded import EmbeddedConfig, cache_folder, prepare
from tasks.datasets.embedded import write as layouts

REPOSITORY = Path(__file__).parents[4]


def digests(folder: Path) -> dict[str, str]:
    """Relative path -> sha256 of every file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def start_prepare(config: EmbeddedConfig, cache_root: Path) -> subprocess.Popen[str]:
    program = (
        "from pathlib import Path; from tasks.datasets.embedded import *; "
        f"print(prepare(EmbeddedConfig(**{dataclasses.asdict(config)}), Path({str(cache_root)!r})))"
    )
    command = [sys.executable, "-c", program]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_at_once_both_end_well_with_the_bytes_that_a_third_one_makes(
    small: EmbeddedConfig, embedded: Path, tmp_path: Path
) -> None:
    processes = [start_prepare(small, tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert {stdout.strip() for stdout, _ in outputs} == {str(cache_folder(small, tmp_path))}
    assert [path.name for path in tmp_path.iterdir()] == [embedded.name]
    assert digests(cache_folder(small, tmp_path)) == digests(embedded)


def test_who_comes_second_takes_the_data_set_of_who_came_first(
    small: EmbeddedConfig, embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(path: Path, settings: str) -> None:
        """The last file to be written: another process finishes meanwhile."""
        cache_folder(small, tmp_path).mkdir()
        (cache_folder(small, tmp_path) / "of the first").touch()

    monkeypatch.setattr(layouts, "write_readme", overtaken)
    assert prepare(small, tmp_path) == cache_folder(small, tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == [embedded.name, "of the first"]


def test_a_finished_data_set_is_found_at_once_and_left_alone(small: EmbeddedConfig, embedded: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in embedded.rglob("*")}
    start = time.perf_counter()
    assert prepare(small, embedded.parent) == embedded
    assert time.perf_counter() - start < 0.1
    assert {path: path.stat().st_mtime_ns for path in embedded.rglob("*")} == before


def test_another_count_leaves_the_pictures_that_both_have_alone(
    small: EmbeddedConfig, embedded: Path, tmp_path: Path
) -> None:
    fewer = dataclasses.replace(
        small, pretrain_count=5, train_count=7, val_count=6, scene_train_count=4, scene_val_count=3
    )
    have, all_of_them = digests(prepare(fewer, tmp_path)), digests(embedded)
    shared = {path: digest for path, digest in have.items() if Path(path).suffix in (".JPEG", ".jpg", ".png")}
    assert len(shared) == 5 + 7 + 6 + 3 * (4 + 3)
    assert shared.items() <= all_of_them.items()


def test_another_seed_alters_every_picture(small: EmbeddedConfig, embedded: Path, tmp_path: Path) -> None:
    other, first = digests(prepare(dataclasses.replace(small, seed=1), tmp_path)), digests(embedded)
    pictures = [path for path in first if path.lower().endswith((".jpeg", ".jpg"))]
    assert len(pictures) == 12 + 40 + 20 + 2 * (30 + 10)
    assert all(other[path] != first[path] for path in pictures)


@pytest.mark.parametrize("pictures", ["singles", "pieces"])
def test_every_field_of_the_configuration_has_a_part_in_the_folder_name(pictures: str) -> None:
    """But those of pieces, where there are none: `check` refuses them then."""
    default = EmbeddedConfig(pretrain_pictures=pictures)
    others = 3 if pictures == "singles" else 0
    names = {cache_folder(default, Path("x")).name}
    for field in dataclasses.fields(default):
        value = getattr(default, field.name)
        other = [1, 1] if isinstance(value, list) else "pieces" * 2 if isinstance(value, str) else value / 2 + 7
        names.add(cache_folder(dataclasses.replace(default, **{field.name: other}), Path("x")).name)
    assert len(names) == len(dataclasses.fields(default)) + 1 - others


def test_an_interruption_leaves_nothing_behind(
    small: EmbeddedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(layouts, "write_scenes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(small, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_after_a_day(small: EmbeddedConfig, tmp_path: Path) -> None:
    name = cache_folder(small, tmp_path).name
    old, young = tmp_path / f".{name}.a.partial", tmp_path / f".{name}.b.partial"
    old.mkdir()
    young.mkdir()
    os.utime(old, (0, time.time() - 90_000))
    prepare(small, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {name, young.name}


def test_a_full_disk_is_one_line_that_names_the_way_out(
    small: EmbeddedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(layouts, "write_scenes", full)
    with pytest.raises(UserError, match=r"No space left on device.*MAE_BENCH_CACHE") as caught:
        prepare(small, tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_folder_that_cannot_be_made_is_named(small: EmbeddedConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/cache.*MAE_BENCH_CACHE"):
        prepare(small, tmp_path / "file" / "cache")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"MAE_BENCH_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/mae_bench"),
        ({"XDG_CACHE_HOME": "relative, so to be ignored"}, "/home/me/.cache/mae_bench"),
        ({"MAE_BENCH_CACHE": ""}, "/home/me/.cache/mae_bench"),
        ({"MAE_BENCH_CACHE": "~/c"}, "/home/me/c"),
    ],
)
def test_the_cache_folder_is_our_variable_then_xdg_then_home(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MAE_BENCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **environment}.items():
        monkeypatch.setenv(name, value)
    assert default_cache_root() == Path(expected)


def test_the_configuration_works_as_an_omegaconf_schema() -> None:
    merged = OmegaConf.merge(OmegaConf.structured(EmbeddedConfig), {"scene_digits": [2, 3], "seed": 5})
    config = OmegaConf.to_object(merged)
    assert config == EmbeddedConfig(scene_digits=[2, 3], seed=5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"digit_size": [34, 49]},
        {"digit_size": [40, 30]},
        {"digit_size": [34]},
        {"scene_digits": [0, 2]},
        {"scene_digit_size": [40, 97]},
        {"scene_overlap": 1.5},
        {"background_brightness": -0.1},
        {"val_count": 0},
        {"scene_bold": 9},
        {"seed": -1},
    ],
)
def test_a_value_that_makes_no_data_set_is_named(wrong: dict[str, object], tmp_path: Path) -> None:
    (name,) = wrong
    with pytest.raises(UserError, match=name) as caught:
        prepare(EmbeddedConfig(**wrong), tmp_path)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_new_option_at_its_default_leaves_the_folders_of_before(tmp_path: Path) -> None:
    assert cache_folder(EmbeddedConfig(), tmp_path).name == "embedded-bf4d7fe971f7"
    assert cache_folder(EmbeddedConfig(pretrain_pictures="pieces"), tmp_path).name != "embedded-bf4d7fe971f7"


def test_that_it_is_under_way_is_said_where_stderr_is_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "PLAIN_SECONDS", -1.0)
    prepare(
        EmbeddedConfig(pretrain_count=2, train_count=2, val_count=2, scene_train_count=1, scene_val_count=1), tmp_path
    )
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[1] for line in lines if line.startswith("embedded data set")] == [
        f"{n}/8" for n in range(1, 9)
    ]
