"""Named tensors on disk: safetensors, torch files, sharded folders; in without running code, out atomically.

What the names mean is `backbones.checkpoints.read_layouts`'s, what they make together `backbones.checkpoints.checkpoint`'s.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import safetensors.torch
import torch
from torch import Tensor

from backbones.atomic import replacing
from backbones.errors import UserError
from backbones.files.facts import check_config, check_metadata
from backbones.files.inert_pickle import Inert
from backbones.files.torch_files import TensorReader, is_readable, what_it_is
from backbones.plain_files import load_json, open_plain, parse_json

_METADATA = "mae_bench"
_CHECKSUM = "sha256_of_tensors"
# What training scripts put their weights under; timm, too, prefers the averaged weights to the raw ones, and a
# self-distilled model is evaluated by its teacher.
_WRAPPERS = (
    *("teacher", "target_encoder", "model_ema", "state_dict_ema", "model", "state_dict", "model_state_dict"),
    *("model_state", "module", "net", "network", "encoder", "backbone"),
)
_MAX_WRAPPERS = 8
_MAX_ENTRIES = 100  # among which tensors are looked for under a name that is not known
_MAX_PARTS = 20_000  # modules, parameters and buffers of a whole model that was pickled
# What wrappers of modules put among the names; DDP's and torch.compile's own prefixes are `read_layouts`' business.
_WRAPPED_MODULES = re.compile(r"(?:(?<=\.)|^)(?:_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")
_WEIGHTS = (
    "model.safetensors",
    "pytorch_model.bin",
    "encoder.safetensors",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class TensorFile:
    """What a file holds.

    Attributes:
        path: the file, or the index of a sharded one.
        sha256: of the file's bytes; of a sharded one, over the shards' digests.
        tensors: by the names in the file.
        wrapper: the keys that the tensors were found under, such as ``model``; empty when they lay bare.
        metadata: what `save_tensors` wrote beside them; None when the file is not ours.
        config: the ``config.json`` beside the file (Hugging Face), else empty.
        timm: the ``config.json`` beside the file, where timm wrote it, else empty.
        args: the command line that a training script saved along (official MAE, timm, DINO), else empty.
        foreign: names of objects in the file that only code of theirs could make; they were passed over, nothing was run.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    wrapper: str = ""
    metadata: dict[str, Any] | None = None
    config: dict[str, Any] = field(default_factory=dict)
    args: dict[str, Any] = field(default_factory=dict)
    foreign: tuple[str, ...] = ()
    timm: dict[str, Any] = field(default_factory=dict)

    @property
    def has_unread_config(self) -> bool:
        """Whether a ``config.json`` lies beside the file that names a model, and is not taken for this file's."""
        beside = self.path.with_name("config.json")
        if self.config or self.timm or self.metadata is not None or not beside.is_file():
            return False
        try:
            content = read_json_file(beside)
        except UserError:  # whatever it is, it is not ours to read
            return False
        return "model_type" in content or isinstance(content.get("architecture"), str)

    def beside(self, name: str) -> dict[str, Any]:
        """The JSON file `name` in the same folder, such as ``preprocessor_config.json``; empty where there is none."""
        path = self.path.with_name(name)
        return read_json_file(path) if os.path.lexists(path) else {}


def read_tensors(path: Path) -> TensorFile:
    """Reads a file, or the weights of a folder (Hugging Face model, finished run).

    Raises:
        UserError: no such file, not a checkpoint, cut short, or without named tensors.
    """
    path = _resolve(path)
    if path.name in _INDICES:
        return _read_shards(path)
    config, timm = _configs_beside(path)
    if path.suffix == ".safetensors":
        tensors, metadata = _read_safetensors(path)
        return TensorFile(path, sha256_file(path), tensors, metadata=metadata, config=config, timm=timm)
    return replace(_read_pickle(path), sha256=sha256_file(path), config=config, timm=timm)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Writes safetensors atomically: to a temporary name in the same folder, on the disk, then renamed.

    A checksum of the tensors goes with them. The same tensors give the same bytes.
    """
    contiguous = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    checksum = _checksum(contiguous)
    if metadata is None:
        entry = {"format": "pt", _CHECKSUM: checksum}  # "format" is what Hugging Face's loader asks for
    else:
        entry = {_METADATA: json.dumps({**metadata, _CHECKSUM: checksum}, sort_keys=True)}
    with replacing(path, durable=True) as temporary:
        try:
            safetensors.torch.save_file(contiguous, temporary, metadata=entry)
            if len(entry) > 1:
                _sort_header(temporary)
        except safetensors.SafetensorError as e:
            code = re.search(r"os error (\d+)", str(e))
            if code is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from e


def _sort_header(path: Path) -> None:
    """Puts a file's metadata in order, in place: safetensors writes entries in any order, at the same length."""
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:
            file.seek(8)
            file.write(text.ljust(size))


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, kinds of number, shapes and bytes, whatever their order in a file."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_pickle(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a ``.pth`` file of plain tensors and containers atomically."""
    with replacing(path, durable=True) as temporary, open(temporary, "wb") as file:
        write_torch(content, file.write)


def write_torch(content: Mapping[str, Any], write: Callable[[bytes], int]) -> None:
    """What `torch.save` makes of `content`, to `write`.

    Raises:
        OSError: what `write` raised, of which torch makes errors of its own.
    """
    writer = _Writer(write)
    try:
        torch.save(dict(content), cast(IO[bytes], writer))
    except Exception as e:
        if writer.error is None:
            raise
        raise writer.error from e


class _Writer:
    """As much of a file as `torch.save` asks for; keeps the error that writing met."""

    def __init__(self, write: Callable[[bytes], int]) -> None:
        self._write = write
        self.error: OSError | None = None

    def write(self, content: bytes) -> int:
        try:
            return self._write(content)
        except OSError as e:
            self.error = e
            raise

    def flush(self) -> None:
        pass


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes, as hex."""
    return digest_file(path, "sha256")


def digest_file(path: Path, algorithm: str) -> str:
    """Digest of a file's bytes by a `hashlib` algorithm, as hex."""
    with open(path, "rb") as f:
        if hasattr(hashlib, "file_digest"):
            return hashlib.file_digest(f, algorithm).hexdigest()
        digest = hashlib.new(algorithm)  # Python 3.10
        for block in iter(lambda: f.read(1 << 20), b""):
            digest.update(block)
        return digest.hexdigest()


def _resolve(path: Path) -> Path:
    if path.is_dir():
        for name in (*_INDICES, *_WEIGHTS):
            if (path / name).is_file():
                return path / name
        runs = islice((str(file.parent) for name in _WEIGHTS for file in sorted(path.glob(f"*/*/{name}"))), 3)
        some = ", ".join(runs)  # of a suite: OUT/PROTOCOL/RUN
        raise UserError(
            f"{path} is a folder without {' or '.join(_WEIGHTS)}: give a checkpoint file, a Hugging Face model folder "
            f"or a finished run's folder{f', such as {some}' if some else ''}"
        )
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    return path


def _configs_beside(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """``config`` and ``timm`` of a `TensorFile`: a folder may hold other people's config.json; these two name their models."""
    config = path.with_name("config.json")
    if not path.name.startswith((*_WEIGHTS[:2], "model", "pytorch_model", "open_clip_")) or not os.path.lexists(config):
        return {}, {}
    content = read_json_file(config)
    if isinstance(content.get("architecture"), str):
        return {}, check_config(config, content)
    return (check_config(config, content), {}) if "model_type" in content else ({}, {})


def read_json_file(path: Path) -> dict[str, Any]:
    """A JSON object, or a UserError."""
    content = load_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object")
    return content


def _read_shards(index: Path) -> TensorFile:
    """All files that a Hugging Face index names, as one."""
    places = read_json_file(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{index} names no files: give a whole Hugging Face model folder")
    files = [index.parent / Path(name).name for name in sorted(set(places.values()))]
    for file in files:
        if not file.is_file():
            raise UserError(f"{index} names {file.name}, which is not there: fetch the whole folder")
    tensors: dict[str, Tensor] = {}
    for file in files:
        found = _read_safetensors(file)[0] if file.suffix == ".safetensors" else _read_pickle(file).tensors
        if twice := next((name for name in found if name in tensors), None):
            raise UserError(
                f"{index}: {twice} is in {file.name} and in a file before it: which is meant cannot be told"
            )
        tensors |= found
    digest = hashlib.sha256("\n".join(sha256_file(file) for file in files).encode()).hexdigest()
    config, timm = _configs_beside(index)
    return TensorFile(index, digest, tensors, config=config, timm=timm)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    try:
        open_plain(path).close()
        with safetensors.safe_open(path, framework="pt") as f:
            entries = f.metadata() or {}
            metadata = parse_json(entries.get(_METADATA, "null"))
            _check_count(path, len(names := list(f.keys())))
            tensors = {name: f.get_tensor(name) for name in names}
        with open_plain(path) as file:  # the library takes the last of two entries of one name
            parse_json(file.read(int.from_bytes(file.read(8), "little")))
        checksum = metadata.pop(_CHECKSUM, None) if isinstance(metadata, dict) else entries.get(_CHECKSUM)
        if checksum not in (None, _checksum(tensors)):
            raise UserError(
                f"{path} is damaged: its tensors are not those that its checksum was taken of: take another copy, or give "
                "the command that made it again"
            )
    except UserError:
        raise
    except Exception as e:
        raise UserError(f"{path} is not a checkpoint or is cut short: {_first_line(e)}{what_it_is(path)}") from e
    return _bare_names(path, tensors), check_metadata(path, metadata)


def _read_pickle(path: Path) -> TensorFile:
    """The tensors of a ``torch.save`` file or a pickle of arrays, and the keys that they lay under."""
    with TensorReader(path) as reader:
        content, wrapper = _unwrapped(path, reader.content)
        found = {k: v for k, v in content.items() if isinstance(k, str) and is_readable(v)}
        if not found:
            raise UserError(
                f"{path} holds no named tensors{_instead(content, reader.foreign)}: give a model's state dict"
            )
        tensors = _bare_names(path, reader.read(found))
        args = _mapping(reader.content).get("args")
    args = args.state if isinstance(args, Inert) and args.name == "argparse.Namespace" else None
    return TensorFile(path, "", tensors, wrapper, args=args if isinstance(args, dict) else {}, foreign=reader.foreign)


def _instead(content: dict[Any, Any], foreign: tuple[str, ...]) -> str:
    """What stands where tensors should, in brackets."""
    kinds = {v.name: None for v in content.values() if isinstance(v, Inert)} or dict.fromkeys(foreign)
    return f" ({', '.join(list(kinds)[:3])}, which is not run)" if kinds else ""


def _unwrapped(path: Path, content: Any) -> tuple[dict[Any, Any], str]:
    """The innermost mapping that holds the tensors, and the keys on the way to it."""
    content = _mapping(content)
    keys: list[str] = []
    while (key := _next_wrapper(content)) is not None:
        if len(keys) == _MAX_WRAPPERS:
            raise UserError(f"{path} is no checkpoint: {'.'.join(keys)} goes on without end")
        keys.append(key)
        content = _mapping(content[key])
    return content, ".".join(keys)


def _next_wrapper(content: dict[Any, Any]) -> str | None:
    known = next((key for key in _WRAPPERS if _mapping(content.get(key))), None)
    if known is not None or any(is_readable(v) for v in content.values()):
        return known
    # By any other name, if there is but one that holds tensors.
    inside = {k: _mapping(v) for k, v in list(content.items())[:_MAX_ENTRIES] if isinstance(k, str)}
    holding = [k for k, m in inside.items() if any(isinstance(n, str) and is_readable(v) for n, v in m.items())]
    return holding[0] if len(holding) == 1 else None


def _mapping(value: Any) -> dict[Any, Any]:
    """A dict, a dict of another class, or the tensors of a whole pickled module by their names; empty where it is none."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, Inert):
        return {}
    return value.items or _module_state(value)


def _module_state(module: Inert) -> dict[str, Any]:
    """What `torch.nn.Module.state_dict` would give: parameters and buffers of the module and of those in it."""
    state: dict[str, Any] = {}
    waiting, budget = [("", module)], _MAX_PARTS  # a module may hold itself
    while waiting:
        prefix, module = waiting.pop()
        parts, children, passing = (_part(module, key) for key in ("_parameters", "_modules", "_buffers"))
        budget -= 1 + len(parts) + len(children) + len(passing)
        if budget < 0:
            return {}
        left_out = module.state.get("_non_persistent_buffers_set") if isinstance(module.state, dict) else None
        kept = {k: v for k, v in passing.items() if not (isinstance(left_out, list) and k in left_out)}
        state |= {f"{prefix}{name}": tensor for name, tensor in (parts | kept).items() if is_readable(tensor)}
        waiting += [(f"{prefix}{name}.", child) for name, child in children.items() if isinstance(child, Inert)]
    return state


def _part(module: Inert, key: str) -> dict[str, Any]:
    part = module.state.get(key) if isinstance(module.state, dict) else None
    return {k: v for k, v in part.items() if isinstance(k, str)} if isinstance(part, dict) else {}


_MOST_TENSORS = 50_000  # the largest published nets have some thousand; names are compared with patterns, one by one


def _check_count(path: Path, count: int) -> None:
    if count > _MOST_TENSORS:
        raise UserError(f"{path} holds {count:,} tensors: no net has more than {_MOST_TENSORS:,}")


def _bare_names(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without what activation checkpointing and FSDP put among them."""
    bare = {_WRAPPED_MODULES.sub("", name): tensor for name, tensor in tensors.items()}
    if len(bare) != len(tensors):
        raise UserError(f"{path} holds the same tensors with and without a wrapper's name: give one of the two")
    _check_count(path, len(bare))
    if not bare:
        raise UserError(f"{path} holds no named tensors: give a model's state dict")
    return bare


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__} {text.splitlines()[0][:120]}" if text else type(error).__name__
