"""Pickles of numpy arrays, as detectron2's model zoo has its weights (``model_final_*.pkl``), written.

They are read where all pickles are, in `backbones.files.torch_files`.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from backbones.atomic import replacing


def save_arrays(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes such a file atomically, with the entries by which detectron2 knows its own (`DetectionCheckpointer`)."""
    content = {"model": {k: v.detach().cpu().numpy() for k, v in tensors.items()}, "__author__": "mae-bench"}
    with replacing(path) as temporary, open(temporary, "wb") as f:
        pickle.dump(content, f, protocol=4)
