"""Where generated data and kept features lie."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache_root() -> Path:
    """``$MAE_BENCH_CACHE``, else ``$XDG_CACHE_HOME/mae_bench``, else ``~/.cache/mae_bench``."""
    if own := os.environ.get("MAE_BENCH_CACHE"):
        return Path(own).expanduser()
    # The XDG specification says that a relative path is to be ignored.
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path("~/.cache").expanduser()) / "mae_bench"
