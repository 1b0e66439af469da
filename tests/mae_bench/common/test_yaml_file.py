"""The door for YAML: plain data of bounded size, or one line that names the file."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones.errors import UserError
from mae_bench.check import baseline
from mae_bench.common.yaml_file import MAX_BYTES, parse_yaml, read_yaml

LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 10))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 1\ntitle: x\nseed: 2\n", "key seed stands twice"),
        ("train: {batch_size: 1, batch_size: 2}\n", "key batch_size stands twice"),
        ("train: {<<: {a: 1}, <<: {a: 2}}\n", "key << stands twice"),
        ("a: [1\n", "not readable as YAML"),
        ("a: !!python/object/apply:os.system ['touch x']\n", "not readable as YAML"),
        ("a: 2024-13-45\n", "not readable as YAML"),
        ("a: b\n---\nc: d\n", "not readable as YAML"),
        ("a: \x00\n", "not readable as YAML"),
        ("a: " + "[" * 3000 + "]" * 3000 + "\n", "nest"),
        ("".join(" " * i + "a:\n" for i in range(60)), "nested more than"),
        ("a: &x {a: *x}\n", "stands inside"),
        (LAUGHS, "anchors written out"),
        (MERGES, "anchors written out"),
        ("a: *nowhere\n", "not readable as YAML"),
        ("title: ${oc.env:HOME}\n", "write the value itself"),
        ("data: {options: {x: [1, 'a${b}']}}\n", "data.options.x: a${b}"),
        ("${a}: 1\n", "write the value itself"),
    ],
)
def test_what_is_no_plain_data_is_refused_in_one_line_at_once(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    begin = time.monotonic()
    with pytest.raises(UserError) as refused:
        read_yaml(path)
    message = str(refused.value)
    assert said in message
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 600
    assert time.monotonic() - begin < 5


def test_a_baseline_comes_through_the_same_door(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(LAUGHS)
    with pytest.raises(UserError, match="anchors written out"):
        baseline.load(tmp_path / "b.yaml")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x80", "a: é\n".encode("latin-1"), b"a: " + b"x" * MAX_BYTES])
def test_files_of_other_encodings_and_sizes_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "r.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"r\.yaml"):
        read_yaml(tmp_path / "r.yaml")


@pytest.mark.parametrize("text", ["", "- a\n", "text\n", "3\n"])
def test_a_file_holds_a_mapping(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UserError, match="expected a YAML mapping"):
        read_yaml(tmp_path / "r.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("5E2", 500.0),
        ("1.5e+3", 1500.0),
        ("-2e3", -2000.0),
        ("1e", "1e"),
        ("r1e3", "r1e3"),
        ("costs $5", "costs $5"),
        ("$HOME", "$HOME"),
        ("[&a x, *a]", ["x", "x"]),
        ("{a: &a {x: 1}, b: {<<: *a, y: 2}}", {"a": {"x": 1}, "b": {"x": 1, "y": 2}}),
        ("\ufeffa: 1", {"a": 1}),
        ("", None),
    ],
)
def test_numbers_are_those_of_yaml_1_2_and_small_anchors_work(text: str, value: object) -> None:
    assert parse_yaml(text, "here") == value


@given(st.text(max_size=60))
@settings(max_examples=100)
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        parse_yaml(text, "here")
    except UserError as e:
        message = str(e)
    else:
        message = ""
    assert "\n" not in message
