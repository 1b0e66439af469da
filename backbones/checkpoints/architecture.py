"""What encoder a set of tensors is: everything that timm's `VisionTransformer` has to be told, read off names and shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from backbones.checkpoints.not_plain import SAY_MODEL
from backbones.checkpoints.read_layouts import block_count
from backbones.errors import UserError
from backbones.vit.arch import arch_name, parse_arch
from backbones.vit.encoder import create_encoder
from backbones.vit.pos_embed import sincos_2d

# Half-precision files round positions; a learnt embedding is nowhere near.
_SINCOS_TOLERANCE = 5e-3


@dataclass(frozen=True)
class Architecture:
    """An encoder as timm builds it.

    Attributes:
        arch: width, depth, heads and patch size by name (`backbones.vit.arch.parse_arch`).
        img_size: pixels, (height, width).
        positions: absolute position embedding: ``sincos`` (fixed; columns first, as MAE), ``sincos_rows_first`` (fixed, as
            MoCo v3), ``learnt`` or ``none``.
        prefix_positions: whether class token and registers have positions of their own.
        relative_bias: BEiT's relative position bias in every block.
        final_norm: a norm after the last block; fine-tuning with global pooling drops it.
        mlp_ratio: hidden width of the MLPs against the encoder's.
        norm_eps: of the layer norms.
    """

    arch: str
    img_size: tuple[int, int]
    positions: str = "sincos"
    class_token: bool = True
    registers: int = 0
    prefix_positions: bool = True
    relative_bias: bool = False
    layer_scale: bool = False
    qkv_bias: bool = True
    final_norm: bool = True
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6

    @property
    def patch(self) -> int:
        """Patch size in pixels."""
        return parse_arch(self.arch)[3]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.img_size[0] // self.patch, self.img_size[1] // self.patch

    def build(self, img_size: int | tuple[int, int] | None = None, drop_path: float = 0.0) -> VisionTransformer:
        """A fresh encoder with random weights."""
        options: dict[str, Any] = {}
        if self.norm_eps != 1e-6:
            options["norm_layer"] = partial(nn.LayerNorm, eps=self.norm_eps)
        if not self.class_token:
            options |= {"class_token": False, "global_pool": "avg", "fc_norm": False}
        return create_encoder(
            self.arch,
            img_size=img_size or self.img_size,
            drop_path=drop_path,
            relative_bias=self.relative_bias,
            reg_tokens=self.registers,
            no_embed_class=not self.prefix_positions,
            pos_embed="none" if self.positions == "none" else "learn",
            init_values=1e-5 if self.layer_scale else None,
            qkv_bias=self.qkv_bias,
            final_norm=self.final_norm,
            mlp_ratio=self.mlp_ratio,
            **options,
        )


def read_architecture(
    path: object,
    state: Mapping[str, Tensor],
    *,
    heads: int | Callable[[str, bool], int | None] | None = None,
    img_size: tuple[int, int] | None = None,
    norm_eps: float = 1e-6,
) -> Architecture:
    """The architecture of tensors under timm's names.

    Args:
        path: for messages.
        heads: number of attention heads, or what tells it by `positions` and `prefix_positions`; of the tensors only BEiT's
            tables do.
        img_size: pixels, (height, width), where something tells; else the grid of positions is taken for a square.

    Raises:
        UserError: not a plain ViT, or what tensors cannot tell is told nowhere.
    """
    width, depth, patch = sizes(path, state)
    registers = state["reg_token"].shape[1] if "reg_token" in state else 0
    prefix = registers + ("cls_token" in state)
    grid, prefix_positions = _grid(path, state, prefix, img_size, patch)
    positions = _positions(state, grid)
    heads = heads(positions, prefix_positions) if callable(heads) else heads
    if "blocks.0.attn.rel_bias" in state:
        heads = state["blocks.0.attn.rel_bias"].shape[0]
    if heads is None:
        raise UserError(f"{path}: nothing tells how many heads it has: {SAY_MODEL}")
    return Architecture(
        arch=arch_name(width, depth, heads, patch),
        img_size=(grid[0] * patch, grid[1] * patch),
        positions=positions,
        class_token="cls_token" in state,
        registers=registers,
        prefix_positions=prefix_positions,
        relative_bias="blocks.0.attn.rel_bias" in state,
        layer_scale="blocks.0.ls1.gamma" in state,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        final_norm="norm.weight" in state,
        mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / width,
        norm_eps=norm_eps,
    )


def sizes(path: object, state: Mapping[str, Tensor]) -> tuple[int, int, int]:
    """Width, depth and patch size, or a UserError: no plain ViT."""
    weight = state["patch_embed.proj.weight"]
    lacking = [n for n in ("norm1.weight", "attn.qkv.weight", "mlp.fc1.weight") if f"blocks.0.{n}" not in state]
    if lacking:
        first = ", ".join(list(state)[:3])
        raise UserError(f"{path} is no plain ViT: blocks.0.{lacking[0]} is missing (it has {first} …): {SAY_MODEL}")
    if weight.ndim != 4 or weight.shape[2] != weight.shape[3] or not weight.numel():
        raise UserError(
            f"{path}: patch_embed.proj.weight has shape {tuple(weight.shape)}: a ViT has (width, 3, patch, patch)"
        )
    if weight.shape[1] != 3:
        raise UserError(
            f"{path}: patch_embed.proj.weight has shape {tuple(weight.shape)}: it takes {weight.shape[1]} channels, images "
            "here have three (RGB): adapt it (timm.models.adapt_input_conv) and save that"
        )
    return weight.shape[0], block_count(state), weight.shape[-1]


def _grid(
    path: object, state: Mapping[str, Tensor], prefix: int, img_size: tuple[int, int] | None, patch: int
) -> tuple[tuple[int, int], bool]:
    """Rows and columns of patches, and whether the first of the positions are the prefix tokens'."""
    pos = state.get("pos_embed")
    if pos is None:
        table = state.get("blocks.0.attn.rel_bias")
        if table is None:
            raise UserError(f"{path} has neither pos_embed nor relative positions: {SAY_MODEL}")
        return ((table.shape[1] + 1) // 2, (table.shape[2] + 1) // 2), True
    if pos.ndim != 3 or pos.shape[0] != 1 or pos.shape[1] <= prefix:
        raise UserError(f"{path}: pos_embed has shape {tuple(pos.shape)}: a ViT has (1, tokens, width)")
    count = pos.shape[1]
    if img_size is not None:
        grid = (img_size[0] // patch, img_size[1] // patch)
        if count - grid[0] * grid[1] in (0, prefix):
            return grid, count != grid[0] * grid[1]
    for patches in (count - prefix, count):
        side = math.isqrt(patches)
        if side * side == patches:
            _refuse_oblong(pos[:, -patches:].float(), path)
            return (side, side), patches != count
    raise UserError(
        f"{path}: pos_embed holds {count} positions, which is no square grid: say the image size it was trained at "
        "(config.json, or img_size in Python)"
    )


def _refuse_oblong(pos: Tensor, path: object) -> None:
    """As many positions as a square has may be those of an oblong: fixed ones tell, and would be taken for learnt ones."""
    patches = pos.shape[1]
    for height in (h for h in range(1, patches + 1) if patches % h == 0 and h * h != patches):
        grid = (height, patches // height)
        if _fixed_kind(pos, grid) is not None:
            raise UserError(
                f"{path}: pos_embed has the fixed positions of a grid of {grid[0]} x {grid[1]} patches: say the image "
                "size it was trained at (config.json, or img_size in Python)"
            )


def _positions(state: Mapping[str, Tensor], grid: tuple[int, int]) -> str:
    if "pos_embed" not in state:
        return "none"
    return _fixed_kind(state["pos_embed"].float()[:, -grid[0] * grid[1] :], grid) or "learnt"


def _fixed_kind(patches: Tensor, grid: tuple[int, int]) -> str | None:
    """Which fixed sin-cos positions `patches` (1, h*w, width) are on a grid; None of learnt ones."""
    width = patches.shape[2]
    if width % 4:
        return None
    for kind in ("sincos", "sincos_rows_first"):
        if (patches - fixed_positions(kind, width, grid)).abs().max() < _SINCOS_TOLERANCE:
            return kind
    return None


def fixed_positions(kind: str, width: int, grid: tuple[int, int], prefix_tokens: int = 0) -> Tensor:
    """Fixed sin-cos positions (1, prefix + h*w, width) of either order; MoCo v3's is MAE's with rows and columns swapped."""
    pos = sincos_2d(width, grid, prefix_tokens)
    if kind == "sincos":
        return pos
    first, second = pos[:, prefix_tokens:].chunk(2, dim=-1)
    return torch.cat([pos[:, :prefix_tokens], torch.cat([second, first], dim=-1)], dim=1)
