"""Results reach a stream whatever its encoding: what it has no letter for is written with other characters."""

from __future__ import annotations

import io
import sys

import pytest

from mae_bench.cli.main import _write_any_text


@pytest.mark.parametrize(
    ("encoding", "written"),
    [("ascii", b"ViT ? 83.6 ? 0.1"), ("latin-1", b"ViT ? 83.6 \xb1 0.1"), ("utf-8", "ViT – 83.6 ± 0.1".encode())],
)
def test_a_results_dash_is_written_in_any_encoding(
    encoding: str, written: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    _write_any_text()
    print("ViT – 83.6 ± 0.1", end="", flush=True)
    assert raw.getvalue() == written
