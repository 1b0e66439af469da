"""Checkpoints in and out: a file becomes an encoder, what else it holds, and what is known of it.

Files are read by `backbones.checkpoints.tensor_files`, names by `backbones.checkpoints.read_layouts`, the
architecture by `backbones.checkpoints.architecture`; other
projects' layouts are written by `backbones.checkpoints.write_layouts`. Run-time state (optimiser, progress) is
`mae_bench.engine`'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from timm.layers import resize_rel_pos_bias_table
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from backbones.checkpoints.architecture import Architecture, fixed_positions, read_architecture
from backbones.checkpoints.hub import is_remote, resolve_remote
from backbones.checkpoints.read_layouts import OFFICIAL_DECODER_HEADS, Named, block_count, read_names
from backbones.checkpoints.tensor_files import TensorFile, read_tensors
from backbones.errors import UserError
from backbones.mae.model import MaskedAutoencoder
from backbones.mae.targets import create_target
from backbones.vit.arch import parse_arch
from backbones.vit.encoder import create_encoder
from backbones.vit.pos_embed import resample_grid

_METHODS = {"mae": "MAE", "dino": "DINO", "dinov2": "DINOv2", "moco_v3": "MoCo v3", "beit": "BEiT"}
_HF_METHODS = {"vit_mae": "MAE", "dinov2": "DINOv2", "dinov2_with_registers": "DINOv2", "beit": "BEiT", "deit": "DeiT"}
_MOCO_SMALL = 384  # MoCo v3's ViT-S has 12 heads of 32 channels (facebookresearch/moco-v3, vits.py)


@dataclass(frozen=True)
class Checkpoint:
    """An encoder's tensors under timm's names, what came with them, and where they come from.

    Attributes:
        sha256: of the file.
        layout: whose names the file has: a name of `backbones.checkpoints.read_layouts.LAYOUTS`, or ``mae_bench``
        for our own files.
        method: row of the tables, such as "MAE"; the file's name where nothing tells.
        state: the encoder, float32.
        decoder: MAE's decoder under the official names, empty if there is none.
        head: ``fc_norm.*`` and ``head.*``, empty if there are none.
        heads: all of a detector or segmenter beside its encoder, under the names of our task's model, and the encoder's
            decomposed relative positions (``blocks.0.attn.rel_pos_h``, …); `backbones.checkpoints.dense_heads`
            puts them to use.
        task: what the file was trained for: ``classification``, ``detection`` or ``segmentation``; None where no head tells.
        aside: names in the file that nothing was made of.
        metadata: what our own files say of themselves.
        target_normalised: whether the decoder predicts normalised pixels; None where nothing tells.
        decoder_heads: attention heads of the decoder.
        foreign: names of objects in the file that only code of theirs could make; they were passed over, nothing was run.
    """

    path: Path
    sha256: str
    layout: str
    method: str
    architecture: Architecture
    state: dict[str, Tensor]
    decoder: dict[str, Tensor] = field(default_factory=dict)
    head: dict[str, Tensor] = field(default_factory=dict)
    heads: dict[str, Tensor] = field(default_factory=dict)
    task: str | None = None
    aside: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    target_normalised: bool | None = None
    decoder_heads: int = OFFICIAL_DECODER_HEADS
    foreign: tuple[str, ...] = ()

    @property
    def arch(self) -> str:
        """Such as ``vit_base_patch16``."""
        return self.architecture.arch

    @property
    def img_size(self) -> tuple[int, int]:
        """Pixels, (height, width)."""
        return self.architecture.img_size

    def encoder(
        self,
        *,
        img_size: int | tuple[int, int] | None = None,
        drop_path: float = 0.0,
        positions: str = "regenerate",
    ) -> VisionTransformer:
        """A fresh timm ViT with these weights.

        Args:
            img_size: pixels; default: the checkpoint's. Learnt positions and relative tables are resampled to another one.
            positions: what becomes of fixed sin-cos positions at another size: ``regenerate`` makes them anew; ``resample``
                treats them as learnt ones, as every transfer protocol does (util/pos_embed.py, mmseg's MAE, detectron2's
                ViT): fine-tuning then meets no coordinates that pre-training never saw.
        """
        architecture = self.architecture
        encoder = architecture.build(img_size, drop_path)
        state = dict(self.state)
        grid = encoder.patch_embed.grid_size
        if grid != architecture.grid:
            state |= _resized(state, architecture, grid, regenerate=positions == "regenerate")
        encoder.load_state_dict(state)
        return encoder

    def masked_autoencoder(self, *, img_size: int | tuple[int, int] | None = None) -> MaskedAutoencoder:
        """The encoder with its decoder; what nothing tells is the paper's default (normalised pixels).

        Raises:
            UserError: the file holds no decoder.
        """
        if not self.decoder:
            raise UserError(
                f"{self.path} holds an encoder without a decoder: reconstruction needs a file with both "
                "(mae_visualize_vit_*.pth, mae_pretrain_vit_*_full.pth, or mae.safetensors of a pre-training run)"
            )
        encoder = self.encoder(img_size=img_size)
        patch = encoder.patch_embed.patch_size[0]
        width = self.decoder["decoder_embed.weight"].shape[0]
        model = MaskedAutoencoder(
            encoder,
            decoder_embed_dim=width,
            decoder_depth=block_count(self.decoder, "decoder_blocks."),
            decoder_num_heads=self.decoder_heads,
            encoder_mask_tokens=self._setting("mae.encoder_mask_tokens", self.decoder["mask_token"].shape[-1] != width),
            mask_sampling=self._setting("mae.mask_sampling", "random"),
            mask_ratio=self._setting("mae.mask_ratio", 0.75),
            target=create_target(self.target, patch, **_target_sizes(self.decoder)),
        )
        state = {**self.decoder, **{f"encoder.{k}": v for k, v in encoder.state_dict().items()}}
        pos = state["decoder_pos_embed"]
        if pos.shape[1] != model.decoder_pos_embed.shape[1]:
            state["decoder_pos_embed"] = fixed_positions(
                self.architecture.positions, width, model.grid, prefix_tokens=1
            )
        model.load_state_dict(state)
        return model

    @property
    def target(self) -> str:
        """What the decoder predicts, as ``mae.target`` names it; normalised pixels where nothing tells."""
        if "decoder_target.components" in self.decoder:
            return "pca"
        if "decoder_target.tokenizer.codebook" in self.decoder:
            return "tokens"
        return "pixels" if self.target_normalised is False else "pixels_norm"

    def _setting(self, key: str, default: Any) -> Any:
        return _settings(self.metadata).get(key, default)


def build_encoder(
    arch: str, img_size: int, drop_path: float, checkpoint: Checkpoint | None, *, positions: str = "resample"
) -> VisionTransformer:
    """The encoder of a task: from `checkpoint`, which must be of architecture `arch`, or from scratch.

    `positions` is `Checkpoint.encoder`'s: transfer resamples fixed ones, pre-training at another size has that size's own.
    """
    if checkpoint is None:
        return create_encoder(arch, img_size=img_size, drop_path=drop_path)
    if checkpoint.arch != arch:
        raise UserError(
            f"{checkpoint.path} holds a {checkpoint.arch}, the recipe wants a {arch}: "
            f"give another recipe or --set encoder.arch={checkpoint.arch}"
        )
    return checkpoint.encoder(img_size=img_size, drop_path=drop_path, positions=positions)


def load_checkpoint(path: str | os.PathLike[str], *, img_size: tuple[int, int] | None = None) -> Checkpoint:
    """Reads a checkpoint: a file, a Hugging Face folder, a finished run's folder, ``timm:NAME`` or ``hf:OWNER/NAME``.

    Args:
        img_size: pixels, (height, width), that it was trained at; asked for only when the positions form no square.

    Raises:
        UserError: no such file, not a checkpoint, not a ViT, or tensors missing, left over or not finite.
    """
    source = os.fspath(path)
    file = read_tensors(resolve_remote(source) if is_remote(source) else Path(source))
    named = read_names(file.path, file.tensors)
    state = _float(named.encoder)
    told = _settings(file.metadata or {})
    architecture = read_architecture(
        file.path,
        state,
        heads=_heads(file, named),
        img_size=img_size or _size(file),
        norm_eps=float(file.config.get("layer_norm_eps", 1e-6)),
    )
    _check(file.path, state, architecture)
    decoder, head, heads = _float(named.decoder), _float(named.head), _float(named.heads)
    _check_finite(file.path, {**decoder, **head, **heads})
    return Checkpoint(
        path=file.path,
        sha256=file.sha256,
        layout="mae_bench" if file.metadata is not None else named.layout,
        method=_method(file, named, architecture),
        architecture=architecture,
        state=state,
        decoder=decoder,
        head=head,
        heads=heads,
        task=named.task or ("classification" if head else None),
        aside=tuple(named.aside),
        metadata=file.metadata or {},
        target_normalised=_normalised(file, told),
        decoder_heads=_decoder_heads(file, told),
        foreign=file.foreign,
    )


def _settings(metadata: dict[str, Any]) -> dict[str, Any]:
    """Flat pre-training settings of our own files."""
    pretraining = metadata.get("pretraining")
    settings = pretraining.get("settings") if isinstance(pretraining, dict) else None
    return settings if isinstance(settings, dict) else {}


def _float(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def _heads(file: TensorFile, named: Named) -> int | None:
    if file.config:
        return int(file.config.get("num_attention_heads", 0)) or None
    if named.layout == "moco_v3" and named.encoder["patch_embed.proj.weight"].shape[0] == _MOCO_SMALL:
        return 12
    arch = (file.metadata or {}).get("arch")
    return parse_arch(arch)[2] if isinstance(arch, str) else None


def _size(file: TensorFile) -> tuple[int, int] | None:
    size = (file.metadata or {}).get("img_size", file.config.get("image_size"))
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[1])) if isinstance(size, (list, tuple)) and len(size) == 2 else None


def _method(file: TensorFile, named: Named, architecture: Architecture) -> str:
    told = (file.metadata or {}).get("method")
    if isinstance(told, str) and told:
        return told
    if model_type := file.config.get("model_type"):
        return _HF_METHODS.get(model_type, str(model_type))
    if named.layout in _METHODS:
        return _METHODS[named.layout]
    if file.path.stem.startswith("mae_finetuned_vit_"):
        return "MAE"  # the official fine-tuned files say nothing, and their positions have been trained
    # The official encoder-only files say nothing; only MAE's and MoCo v3's encoders have fixed positions, in different orders.
    fixed = {"sincos": "MAE", "sincos_rows_first": "MoCo v3"}
    return fixed.get(architecture.positions, file.path.stem)


def _normalised(file: TensorFile, settings: dict[str, Any]) -> bool | None:
    if "mae.target" in settings:
        return bool(settings["mae.target"] == "pixels_norm")
    told = file.config.get("norm_pix_loss", file.args.get("norm_pix_loss"))
    return told if isinstance(told, bool) else None


def _decoder_heads(file: TensorFile, settings: dict[str, Any]) -> int:
    told = settings.get("mae.decoder_num_heads", file.config.get("decoder_num_attention_heads"))
    return int(told) if told else OFFICIAL_DECODER_HEADS


def _target_sizes(decoder: dict[str, Tensor]) -> dict[str, Any]:
    outputs = decoder["decoder_pred.weight"].shape[0]
    return {"pca_components": outputs, "vocabulary": outputs}


def _resized(
    state: dict[str, Tensor], old: Architecture, grid: tuple[int, int], *, regenerate: bool
) -> dict[str, Tensor]:
    """Those tensors that hang on the grid of patches, for another grid."""
    resized = {}
    if "pos_embed" in state:
        pos = state["pos_embed"]
        prefix = pos.shape[1] - old.grid[0] * old.grid[1]
        if regenerate and old.positions != "learnt":
            patches = fixed_positions(old.positions, pos.shape[2], grid)
        else:
            patches = resample_grid(pos[:, prefix:], old.grid, grid)
        resized["pos_embed"] = torch.cat([pos[:, :prefix], patches], dim=1)
    size = (2 * grid[0] - 1, 2 * grid[1] - 1)
    for name, table in state.items():
        if name.endswith(".rel_bias"):
            resized[name] = resize_rel_pos_bias_table(table, grid, (len(table), *size))
    return resized


def _check(path: Path, state: dict[str, Tensor], architecture: Architecture) -> None:
    """Every tensor that the architecture has, of its shape, finite, and no other."""
    with torch.device("meta"):
        wanted = {k: v.shape for k, v in architecture.build().state_dict().items()}
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or extra:
        raise UserError(f"{path} is no whole {architecture.arch}: missing {_some(missing)}; unexpected {_some(extra)}")
    for name, tensor in state.items():
        if tensor.shape != wanted[name]:
            raise UserError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, {architecture.arch} wants {tuple(wanted[name])}"
            )
    _check_finite(path, state)


def _check_finite(path: Path, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{path}: {name} holds NaN or Inf: the checkpoint is broken, take an earlier one")


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "nothing"
