"""Checkpoints in and out: a file becomes an encoder and what is known of it. Run-time state is `mae_bench.engine`'s.

Read so far: the official MAE layout (encoder-only, with decoder, wrapped in ``model``), timm's and our own, as ``.pth`` or
``.safetensors``. Only with ``weights_only=True``: a file that would run code is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from backbones.encoder import SIZES, create_encoder
from backbones.errors import UserError
from backbones.pos_embed import resample_grid

_METADATA = "mae_bench"
_DECODER = ("mask_token", "decoder_")
_HEADS = ("head.", "fc_norm.")
_WRAPPERS = ("model", "state_dict")
_WRAPPED = re.compile(r"(module\.|_orig_mod\.|encoder\.)(?:module\.|_orig_mod\.|encoder\.)*blocks\.")


@dataclass(frozen=True)
class Checkpoint:
    """An encoder's tensors under timm's names, and where they come from."""

    path: Path
    sha256: str
    layout: str  # "mae" (has a decoder) | "timm" | "mae_bench"
    method: str  # row of the tables: "MAE" unless the file says otherwise
    state: dict[str, Tensor]
    arch: str
    img_size: tuple[int, int]
    metadata: dict[str, Any] = field(default_factory=dict)  # what our own files say of themselves

    def encoder(self, *, img_size: int | tuple[int, int] | None = None, drop_path: float = 0.0) -> VisionTransformer:
        """A fresh timm ViT with these weights, positions resampled to `img_size` (default: the checkpoint's)."""
        encoder = create_encoder(self.arch, img_size=img_size or self.img_size, drop_path=drop_path)
        state = dict(self.state)
        patch = encoder.patch_embed.patch_size[0]
        old = (self.img_size[0] // patch, self.img_size[1] // patch)
        state["pos_embed"] = _fit_positions(state["pos_embed"], old, encoder.patch_embed.grid_size)
        encoder.load_state_dict(state)
        return encoder


def build_encoder(arch: str, img_size: int, drop_path: float, checkpoint: Checkpoint | None) -> VisionTransformer:
    """The encoder of a task: from `checkpoint`, which must be of architecture `arch`, or from scratch."""
    if checkpoint is None:
        return create_encoder(arch, img_size=img_size, drop_path=drop_path)
    if checkpoint.arch != arch:
        raise UserError(
            f"{checkpoint.path} holds a {checkpoint.arch}, the recipe wants a {arch}: "
            f"give another recipe or --set encoder.arch={checkpoint.arch}"
        )
    return checkpoint.encoder(img_size=img_size, drop_path=drop_path)


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a checkpoint file, or the newest export of a run directory.

    Raises:
        UserError: no such file, not a checkpoint, not a ViT, or tensors missing, left over or not finite.
    """
    file = _resolve(Path(path))
    tensors, metadata = _read(file)
    names = _strip(tensors)
    layout = "mae_bench" if metadata is not None else "mae" if _has_decoder(names) else "timm"
    state = {k: v.float() for k, v in names.items() if not k.startswith(_DECODER) and not k.startswith(_HEADS)}
    arch, img_size = _shape_of(file, state)
    _check(file, state, arch, img_size)
    return Checkpoint(
        path=file,
        sha256=sha256_file(file),
        layout=layout,
        method=(metadata or {}).get("method", "MAE"),
        state=state,
        arch=arch,
        img_size=img_size,
        metadata=metadata or {},
    )


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any] | None = None) -> None:
    """Writes safetensors atomically: to a temporary name in the same folder, then renamed.

    All metadata is one entry, since safetensors writes entries in any order: the same tensors give the same bytes.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    contiguous = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    safetensors.torch.save_file(contiguous, temporary, metadata={_METADATA: json.dumps(metadata or {}, sort_keys=True)})
    os.replace(temporary, path)


def sha256_file(path: Path) -> str:
    """sha256 of a file's bytes, as hex."""
    with open(path, "rb") as f:
        if hasattr(hashlib, "file_digest"):
            return hashlib.file_digest(f, "sha256").hexdigest()
        digest = hashlib.sha256()  # Python 3.10
        for block in iter(lambda: f.read(1 << 20), b""):
            digest.update(block)
        return digest.hexdigest()


def _resolve(path: Path) -> Path:
    if path.is_dir():
        inside = path / "encoder.safetensors"
        if inside.is_file():
            return inside
        raise UserError(
            f"{path} is a folder without encoder.safetensors: give a checkpoint file or a finished run's folder"
        )
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    return path


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The file's named tensors, unwrapped, and what `save_tensors` wrote beside them (None: not our file)."""
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, framework="pt") as f:
                metadata = json.loads((f.metadata() or {}).get(_METADATA, "null"))
                return {k: f.get_tensor(k) for k in f.keys()}, metadata  # noqa: SIM118
        # The official and timm's training checkpoints hold the command line's arguments; a Namespace is mere data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # on arbitrary bytes the unpickler raises nearly anything
        if code := re.search(r"GLOBAL (\S+)", str(e)):
            raise UserError(f"{path} is refused: it wants to run {code[1]}, and only tensors are read") from e
        raise UserError(f"{path} is not a checkpoint or is cut short: {_first_line(e)}") from e
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    named = content.items() if isinstance(content, dict) else ()
    tensors = {k: v for k, v in named if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        raise UserError(f"{path} holds no named tensors: give a model's state dict")
    return tensors, None


def _first_line(error: Exception) -> str:
    # torch's first lines say how to load the file all the same, which is no advice for a broken one.
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    return f"{type(error).__name__} {text.splitlines()[0][:120]}" if text else type(error).__name__


def _strip(tensors: dict[str, Any]) -> dict[str, Tensor]:
    """Names without what DDP, torch.compile and models around the encoder put before ``blocks.``."""
    while wrapped := next((m for k in tensors if (m := _WRAPPED.match(k))), None):
        tensors = {k.removeprefix(wrapped[1]): v for k, v in tensors.items()}
    return tensors


def _has_decoder(names: dict[str, Tensor]) -> bool:
    return any(k.startswith("decoder_blocks.") for k in names)


def _shape_of(path: Path, state: dict[str, Tensor]) -> tuple[str, tuple[int, int]]:
    """Architecture name and image size in pixels, read off the tensors."""
    if "patch_embed.proj.weight" not in state or "pos_embed" not in state or "blocks.0.norm1.weight" not in state:
        first = ", ".join(list(state)[:3]) or "nothing"
        raise UserError(
            f"{path} is not a ViT in a layout that is known (it begins with {first}): give an MAE or timm ViT"
        )
    weight, pos = state["patch_embed.proj.weight"], state["pos_embed"]
    if weight.ndim != 4 or pos.ndim != 3 or pos.shape[1] < 2 or not weight.numel():
        raise UserError(
            f"{path}: patch_embed.proj.weight has shape {tuple(weight.shape)} and pos_embed {tuple(pos.shape)}: a ViT has "
            "(width, 3, patch, patch) and (1, 1 + patches, width)"
        )
    width, patch = weight.shape[0], weight.shape[-1]
    depth = 1 + max(int(m[1]) for k in state if (m := re.match(r"blocks\.(\d+)\.", k)))
    for name, (w, d, _) in SIZES.items():
        if (w, d) == (width, depth):
            side = round((pos.shape[1] - 1) ** 0.5) * patch
            return f"vit_{name}_patch{patch}", (side, side)
    sizes = ", ".join(f"{n} {w}x{d}" for n, (w, d, _) in SIZES.items())
    raise UserError(f"{path} is a ViT of width {width} and depth {depth}, which is no known size ({sizes})")


def _check(path: Path, state: dict[str, Tensor], arch: str, img_size: tuple[int, int]) -> None:
    """Every tensor that the architecture has, of its shape, finite, and no other."""
    with torch.device("meta"):
        wanted = create_meta(arch, img_size)
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if "norm.weight" in missing and "norm.bias" in missing:
        # Fine-tuned with global pooling: the encoder's norm was deleted (models_vit.py); nothing stands in for it.
        raise UserError(f"{path} has no final norm (fine-tuned with global pooling): such files cannot be read yet")
    if missing or extra:
        raise UserError(f"{path} is no whole {arch}: missing {_some(missing)}; unexpected {_some(extra)}")
    for name, tensor in state.items():
        if tensor.shape != wanted[name]:
            raise UserError(f"{path}: {name} has shape {tuple(tensor.shape)}, {arch} wants {tuple(wanted[name])}")
        if not torch.isfinite(tensor).all():
            raise UserError(f"{path}: {name} holds NaN or Inf: the checkpoint is broken, take an earlier one")


def create_meta(arch: str, img_size: tuple[int, int]) -> dict[str, torch.Size]:
    """Names and shapes of an architecture's tensors, without making any."""
    encoder = create_encoder(arch, img_size=img_size)
    return {k: v.shape for k, v in encoder.state_dict().items()}


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "nothing"


def _fit_positions(pos: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Positions for another grid, resampled; prefix tokens stay.

    Fixed sin-cos ones too, as every transfer protocol has it (util/pos_embed.py, mmseg's MAE, detectron2's ViT): made anew,
    they would hold coordinates that pre-training never saw.
    """
    prefix = pos.shape[1] - old[0] * old[1]
    return torch.cat([pos[:, :prefix], resample_grid(pos[:, prefix:], old, new)], dim=1)
