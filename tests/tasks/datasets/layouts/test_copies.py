"""Validation images that are copies of training images under other names are noted, in every layout."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tasks.datasets.images import open_split
from tasks.datasets.manifest import copies

Row = tuple[str, bytes, int]


def picture(seed: int) -> bytes:
    out = io.BytesIO()
    Image.frombytes("RGB", (24, 24), random.Random(seed).randbytes(24 * 24 * 3)).save(out, "PNG")
    return out.getvalue()


def as_parquet(root: Path, split: str, rows: list[Row]) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    images = [{"bytes": content, "path": name} for name, content, _ in rows]
    pq.write_table(
        pa.table({"image": images, "label": [c for *_, c in rows]}), root / f"{split}-00000-of-00001.parquet"
    )


def as_pathless_parquet(root: Path, split: str, rows: list[Row]) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table({"image": [content for _, content, _ in rows], "label": [c for *_, c in rows]})
    pq.write_table(table, root / f"{split}-00000-of-00001.parquet", row_group_size=3)


def as_list(root: Path, split: str, rows: list[Row]) -> None:
    for name, content, _ in rows:
        (root / name).write_bytes(content)
    (root / f"{split}.txt").write_text("".join(f"{name} {label}\n" for name, _, label in rows))


def as_csv(root: Path, split: str, rows: list[Row]) -> None:
    as_list(root, split, rows)
    (root / f"{split}.txt").rename(root / f"{split}.csv")


@pytest.mark.parametrize("write", [as_parquet, as_pathless_parquet, as_list, as_csv])
def test_copies_under_other_names(write: Callable[[Path, str, list[Row]], None], tmp_path: Path) -> None:
    train = [(f"t{i}.png", picture(i), i % 2) for i in range(8)]
    val = [(f"v{i}.png", picture(i + 6), i % 2) for i in range(4)]  # 6 and 7 are training images
    for split, rows in (("train", train), ("val", val)):
        write(tmp_path, split, rows)
    splits = [open_split("mine", str(tmp_path), split).manifest() for split in ("train", "val")]
    assert splits[0].sizes is not None
    assert splits[0].sizes.tolist() == [len(content) for _, content, _ in train]
    (note,) = copies(*splits)
    assert "2 of 4 looked at have the very bytes of a training image" in note
