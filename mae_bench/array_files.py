"""Large float32 arrays written row by row, as ``.npy`` or one ``.safetensors``: memory-mapped, whole or not there at all."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from backbones.errors import UserError

SUFFIXES = (".npy", ".safetensors")
Shape = tuple[int, ...]


class ArrayFiles:
    """Arrays of known shapes under temporary names; `commit` gives them their own, an exception deletes them.

    With ``.npy`` one array is the file asked for, several are ``STEM-NAME.npy`` each. With ``.safetensors`` they are tensors
    of one file.

    Raises:
        UserError: the suffix is another, the folder is missing or not writable, or the disk is too full.
    """

    def __init__(self, path: Path, shapes: Mapping[str, Shape]) -> None:
        self.path, self.shapes = path, dict(shapes)
        if path.suffix not in SUFFIXES:
            raise UserError(f"--out {path}: features are written as {' or '.join(SUFFIXES)}: give such a name")
        if not path.parent.is_dir():
            raise UserError(f"--out {path}: no folder {path.parent}: make it first")
        if not os.access(path.parent, os.W_OK):
            raise UserError(f"--out {path}: {path.parent} is not writable: give another folder")
        needed = sum(4 * math.prod(shape) for shape in self.shapes.values())
        free = shutil.disk_usage(path.parent).free
        # A memory map that the disk has no room for would kill the process half way.
        if needed > free:
            raise UserError(
                f"--out {path}: needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free: "
                "give another disk, fewer --layers or no patch features"
            )
        self._arrays: dict[str, NDArray[np.float32]] = {}

    def file_of(self, name: str) -> Path:
        """The final file that holds array `name`."""
        if self.path.suffix == ".safetensors" or len(self.shapes) == 1:
            return self.path
        return self.path.with_name(f"{self.path.stem}-{name}.npy")

    def __enter__(self) -> ArrayFiles:
        open_arrays: Callable[[], dict[str, Any]] = (
            self._open_safetensors if self.path.suffix == ".safetensors" else self._open_npy
        )
        try:
            self._arrays = open_arrays()
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()  # after `commit` there is nothing left under a temporary name

    def write(self, name: str, start: int, rows: NDArray[np.float32]) -> None:
        """Rows ``start`` to ``start + len(rows)`` of array `name`."""
        self._arrays[name][start : start + len(rows)] = rows

    def commit(self) -> None:
        """All arrays under their final names; nothing can be written after it."""
        for array in self._arrays.values():
            array.flush()  # type: ignore[attr-defined]
        self._arrays.clear()
        for file in self._files():
            os.replace(_temporary(file), file)

    def _files(self) -> list[Path]:
        return list(dict.fromkeys(self.file_of(name) for name in self.shapes))

    def _discard(self) -> None:
        self._arrays.clear()
        for file in self._files():
            _temporary(file).unlink(missing_ok=True)

    def _open_npy(self) -> dict[str, Any]:
        return {
            name: open_memmap(_temporary(self.file_of(name)), mode="w+", dtype=np.float32, shape=shape)
            for name, shape in self.shapes.items()
        }

    def _open_safetensors(self) -> dict[str, Any]:
        # The library wants all tensors in memory; the format is a length, a JSON header, then the tensors one after another
        # (github.com/huggingface/safetensors, "Format").
        header: dict[str, Any] = {}
        end = 0
        for name, shape in self.shapes.items():
            start, end = end, end + 4 * math.prod(shape)
            header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # tensors are aligned
        temporary = _temporary(self.path)
        with open(temporary, "wb") as f:
            f.write(len(text).to_bytes(8, "little") + text)
            f.truncate(f.tell() + end)
        return {
            name: np.memmap(
                temporary, np.float32, mode="r+", offset=8 + len(text) + header[name]["data_offsets"][0], shape=shape
            )
            for name, shape in self.shapes.items()
        }


def _temporary(file: Path) -> Path:
    return file.with_name(f".{file.name}.{os.getpid()}.tmp")
