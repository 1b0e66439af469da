"""Named tensors on disk: safetensors, torch files, sharded folders; in without running code, out atomically.

What the names mean is `backbones.layouts`'s, what they make together `backbones.checkpoint`'s.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from backbones.array_pickle import is_array_pickle, read_arrays
from backbones.atomic import replacing
from backbones.errors import UserError

_METADATA = "mae_bench"
# What training scripts put their weights under; timm, too, prefers the averaged weights to the raw ones, and a
# self-distilled model is evaluated by its teacher.
_WRAPPERS = ("teacher", "model_ema", "state_dict_ema", "model", "state_dict")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "encoder.safetensors")
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
        args: the command line that a training script saved along (official MAE, timm, DINO), else empty.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    wrapper: str = ""
    metadata: dict[str, Any] | None = None
    config: dict[str, Any] = field(default_factory=dict)
    args: dict[str, Any] = field(default_factory=dict)


def read_tensors(path: Path) -> TensorFile:
    """Reads a file, or the weights of a folder (Hugging Face model, finished run).

    Raises:
        UserError: no such file, not a checkpoint, cut short, or a pickle that would run code.
    """
    path = _resolve(path)
    if path.name in _INDICES:
        return _read_shards(path)
    if path.suffix == ".safetensors":
        tensors, metadata = _read_safetensors(path)
        return TensorFile(path, sha256_file(path), tensors, metadata=metadata, config=_config_beside(path))
    content, wrapper, args = _read_pickle(path)
    return TensorFile(path, sha256_file(path), content, wrapper, config=_config_beside(path), args=args)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Writes safetensors atomically: to a temporary name in the same folder, then renamed.

    All metadata is one entry, since safetensors writes entries in any order: the same tensors give the same bytes.
    """
    contiguous = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    # "format" is what Hugging Face's loader asks for; a second entry would make the order of the bytes undetermined.
    entry = {"format": "pt"} if metadata is None else {_METADATA: json.dumps(dict(metadata), sort_keys=True)}
    with replacing(path) as temporary:
        safetensors.torch.save_file(contiguous, temporary, metadata=entry)


def save_pickle(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a ``.pth`` file of plain tensors and containers atomically."""
    with replacing(path) as temporary:
        torch.save(dict(content), temporary)


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
        raise UserError(
            f"{path} is a folder without {' or '.join(_WEIGHTS)}: give a checkpoint file, a Hugging Face model folder "
            "or a finished run's folder"
        )
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    return path


def _config_beside(path: Path) -> dict[str, Any]:
    config = path.with_name("config.json")
    # A folder may hold other people's config.json; Hugging Face's names its model.
    if path.name.startswith((*_WEIGHTS[:2], "model", "pytorch_model")) and config.is_file():
        content = _read_json(config)
        return content if "model_type" in content else {}
    return {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"{path} is not readable as JSON: {e}") from e
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object")
    return content


def _read_shards(index: Path) -> TensorFile:
    """All files that a Hugging Face index names, as one."""
    names = sorted(set(_read_json(index).get("weight_map", {}).values()))
    if not names:
        raise UserError(f"{index} names no files: give a whole Hugging Face model folder")
    files = [index.parent / Path(str(name)).name for name in names]
    for file in files:
        if not file.is_file():
            raise UserError(f"{index} names {file.name}, which is not there: fetch the whole folder")
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= _read_safetensors(file)[0] if file.suffix == ".safetensors" else _read_pickle(file)[0]
    digest = hashlib.sha256("\n".join(sha256_file(file) for file in files).encode()).hexdigest()
    return TensorFile(index, digest, tensors, config=_config_beside(index))


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    try:
        with safetensors.safe_open(path, framework="pt") as f:
            metadata = json.loads((f.metadata() or {}).get(_METADATA, "null"))
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
    except Exception as e:
        raise UserError(f"{path} is not a checkpoint or is cut short: {_first_line(e)}") from e
    return _named(path, tensors), metadata if isinstance(metadata, dict) else None


def _read_pickle(path: Path) -> tuple[dict[str, Tensor], str, dict[str, Any]]:
    """Tensors, the keys they lay under, and the saved command line, of a ``torch.save`` file or a pickle of arrays."""
    content = read_arrays(path) if is_array_pickle(path) else _read_torch(path)
    args = content.get("args") if isinstance(content, dict) else None
    wrappers = []
    while isinstance(content, dict) and (key := next((k for k in _WRAPPERS if isinstance(content.get(k), dict)), None)):
        wrappers.append(key)
        content = content[key]
    return _named(path, content), ".".join(wrappers), vars(args) if isinstance(args, argparse.Namespace) else {}


def _read_torch(path: Path) -> Any:
    try:
        # The official and timm's training checkpoints hold the command line's arguments; a Namespace is mere data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # on arbitrary bytes the unpickler raises nearly anything
        if code := re.search(r"GLOBAL (\S+)", str(e)):
            raise UserError(f"{path} is refused: it wants to run {code[1]}, and only tensors are read") from e
        raise UserError(f"{path} is not a checkpoint or is cut short: {_first_line(e)}") from e


def _named(path: Path, content: Any) -> dict[str, Tensor]:
    named = content.items() if isinstance(content, dict) else ()
    tensors = {k: v for k, v in named if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        raise UserError(f"{path} holds no named tensors: give a model's state dict")
    return tensors


def _first_line(error: Exception) -> str:
    # torch's first lines say how to load the file all the same, which is no advice for a broken one.
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    if "weights_only" in text:
        text = ""
    return f"{type(error).__name__} {text.splitlines()[0][:120]}" if text else type(error).__name__
