"""A small embedded data set, made once for this folder's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.datasets.embedded import EmbeddedConfig, prepare


@pytest.fixture(scope="session")
def small() -> EmbeddedConfig:
    return EmbeddedConfig(pretrain_count=12, train_count=40, val_count=20, scene_train_count=30, scene_val_count=10)


@pytest.fixture(scope="session")
def embedded(small: EmbeddedConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(small, tmp_path_factory.mktemp("embedded_cache"))
