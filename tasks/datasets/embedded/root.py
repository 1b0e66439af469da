"""The folder of the embedded set that a recipe asks for."""

from __future__ import annotations

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from backbones.errors import UserError
from tasks.recipe import DataConfig


def embedded_root(data: DataConfig, layout: str) -> str | None:
    """``data.root``, or for the embedded set the folder of `layout` in the cache (made when missing)."""
    if data.name != "embedded" or data.root is not None:
        return data.root
    # Kept out of module scope: generating scenes loads photographs and digits that no other data set needs.
    from tasks.datasets.embedded import EmbeddedConfig, prepare

    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(EmbeddedConfig), data.options))
    except OmegaConfBaseException as e:
        raise UserError(f"data.options of the embedded set: {str(e).splitlines()[0]}") from e
    return str(prepare(config) / layout)  # type: ignore[arg-type]
