"""Where the embedded data set lies, and `prepare`, which makes it once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from itertools import count
from pathlib import Path

from backbones.errors import UserError
from tasks.datasets.cache_folder import default_cache_root
from tasks.datasets.embedded.config import EmbeddedConfig
from tasks.datasets.embedded.sources import Pool, load_pools
from tasks.progress import progress

GENERATOR_VERSION = 1
"""To be raised with every change that alters a byte of what is written: old caches are then left alone."""


def cache_folder(config: EmbeddedConfig, cache_root: Path | None = None) -> Path:
    """The folder that belongs to this configuration and generator, present or not."""
    digest = hashlib.sha256(_settings(config).encode()).hexdigest()[:12]
    return (cache_root or default_cache_root()) / f"embedded-{digest}"


def prepare(config: EmbeddedConfig, cache_root: Path | None = None) -> Path:
    """Makes the data set unless it is there, and returns its folder, whose ``README.txt`` says what it holds.

    It is written beside its place and renamed when whole, so that an interruption leaves no half data set,
    and two processes that make it at once both end with the same one. Raises `UserError` for a
    configuration that makes no data set, a cache folder that cannot be written, or missing packages.
    """
    config.check()
    final = cache_folder(config, cache_root)
    if final.is_dir():
        return final
    pools = load_pools()
    partial = final.with_name(f".{final.name}.{uuid.uuid4().hex}.partial")
    try:
        _remove_abandoned(final)
        partial.mkdir(parents=True)
        _generate(partial, config, pools)
        _rename_unless_present(partial, final)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"cannot write the embedded data set to {final.parent} ({reason}): "
            "set MAE_BENCH_CACHE to a folder that is writable and has 100 MB free"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def _settings(config: EmbeddedConfig) -> str:
    return json.dumps({"generator": GENERATOR_VERSION, **config.settings()}, sort_keys=True)


def _generate(folder: Path, config: EmbeddedConfig, pools: dict[str, Pool]) -> None:
    # Here, not on top: a finished data set must be found without the time that loading scikit-image takes.
    from tasks.datasets.embedded.write import write_class_folders, write_readme, write_scenes

    singles = config.pretrain_count + config.train_count + config.val_count
    scenes = config.scene_train_count + config.scene_val_count
    with progress("embedded data set (digits on photographs)", singles + scenes, "pictures") as advance:
        done = count(1)
        write_class_folders(folder / "imagenet", config, pools, lambda: advance(next(done)))
        write_scenes(folder / "coco", folder / "ADEChallengeData2016", config, pools, lambda: advance(next(done)))
    write_readme(folder / "README.txt", _settings(config))


def _remove_abandoned(final: Path) -> None:
    """Removes what killed processes left behind; what is younger than a day may still be in the making."""
    for partial in final.parent.glob(f".{final.name}.*.partial"):
        if time.time() - partial.stat().st_mtime > 86_400:
            shutil.rmtree(partial, ignore_errors=True)


def _rename_unless_present(source: Path, target: Path) -> None:
    """Renames a folder; where another process was quicker its folder, which holds the same bytes, stays."""
    try:
        os.rename(source, target)
    except OSError:
        if not target.is_dir():
            raise
