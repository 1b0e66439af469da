"""Large float arrays written row by row, as ``.npy`` or one ``.safetensors``: never whole in memory, never half on disk."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from backbones.atomic import check_writable
from backbones.errors import UserError

SUFFIXES = (".npy", ".safetensors")
Shape = tuple[int, ...]


class ArrayFiles:
    """Arrays of known shapes under temporary names; `commit` gives them their own, an exception deletes them.

    With ``.npy`` one array is the file asked for, several are ``STEM-NAME.npy`` each. With ``.safetensors`` they are tensors
    of one file. Several processes fill the same files when one of them enters the files before the others enter `shared`.

    Args:
        dtype: float32 or float16.
        where: what messages call the place.
        way_out: what messages advise when room is short.
        tag: part of the temporary names; processes that share files give the same one.
        always_named: ``STEM-NAME.npy`` also for a single array.

    Raises:
        UserError: the suffix is another, the folder is missing or not writable, or the disk is too full.
    """

    def __init__(
        self,
        path: Path,
        shapes: Mapping[str, Shape],
        *,
        dtype: str = "float32",
        where: str = "",
        way_out: str = "give another disk, fewer --layers or no patch features",
        tag: str = "",
        always_named: bool = False,
    ) -> None:
        self.path, self.shapes, self.dtype = path, dict(shapes), np.dtype(dtype).newbyteorder("<")
        self.where, self.way_out, self.tag = where or f"--out {path}", way_out, tag or str(os.getpid())
        self.always_named = always_named
        if path.suffix not in SUFFIXES:
            raise UserError(f"{self.where}: features are written as {' or '.join(SUFFIXES)}: give such a name")
        check_writable(path, self.where)
        self._places: dict[str, tuple[BinaryIO, int]] = {}  # an array's file, and where in it the array begins

    def file_of(self, name: str) -> Path:
        """The final file that holds array `name`."""
        if self.path.suffix == ".safetensors" or (len(self.shapes) == 1 and not self.always_named):
            return self.path
        return self.path.with_name(f"{self.path.stem}-{name}.npy")

    def check_room(self) -> None:
        """A UserError where the disk is too full."""
        needed = sum(map(self._size, self.shapes.values()))
        free = shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise UserError(f"{self.where}: needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free: {self.way_out}")

    def __enter__(self) -> ArrayFiles:
        self.check_room()
        try:
            with self._explained():
                if self.path.suffix == ".safetensors":
                    self._open_safetensors()
                else:
                    self._open_npy()
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()  # after `commit` there is nothing left under a temporary name

    @contextmanager
    def shared(self) -> Iterator[ArrayFiles]:
        """For another process than the one that made the files: opens them under their temporary names; only ``.npy``."""
        try:
            with self._explained():
                for name in self.shapes:
                    file = open(self._temporary(self.file_of(name)), "r+b")  # noqa: SIM115 (closed in _close)
                    self._places[name] = (file, _npy_header(file, self.dtype, self.shapes[name]))
            yield self
            with self._explained():
                self._close()
        finally:
            with suppress(OSError):
                self._close()

    def write(self, name: str, start: int, rows: NDArray[Any]) -> None:
        """Rows ``start`` to ``start + len(rows)`` of array `name`."""
        file, offset = self._places[name]
        with self._explained():
            file.seek(offset + start * self._size(self.shapes[name][1:]))
            file.write(rows.astype(self.dtype, copy=False).tobytes())

    def commit(self, name_of: Callable[[Path, Path], Path] = lambda _, final: final) -> list[Path]:
        """All files under their final names, which it returns; nothing can be written after it.

        Args:
            name_of: the final name of a file, from where it lies now (whole, closed) and the name that it would get.
        """
        with self._explained():
            self._close()
            names = [name_of(self._temporary(file), file) for file in self._final_files()]
            for file, name in zip(self._final_files(), names, strict=True):
                os.replace(self._temporary(file), name)
        return names

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise UserError(f"{self.where}: cannot write ({e.strerror}): make room, or {self.way_out}") from e

    def _final_files(self) -> list[Path]:
        return list(dict.fromkeys(self.file_of(name) for name in self.shapes))

    def _close(self) -> None:
        for file, _ in self._places.values():
            file.close()
        self._places.clear()

    def _discard(self) -> None:
        with suppress(OSError):  # what cannot be flushed is not wanted any more
            self._close()
        for file in self._final_files():
            self._temporary(file).unlink(missing_ok=True)

    def _open_npy(self) -> None:
        for name, shape in self.shapes.items():
            file = open(self._temporary(self.file_of(name)), "wb")  # noqa: SIM115 (closed in _close)
            self._places[name] = (file, 0)
            start = _npy_header(file, self.dtype, shape)
            self._places[name] = (file, start)
            file.truncate(start + self._size(shape))

    def _open_safetensors(self) -> None:
        # The library wants all tensors in memory; the format is a length, a JSON header, then the tensors one after another
        # (github.com/huggingface/safetensors, "Format").
        ends = list(accumulate(map(self._size, self.shapes.values()), initial=0))
        header = {
            name: {"dtype": f"F{8 * self.dtype.itemsize}", "shape": list(shape), "data_offsets": [start, end]}
            for (name, shape), start, end in zip(self.shapes.items(), ends, ends[1:], strict=False)
        }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # tensors are aligned
        file = open(self._temporary(self.path), "wb")  # noqa: SIM115 (closed in _close)
        self._places = {name: (file, 8 + len(text) + start) for name, start in zip(self.shapes, ends, strict=False)}
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + ends[-1])

    def _size(self, shape: Shape) -> int:
        """Bytes of an array."""
        return self.dtype.itemsize * math.prod(shape)

    def _temporary(self, file: Path) -> Path:
        return file.with_name(f".{file.name}.{self.tag}.tmp")


def _npy_header(file: BinaryIO, dtype: np.dtype[Any], shape: Shape) -> int:
    """Writes the header, and says where the array begins."""
    write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    return file.tell()
