"""Pickles of numpy arrays, as detectron2's model zoo has its weights (``model_final_*.pkl``), read without running code.

Files of ``torch.save`` are `backbones.tensor_files`'s, which asks here first.
"""

from __future__ import annotations

import collections
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbones.atomic import replacing
from backbones.errors import UserError

# How torch.save begins a file that is no zip: a pickled magic number (torch/serialization.py, MAGIC_NUMBER).
_TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_PROTOCOL = b"\x80"


def is_array_pickle(path: Path) -> bool:
    """Whether a file is a bare pickle: neither a zip nor torch's older format."""
    try:
        with open(path, "rb") as f:
            head = f.read(len(_TORCH_LEGACY))
    except OSError:
        return False  # torch.load says what is wrong
    return head.startswith(_PROTOCOL) and head != _TORCH_LEGACY


def read_arrays(path: Path) -> Any:
    """The pickled object, numeric arrays in it as tensors. Only arrays and plain containers are let in.

    Raises:
        UserError: cut short, or it wants anything else than arrays.
    """
    try:
        with open(path, "rb") as f:
            content = _ArrayUnpickler(f, encoding="latin1").load()
        return _tensors(content)
    except _Refused as e:
        raise UserError(f"{path} is refused: it wants to run {e}, and only arrays are read") from e
    except Exception as e:  # on arbitrary bytes the unpickler raises nearly anything
        raise UserError(f"{path} is not a checkpoint or is cut short: {type(e).__name__}") from e


def save_arrays(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes such a file atomically, with the entries by which detectron2 knows its own (`DetectionCheckpointer`)."""
    content = {"model": {k: v.detach().cpu().numpy() for k, v in tensors.items()}, "__author__": "mae-bench"}
    with replacing(path) as temporary, open(temporary, "wb") as f:
        pickle.dump(content, f, protocol=4)


class _Refused(Exception):
    pass


class _ArrayUnpickler(pickle.Unpickler):
    """Finds what numpy's pickles are made of and nothing else ("Restricting Globals", Python's documentation of pickle)."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")  # numpy 2's name of it
        allowed: dict[tuple[str, str], Callable[[], Any]] = {
            ("numpy.core.multiarray", "_reconstruct"): lambda: np.empty(0).__reduce__()[0],
            ("numpy.core.multiarray", "scalar"): lambda: np.float32(0).__reduce__()[0],
            ("numpy.core.numeric", "_frombuffer"): lambda: np.empty(0).__reduce_ex__(5)[0],
            ("numpy", "ndarray"): lambda: np.ndarray,
            ("numpy", "dtype"): lambda: np.dtype,
            ("collections", "OrderedDict"): lambda: collections.OrderedDict,
            ("_codecs", "encode"): lambda: lambda text, encoding: _latin1(text, encoding),
        }
        if (module, name) not in allowed:
            raise _Refused(f"{module}.{name}")
        return allowed[module, name]()


def _latin1(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes; other codecs would be looked up by name."""
    if encoding != "latin1":
        raise _Refused(f"_codecs.encode with {encoding!r}")
    return text.encode("latin1")


def _tensors(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _tensors(value) for key, value in content.items()}
    if isinstance(content, np.ndarray) and content.dtype.kind in "fiub":
        return torch.from_numpy(np.asarray(content, dtype=content.dtype.newbyteorder("="), order="C"))
    return content
