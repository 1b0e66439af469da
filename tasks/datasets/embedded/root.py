"""The folder of the embedded set that a recipe asks for."""

from __future__ import annotations

from tasks.recipe import DataConfig


def embedded_root(data: DataConfig, layout: str) -> str | None:
    """``data.root``, or for the embedded set the folder of `layout` in the cache (made when missing)."""
    if data.name != "embedded" or data.root is not None:
        return data.root
    # Kept out of module scope: generating scenes loads photographs and digits that no other data set needs.
    from tasks.datasets.embedded import EmbeddedConfig, prepare

    return str(prepare(EmbeddedConfig.of(data.options)) / layout)
