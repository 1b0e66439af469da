"""Makes the official code importable from where it lies; nothing of it is here.

It asks for timm 0.3.2, which runs with today's torch and numpy once it is given back what these have dropped. Without that
release today's timm does, whose blocks no longer take an argument that the official code sets to None.
"""

from __future__ import annotations

import collections.abc
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np


def make_importable(official: Path, timm: Path | None = None) -> str:
    """Puts a checkout of facebookresearch/mae on the path, and a folder that holds timm 0.3.2 if given.

    Returns the version of timm that it will run with. To be called before timm is imported.
    """
    if not (official / "models_mae.py").is_file():
        raise FileNotFoundError(f"{official} is no checkout of facebookresearch/mae: it has no models_mae.py")
    sys.path[:0] = [str(folder) for folder in (timm, official) if folder is not None]
    from torchvision.transforms import functional

    six = ModuleType("torch._six")
    vars(six).update(container_abcs=collections.abc, int_classes=int, string_classes=str, inf=float("inf"))
    sys.modules["torch._six"] = six
    np.float = float  # type: ignore[attr-defined]
    functional._get_image_size = functional.get_image_size
    import timm.models.vision_transformer as vit
    from timm import __version__ as version

    if not version.startswith("0."):

        class Block(vit.Block):  # type: ignore[misc]
            def __init__(self, *args: Any, qk_scale: None = None, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)

        vit.Block = Block
    return str(version)
