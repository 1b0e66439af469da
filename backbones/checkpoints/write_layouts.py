"""Checkpoints in other layouts: timm's, the official MAE code's, Hugging Face's, ViTDet's. Reading is
`backbones.checkpoints.read_layouts`'s.

What is written and read again is the same, bit for bit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from backbones.atomic import write_json
from backbones.checkpoints.read_layouts import OFFICIAL_DECODER_HEADS, REL_POS, block_count, rename
from backbones.encoders import image_processor
from backbones.errors import UserError, unknown
from backbones.files.array_pickle import save_arrays
from backbones.files.tensor_files import save_pickle, save_tensors
from backbones.vit.arch import parse_arch
from backbones.vit.relative import beit_of_tables

if TYPE_CHECKING:
    from backbones.checkpoints.checkpoint import Checkpoint

_HF_BLOCK = (
    (r"blocks\.(\d+)\.", r"layer.\1."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
_HF_ENCODER = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    *_HF_BLOCK,
    (r"^layer\.", "encoder.layer."),
)
_HF_DECODER = (
    (r"^decoder_blocks\.", "blocks."),
    *_HF_BLOCK,
    (r"^layer\.", "decoder_layers."),
    (r"^", "decoder."),
)

_VITDET_HEADS = rf"backbone\.simfp_|proposal_generator\.|roi_heads\.|{REL_POS}$"


def save_as(checkpoint: Checkpoint, path: str | os.PathLike[str], layout: str) -> Path:
    """Writes a checkpoint in another layout.

    Args:
        path: ``.pth`` or ``.safetensors`` for ``timm`` and ``mae``; ``.pth`` or ``.pkl`` for ``vitdet``; a folder for ``hf``.
        layout: ``timm`` (encoder and head), ``mae`` (the official code's: encoder, decoder and head under ``model``),
            ``hf`` (``ViTMAEForPreTraining`` where there is a decoder, else ``ViTModel``; config.json beside the weights) or
            ``vitdet`` (a whole detector as detectron2's `SimpleFeaturePyramid` on its `ViT`, with RPN and heads, has it).

    Raises:
        UserError: unknown layout, another suffix, or an encoder that this layout has no names for.
    """
    if layout not in WRITERS:
        raise unknown("layout", layout, WRITERS)
    target = Path(path)
    WRITERS[layout](checkpoint, target)
    return target


def timm_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Encoder and head under timm's names: `VisionTransformer`'s, or `Beit`'s where there is a relative position bias."""
    state = {**checkpoint.state, **checkpoint.head}
    return _beit_names(state) if checkpoint.require_plain().relative_bias else state


def _beit_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in state.items():
        stem = name.rpartition(".")[0]
        if name.endswith("attn.rel_bias"):
            if f"{stem}.rel_bias_cls" not in state:
                raise UserError("this encoder has a relative position bias without a class token, unlike timm's Beit")
            renamed[f"{stem}.relative_position_bias_table"] = beit_of_tables(tensor, state[f"{stem}.rel_bias_cls"])
        elif name.endswith("attn.qkv.bias"):
            query, key, value = tensor.chunk(3)
            if key.any():
                raise UserError("this encoder has key biases, for which timm's Beit has no place: give another --to")
            attn = stem.removesuffix(".qkv")
            renamed[f"{attn}.q_bias"], renamed[f"{attn}.v_bias"] = query.clone(), value.clone()
        elif not name.endswith("attn.rel_bias_cls"):
            renamed[re.sub(r"ls(\d)\.gamma$", r"gamma_\1", name)] = tensor
    return renamed


def _write_timm(checkpoint: Checkpoint, path: Path) -> None:
    _write_file(path, timm_state(checkpoint), wrapper=None)


def _write_mae(checkpoint: Checkpoint, path: Path) -> None:
    _check_plain(checkpoint, "the official MAE code")
    if checkpoint.decoder and checkpoint.decoder_heads != OFFICIAL_DECODER_HEADS:
        raise UserError(
            f"{checkpoint.path} has a decoder of {checkpoint.decoder_heads} heads, the official code's have "
            f"{OFFICIAL_DECODER_HEADS} and its files say nothing of them: give --to hf"
        )
    _write_file(path, {**checkpoint.state, **checkpoint.decoder, **checkpoint.head}, wrapper="model")


def _write_file(path: Path, state: dict[str, Tensor], wrapper: str | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_tensors(path, state)
    elif path.suffix == ".pth":
        save_pickle(path, {wrapper: state} if wrapper else state)
    else:
        raise UserError(f"--out {path}: give a name that ends in .pth or .safetensors")


def _write_hf(checkpoint: Checkpoint, path: Path) -> None:
    _check_plain(checkpoint, "Hugging Face's ViT")
    if not checkpoint.require_plain().final_norm:
        raise UserError(f"{checkpoint.path} has no final norm, which Hugging Face's ViT needs: give another --to")
    if path.suffix in (".safetensors", ".pth", ".bin"):
        raise UserError(f"--out {path}: Hugging Face's layout is a folder: give one")
    prefix = "vit." if checkpoint.decoder else ""
    state = {f"{prefix}{rename(k, _HF_ENCODER)}": v for k, v in _split_qkv(checkpoint.state).items()}
    if checkpoint.decoder:
        if checkpoint.target not in ("pixels", "pixels_norm"):
            raise UserError(
                f"{checkpoint.path} predicts {checkpoint.target}, Hugging Face's decoder pixels: give another --to"
            )
        state |= {rename(k, _HF_DECODER): v for k, v in _split_qkv(checkpoint.decoder).items()}
    path.mkdir(parents=True, exist_ok=True)
    save_tensors(path / "model.safetensors", state)
    write_json(path / "config.json", hf_config(checkpoint))
    if checkpoint.preprocessing.mean is not None:
        write_json(path / image_processor.FILE, image_processor.as_processor(checkpoint.preprocessing))


def hf_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The ``config.json`` of a checkpoint as `_write_hf` writes it."""
    architecture, decoder = checkpoint.require_plain(), checkpoint.decoder
    width, depth, heads, patch = parse_arch(architecture.arch)
    size = architecture.img_size
    config: dict[str, Any] = {
        "architectures": ["ViTMAEForPreTraining" if decoder else "ViTModel"],
        "model_type": "vit_mae" if decoder else "vit",
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": round(width * architecture.mlp_ratio),
        "hidden_act": "gelu",
        "layer_norm_eps": architecture.norm_eps,
        "image_size": size[0] if size[0] == size[1] else list(size),
        "patch_size": patch,
        "num_channels": 3,
        "qkv_bias": architecture.qkv_bias,
    }
    if decoder:
        decoder_width = decoder["decoder_embed.weight"].shape[0]
        config |= {
            "decoder_hidden_size": decoder_width,
            "decoder_num_hidden_layers": block_count(decoder, "decoder_blocks."),
            "decoder_num_attention_heads": checkpoint.decoder_heads,
            "decoder_intermediate_size": 4 * decoder_width,
            "norm_pix_loss": checkpoint.target == "pixels_norm",
            "mask_ratio": 0.75,
        }
    return config


def _check_plain(checkpoint: Checkpoint, where: str) -> None:
    """What only timm's ViT and our own file can hold is not left out in silence."""
    architecture = checkpoint.require_plain()
    lacking = {
        "a relative position bias": architecture.relative_bias,
        "registers": architecture.registers > 0,
        "LayerScale": architecture.layer_scale,
        "no class token": not architecture.class_token,
        "no absolute positions": architecture.positions == "none",
        "no position of the class token": not architecture.prefix_positions,
    }
    if found := [what for what, there in lacking.items() if there]:
        raise UserError(f"{checkpoint.path} has {found[0]}, for which {where} has no place: give --to timm")


def _split_qkv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    split = {}
    for name, tensor in state.items():
        if ".attn.qkv." in name:
            for part, third in zip(("query", "key", "value"), torch.chunk(tensor, 3), strict=True):
                split[name.replace(".attn.qkv.", f".attention.attention.{part}.")] = third.clone()
        else:
            split[name] = tensor
    return split


def _write_vitdet(checkpoint: Checkpoint, path: Path) -> None:
    state = vitdet_state(checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pkl":
        save_arrays(path, state)
    elif path.suffix == ".pth":
        save_pickle(path, {"model": state})
    else:
        raise UserError(f"--out {path}: give a name that ends in .pth or .pkl, which detectron2 reads")


def vitdet_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """A detector under detectron2's names.

    Its ViT keeps a position for the class token, which it does not use: zero, as in ViTDet's files, which began with MAE's.
    """
    _check_detector(checkpoint)
    state = {f"backbone.net.{name}": tensor for name, tensor in checkpoint.state.items()}
    positions = checkpoint.state["pos_embed"]
    state["backbone.net.pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    for name, tensor in checkpoint.heads.items():
        state[f"backbone.net.{name}" if re.fullmatch(REL_POS, name) else name] = tensor
    return state


def _check_detector(checkpoint: Checkpoint) -> None:
    architecture = checkpoint.require_plain()
    if checkpoint.task != "detection":
        raise UserError(f"{checkpoint.path} holds no trained detector: detectron2 starts from --to mae")
    if other := [name for name in checkpoint.heads if not re.match(_VITDET_HEADS, name)]:
        raise UserError(
            f"{checkpoint.path} has {other[0]}, for which ViTDet's detector has no place: only simple pyramids"
        )
    if architecture.relative_bias or architecture.layer_scale or architecture.positions == "none":
        raise UserError(f"{checkpoint.path} has LayerScale, BEiT's bias or no positions, unlike detectron2's ViT")
    if architecture.grid[0] != architecture.grid[1]:
        raise UserError(
            f"{checkpoint.path} has positions of a grid that is no square, which detectron2's ViT cannot read"
        )


WRITERS: dict[str, Callable[[Checkpoint, Path], None]] = {
    "timm": _write_timm,
    "mae": _write_mae,
    "hf": _write_hf,
    "vitdet": _write_vitdet,
}
