"""Checkpoints of sharded runs: a folder to which every process writes its shards, by torch.distributed.checkpoint.

``step_NNNNNNNN.dcp/`` holds safetensors files, which say themselves which part of which tensor is in them, so that any
number of processes reads them, and ``state.pt``: progress, optimiser groups, and the sha256 of every other file. The
folder gets its name once all of it is on the disk. Nothing in it is unpickled (torch's own index would be a pickle). Which
checkpoint is kept and read is `mae_bench.engine.checkpoints`' business.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from backbones.atomic import sync
from backbones.files.tensor_files import sha256_file

STATE_FILE = "state.pt"


@dataclass(frozen=True)
class ShardedState:
    """A checkpoint on the disk, whose tensors are still to be read; `plain` is everything else of a run's state."""

    path: Path
    plain: dict[str, Any]

    def load(self, likes: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """The state of a run: of every tensor the shard that its like has, and whole without `likes`.

        Args:
            likes: `mae_bench.engine.sharding.likes_of`; all processes call it together then.
        """
        import torch.distributed.checkpoint as dcp

        reader = dcp.HuggingFaceStorageReader(str(self.path))
        tensors: dict[str, Any] = {}
        about: Any
        for name, about in reader.read_metadata().state_dict_metadata.items():
            like = None if likes is None else likes.get(name, likes.get(name.rpartition(".")[0]))
            if like is not None and like.shape == about.size:
                tensors[name] = torch.empty_like(like)
            else:
                tensors[name] = torch.empty(about.size, dtype=about.properties.dtype)
        with _first_error():
            dcp.load(tensors, storage_reader=reader, no_dist=likes is None)
        return _join(tensors, self.plain)


def write_shards(temporary: Path, state: dict[str, Any]) -> dict[str, Any]:
    """Writes all tensors of `state` into a new folder, all processes together.

    Returns:
        What is left of `state`, and ``files``: the sha256 of each file that any process wrote.
    """
    import torch.distributed.checkpoint as dcp

    tensors, plain = _split(state)
    rank = torch.distributed.get_rank()
    with _first_error():
        dcp.save(
            tensors,
            storage_writer=dcp.HuggingFaceStorageWriter(str(temporary), save_distributed=True),
            # Tensors that all processes have, such as statistics of batch norms, are the main process's, as in one file.
            planner=dcp.DefaultSavePlanner(dedup_save_to_lowest_rank=True),
        )
    own = {path.name: sha256_file(path) for path in temporary.glob(f"shard-{rank + 1:05d}-*")}
    return {**plain, "files": dict(pair for pairs in gather_object([list(own.items())]) for pair in pairs)}


def agree_on_folder(path: Path, main: bool) -> Path:
    """A new temporary folder beside `path`, made by the main process, the same for all."""
    name = [f".{path.stem}.{uuid.uuid4().hex}.tmp{path.suffix}"]
    broadcast_object_list(name)
    temporary = path.with_name(name[0])
    if main:
        temporary.mkdir(parents=True)
    torch.distributed.barrier()
    return temporary


def rename(temporary: Path, path: Path) -> None:
    """Gives a folder its name once its content and names are on the disk."""
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def remove(path: Path) -> None:
    """Deletes a folder under a temporary name, so that half of it is never taken for a checkpoint."""
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.tmp{path.suffix}")
    os.replace(path, temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def why_damaged(path: Path, plain: Mapping[str, Any]) -> str:
    """Which file of a folder is not what was written; empty when all are."""
    for name, sha256 in plain["files"].items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if sha256_file(file) != sha256:
            return f"the checksum of {name} differs"
    return ""


class _first_error:
    """Raises what went wrong on the first process in place of torch's exception around all of them."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        failures = getattr(error, "failures", None)
        if failures:
            raise next(iter(failures.values()))[0] from None


def _split(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by dotted name, the rest)."""
    tensors = {f"model.{k}": v for k, v in state["model"].items()}
    tensors |= {f"ema.{k}": v for k, v in (state["ema"] or {}).items()}
    left: dict[int, dict[str, Any]] = {}
    for i, moments in state["optimizer"]["state"].items():
        left[i] = {}
        for k, v in moments.items():
            if isinstance(v, Tensor):
                tensors[f"optimizer.{i}.{k}"] = v
            else:
                left[i][k] = v
    plain = {key: value for key, value in state.items() if key not in ("model", "ema")}
    return tensors, {**plain, "optimizer": {**state["optimizer"], "state": left}, "ema": state["ema"] is not None}


def _join(tensors: Mapping[str, Tensor], plain: dict[str, Any]) -> dict[str, Any]:
    moments = {int(i): dict(each) for i, each in plain["optimizer"]["state"].items()}
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}}
    for name, tensor in tensors.items():
        part, _, inside = name.partition(".")
        if part == "optimizer":
            i, _, key = inside.partition(".")
            moments.setdefault(int(i), {})[key] = tensor
        else:
            parts[part][inside] = tensor
    optimizer = {**plain["optimizer"], "state": moments}
    return {**plain, "model": parts["model"], "ema": parts["ema"] if plain["ema"] else None, "optimizer": optimizer}
