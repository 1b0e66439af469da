"""WebDataset shards with random access: ``train-000000.tar`` … whose samples are ``key.jpg`` and ``key.cls`` side by side.

As timm's `imagenet-1k-wds` is laid out. timm's own reader of them streams; ours indexes them once (`tars`), so that samplers,
subsets and exact evaluation work as with every other layout.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from pathlib import Path

import numpy as np

from backbones.errors import UserError
from tasks.datasets.layouts.reader import Reader, numbered_names
from tasks.datasets.layouts.tars import index_tars

# The key ends at the first dot of the file's name, as in webdataset.
_SAMPLE = re.compile(r"^((?:.*/)?[^./]+)\.([^/]*)$")


class ShardReader(Reader):
    """Samples in the order of the shards; classes are the numbers from 0 up to the greatest."""

    numbered = True

    def __init__(self, shards: list[Path]) -> None:
        self.root = shards[0].parent
        self.shards = shards
        index = index_tars(shards)
        labels: dict[tuple[int, str], int] = {}
        images: dict[tuple[int, str], int] = {}
        for row, (shard, name) in enumerate(zip(index.tar.tolist(), index.names, strict=True)):
            match = _SAMPLE.match(name)
            if match is None:
                continue
            key = (shard, match[1])
            if index.values[row] < 0:
                images.setdefault(key, row)
            else:
                labels[key] = int(index.values[row])
        bare = next((key for key in images if key not in labels), None)
        if bare is not None or not images:
            what = f"sample {bare[1]!r} has no label file {bare[1]}.cls" if bare else "no images found"
            raise UserError(f"{shards[bare[0] if bare else 0]}: {what}: expected key.jpg and key.cls side by side")
        self.index = index.take(list(images.values()))
        self.labels = np.array([labels[key] for key in images], np.int64)
        self.class_names = numbered_names(self.labels, self.root)

    def name(self, i: int) -> str:
        return f"{self.shards[self.index.tar[i]].name}/{self.index.names[i]}"

    def encoded(self, i: int) -> bytes:
        return self.index.read(i)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.index.fingerprint().encode())
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()


def is_shard(path: Path) -> bool:
    """Whether a tar begins with samples of a WebDataset: a label file is among its first members."""
    try:
        with tarfile.open(path, "r:") as tar:
            names = [member.name for member, _ in zip(tar, range(8), strict=False)]
    except (OSError, tarfile.TarError):
        return False
    return any(name.endswith(".cls") for name in names)
