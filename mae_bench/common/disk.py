"""What a run says when a file of its own cannot be written, above all on a full disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backbones.errors import RunFailed


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the system's errors on writing `path` into a `RunFailed` that names file, free space and the way out."""
    try:
        yield
    except OSError as e:
        raise RunFailed(
            f"{path}: cannot be written: {e.strerror or e} ({_space(path.parent)}): make room there and give the same "
            "command, which goes on from the last checkpoint; that one is kept"
        ) from e


def _space(folder: Path) -> str:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return "free space unknown"
    return f"{usage.free} bytes free of {usage.total}"
