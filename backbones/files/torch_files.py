"""Files of ``torch.save`` (zip, and the older format) and bare pickles of arrays, as plain data with tensors still on disk.

What is a tensor is decided from descriptions (`backbones.files.inert_pickle`); only those that are asked for are read.
"""

from __future__ import annotations

import math
import mmap
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor

from backbones.errors import UserError
from backbones.files.inert_pickle import (
    STORAGE_DTYPES,
    Array,
    MalformedPickle,
    Pickle,
    StoredTensor,
    read_pickle,
)
from backbones.plain_files import open_plain

# How torch.save begins a file that is no zip: a pickled magic number (torch/serialization.py, MAGIC_NUMBER).
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_ZIP = b"PK"
_PICKLE_LIMIT = 1 << 28  # bytes of the pickle in a zip, which holds names and numbers only
_DIRECTORY_LIMIT = 1 << 23  # bytes of a zip's list of members: some 100,000 of them
_CHUNK = 1 << 24
_DEPTH = 12  # containers within containers of a training checkpoint
# Tensors that share bytes are read as often as they are named; more than that many times the file's size is no checkpoint.
_EXPANSION = 4
_SLACK = 1 << 26
_DTYPES: dict[str, torch.dtype] = {
    name: dtype
    for name in (
        *STORAGE_DTYPES.values(),
        *("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
    )
    if isinstance(dtype := getattr(torch, name, None), torch.dtype)
}
_FOREIGN: tuple[tuple[Callable[[bytes], bool], str], ...] = (
    (
        lambda head: head.startswith(b"version https://git-lfs"),
        "a Git LFS pointer that stands for the file: run `git lfs pull` where it was cloned",
    ),
    (
        lambda head: head.lstrip().lower().startswith((b"<!doctype html", b"<html", b"<?xml")),
        "a web page: the download ended at a login or a notice; fetch the file itself",
    ),
    (lambda head: head.startswith(b"\x1f\x8b"), "compressed by gzip: unpack it first"),
    (lambda head: head.startswith((b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")), "compressed: unpack it first"),
    (
        lambda head: head[257:262] == b"ustar",
        "a tar archive (or torch's format of before 2018): unpack it, or save it anew with a newer torch",
    ),
    (lambda head: head.startswith(b"\x89HDF"), "an HDF5 file (Keras): convert it to safetensors first"),
    (lambda head: head.startswith(b"\x93NUMPY"), "a single numpy array: give a model's state dict"),
    (lambda head: head.startswith(b"\x08") and b"onnx" in head[:64].lower(), "an ONNX model: give its state dict"),
)


class TensorReader:
    """A checkpoint's content as plain data, and the tensors in it on demand.

    Attributes:
        content: containers, numbers, text, `StoredTensor`, `Array` and `Inert`.
        foreign: names of globals that stand in the file and were replaced by placeholders.

    Raises:
        UserError: not a checkpoint (what it is instead, where that shows), cut short, damaged, or made to exhaust memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._storages: dict[str, bytearray] = {}
        self._close = ExitStack()
        try:
            self._file = self._close.enter_context(open_plain(path))
            self._size = path.stat().st_size
            pickle = self._open()
        except UserError:
            self._close.close()
            raise
        except Exception as e:  # on arbitrary bytes the standard library raises nearly anything
            self._close.close()
            raise self._refusal(str(e) if isinstance(e, MalformedPickle) else type(e).__name__) from e
        self.content, self.foreign = pickle.content, pickle.foreign

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._close.close()

    def read(self, tensors: Mapping[str, StoredTensor | Array]) -> dict[str, Tensor]:
        """The tensors themselves, by name.

        Raises:
            UserError: they lie beyond the file, or its checksums say that it is damaged.
        """
        self._check_sizes(tensors)
        try:
            return {name: self._tensor(t) if isinstance(t, StoredTensor) else _array(t) for name, t in tensors.items()}
        except UserError:
            raise
        except zipfile.BadZipFile as e:
            raise UserError(f"{self.path} is damaged: {e}: its checksum does not fit; fetch it anew") from e
        except Exception as e:
            raise self._refusal(str(e) if isinstance(e, MalformedPickle) else type(e).__name__) from e

    def _refusal(self, reason: str) -> UserError:
        return UserError(f"{self.path} is not a checkpoint or is cut short: {reason}")

    def _open(self) -> Pickle:
        head = self._file.read(512)
        self._file.seek(0)
        if head.startswith(_ZIP):
            return self._open_zip()
        for fits, kind in _FOREIGN:
            if fits(head):
                raise UserError(f"{self.path} is no checkpoint but {kind}")
        if not head.startswith(b"\x80"):
            raise self._refusal("it begins as neither a zip nor a pickle")
        stream = self._close.enter_context(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))
        return self._open_legacy(stream) if head.startswith(_LEGACY) else read_pickle(stream)

    def _open_zip(self) -> Pickle:
        archive = self._close.enter_context(zipfile.ZipFile(cast(IO[bytes], _ShortReads(self._file))))
        members = {info.filename: info for info in archive.infolist()}
        if len(members) < len(archive.infolist()):
            twice = next(name for name, count in Counter(archive.namelist()).items() if count > 1)
            raise UserError(f"{self.path} is refused: {twice} is there twice in it: which is meant cannot be told")
        if any(info.file_size > self._size for info in members.values() if info.compress_type == zipfile.ZIP_STORED):
            raise self._refusal("its members are larger than the file")
        pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise UserError(f"{self.path} is no checkpoint but {_kind_of_zip(list(members))}")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in members:
            raise UserError(
                f"{self.path} is no checkpoint but a TorchScript program: save the state_dict() of what it was made from"
            )
        self._member = lambda name: _stored(archive, members, folder + name)
        order = self._member("byteorder")() if f"{folder}byteorder" in members else b"little"
        if order != b"little":
            raise UserError(f"{self.path} was written on a machine of the other byte order: save it anew on this kind")
        self._bytes = lambda storage: self._member(f"data/{storage.key}")()
        if members[pickles[0]].file_size > _PICKLE_LIMIT:
            raise self._refusal("its data.pkl is larger than names and numbers are")
        return read_pickle(_Buffer(self._member("data.pkl")()))

    def _open_legacy(self, stream: mmap.mmap) -> Pickle:
        """Magic number, version and system in a pickle each, the content, the storages' keys; then each storage's bytes."""
        for _ in range(3):
            read_pickle(stream)
        pickle, keys = read_pickle(stream), read_pickle(stream).content
        start = stream.tell()
        if not isinstance(keys, list) or not all(isinstance(key, (str, int)) for key in keys):
            raise MalformedPickle("no list of storages")
        order = {str(key): i for i, key in enumerate(keys)}
        places: dict[str, tuple[int, int]] = {}
        for key in order:
            if key not in pickle.storages:
                break  # a storage that nothing names has a length, but no element size
            (count,) = struct.unpack_from("<q", stream, start)
            length = _DTYPES[pickle.storages[key].dtype].itemsize * count
            if count < 0 or start + 8 + length > len(stream):
                raise MalformedPickle("its tensors lie beyond its end")
            places[key] = (start + 8, length)
            start += 8 + length
        self._bytes = lambda storage: bytearray(_slice(stream, places, storage.key))
        return pickle

    def _check_sizes(self, tensors: Mapping[str, StoredTensor | Array]) -> None:
        total = 0
        for name, tensor in tensors.items():
            if isinstance(tensor, StoredTensor):
                elements, size = math.prod(tensor.size), _DTYPES[tensor.dtype].itemsize
                stored = tensor.storage.size * _DTYPES[tensor.storage.dtype].itemsize
                last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.size, tensor.stride, strict=True))
                if elements and (elements * size > stored or (last + 1) * size > stored):
                    raise UserError(f"{self.path} is refused: {name} claims more numbers than the file holds for it")
                total += elements * size
        if total > _EXPANSION * self._size + _SLACK:
            raise UserError(
                f"{self.path} is refused: its tensors are {total / self._size:,.0f} times as large as the file"
            )

    def _tensor(self, tensor: StoredTensor) -> Tensor:
        dtype = _DTYPES[tensor.dtype]
        if not math.prod(tensor.size):
            return torch.empty(tensor.size, dtype=dtype)
        key = tensor.storage.key
        if key not in self._storages:
            self._storages[key] = self._bytes(tensor.storage)
        content = self._storages[key]
        last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.size, tensor.stride, strict=True))
        if (last + 1) * dtype.itemsize > len(content):
            raise UserError(f"{self.path} is not a checkpoint or is cut short: storage {key} is too small")
        flat = torch.frombuffer(content, dtype=dtype, count=len(content) // dtype.itemsize)
        return flat.as_strided(tensor.size, tensor.stride, tensor.offset)


def read_content(path: Path) -> Any:
    """All of a file of plain containers, numbers, text and tensors, as `torch.load` gives it; sets come as lists.

    Raises:
        UserError: not such a file, cut short, or something else in it.
    """
    with TensorReader(path) as reader:
        if reader.foreign:
            raise UserError(f"{path} holds {', '.join(reader.foreign[:3])}, which is not run: it is no file of ours")
        places: dict[int, StoredTensor | Array] = {}
        _find(reader.content, places, set(), _DEPTH)
        tensors = reader.read({str(identity): tensor for identity, tensor in places.items()})
        return _filled(reader.content, {identity: tensors[str(identity)] for identity in places})


def _find(content: Any, places: dict[int, StoredTensor | Array], seen: set[int], depth: int) -> None:
    """Notes the tensors in `content` by their identity; each container is looked into once."""
    if is_readable(content):
        places[id(content)] = content
    if not isinstance(content, (dict, list, tuple)) or id(content) in seen:
        return
    if not depth:
        raise MalformedPickle("nested too deeply")
    seen.add(id(content))
    for part in content.values() if isinstance(content, dict) else content:
        _find(part, places, seen, depth - 1)


def _filled(content: Any, made: dict[int, Any]) -> Any:
    """`content` with tensors in the place of their descriptions; `made` has what was made already, by identity."""
    if id(content) in made:
        return made[id(content)]
    if isinstance(content, dict):
        made[id(content)] = {key: _filled(value, made) for key, value in content.items()}
    elif isinstance(content, (list, tuple)):
        made[id(content)] = type(content)(_filled(value, made) for value in content)
    return made.get(id(content), content)


def what_it_is(path: Path) -> str:
    """What a file is that is no checkpoint, as the end of a sentence; empty where nothing shows."""
    with open(path, "rb") as file:
        head = file.read(512)
    return next((f": it is {kind}" for fits, kind in _FOREIGN if fits(head)), "")


def is_readable(value: Any) -> bool:
    """Whether `TensorReader.read` makes a tensor of it: plain numbers whose bytes the file has."""
    if isinstance(value, Array):
        return value.dtype is not None
    return isinstance(value, StoredTensor) and value.dtype in _DTYPES


def _array(array: Array) -> Tensor:
    """A copy in the machine's byte order."""
    assert array.dtype is not None
    flat = np.frombuffer(array.data, array.dtype)
    content = flat.reshape(array.shape, order="F" if array.columns_first else "C")
    return torch.from_numpy(np.array(content, dtype=content.dtype.newbyteorder("="), order="C"))


def _slice(stream: mmap.mmap, places: Mapping[str, tuple[int, int]], key: str) -> bytes:
    if key not in places:
        raise MalformedPickle("a storage is missing")
    start, length = places[key]
    return stream[start : start + length]


def _stored(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], name: str) -> Callable[[], bytearray]:
    """Reads a member; torch stores them as they are, and a compressed one could unpack to any size."""

    def read() -> bytearray:
        info = members[name]
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise MalformedPickle(f"{name} is compressed, which torch.save does not do")
        content = bytearray(info.file_size)
        view, done = memoryview(content), 0
        with archive.open(info) as member:  # looks at the checksum at its end
            while done < len(content):
                block = member.read(min(_CHUNK, len(content) - done))
                if not block:
                    raise MalformedPickle(f"{name} is cut short")
                view[done : done + len(block)] = block
                done += len(block)
            member.read(1)
        return content

    return read


def _kind_of_zip(names: list[str]) -> str:
    if names and all(name.endswith(".npy") for name in names):
        return "a numpy archive (.npz, as JAX projects have): convert it to safetensors first"
    first = ", ".join(names[:3]) or "nothing"
    return f"a zip archive with {first}: give the checkpoint that is in it"


class _Buffer:
    """Bytes as `inert_pickle.Stream`, read without copies of what lies behind."""

    def __init__(self, content: bytearray) -> None:
        self._content, self._at = content, 0

    def read(self, size: int, /) -> bytes:
        block = bytes(self._content[self._at : self._at + size])
        self._at += len(block)
        return block

    def readline(self) -> bytes:
        end = self._content.find(b"\n", self._at)
        return self.read((len(self._content) if end < 0 else end + 1) - self._at)

    def tell(self) -> int:
        return self._at


class _ShortReads:
    """A file for `zipfile` that refuses to read a list of members of hundreds of megabytes in one piece."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size > max(_DIRECTORY_LIMIT, _CHUNK):
            raise MalformedPickle("its list of members is larger than a checkpoint's")
        return self._file.read(size)
