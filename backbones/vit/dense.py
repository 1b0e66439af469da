"""The encoder for dense tasks: window and global attention, relative positions, feature maps; any input size.

One adaptation of the one encoder, used by detection and segmentation. It changes timm's `VisionTransformer` or `Eva` in place
(no weights are converted) and adds tables ``blocks.N.attn.rel_pos_{h,w}``, named as in detectron2's ViT. No pyramid, no heads.
Shapes: N images, C width, h x w patches, W window size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention, AttentionRope, PatchEmbed
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from backbones.errors import UserError
from backbones.vit.blocks import recompute
from backbones.vit.decomposed import attend_decomposed
from backbones.vit.pos_embed import resample_grid
from backbones.vit.relative import RelativeAttention, add_bias_tables, attend, bias_of_tables
from backbones.vit.rotary import attend_rotary


def takes_windows(net: nn.Module) -> bool:
    """Whether `DenseEncoder` computes what this net computes: a stack of timm's usual blocks on patches."""
    if type(net) not in (VisionTransformer, Eva) or type(net.patch_embed) is not PatchEmbed:
        return False
    return all(_is_usual(block) for block in net.blocks)  # type: ignore[union-attr]


def _is_usual(block: Any) -> bool:
    if type(block) is EvaBlock:
        return type(block.attn) in (EvaAttention, AttentionRope)
    if type(block) is not Block or type(block.attn) not in (Attention, RelativeAttention):
        return False
    return isinstance(block.attn.norm, nn.Identity) and block.attn.gate is None


class DenseEncoder(nn.Module):
    """(N, 3, H, W) images -> feature maps (N, C, ceil(H / patch), ceil(W / patch)), one per block of `out_blocks`.

    Args:
        encoder: a timm ViT that `takes_windows`; its final norm, head norm, own pooling and, with `class_token` off, class
            token are dropped.
        img_size: training size in pixels; sets the size of the relative-position tables of global blocks.
        window_size: in patches; 0 makes every block global.
        global_blocks: blocks with global attention. Default with windows: the last of each quarter (ViTDet, Sec. 3).
        rel_pos: add decomposed relative positions, zero-initialised (ViTDet; Li et al. 2021).
        rel_pos_bias: add BEiT's relative position bias, zero-initialised (App. A.4); global attention only. An encoder that
            brings such a bias (BEiT) keeps it in any case.
        shared_bias: the same kind of bias, without class token, in two tables: one that all window blocks share, one that
            all global blocks share (Li et al. 2021). Zero-initialised.
        out_blocks: blocks whose outputs are returned; those behind are dropped. Default: the last.
        class_token: keep the class token (and registers) among the tokens (global attention only), as mmseg's MAE does.
        grad_checkpointing: recompute blocks in the backward pass.
    """

    def __init__(
        self,
        encoder: VisionTransformer | Eva,
        *,
        img_size: int | tuple[int, int],
        window_size: int = 0,
        global_blocks: Sequence[int] | None = None,
        rel_pos: bool = False,
        rel_pos_bias: bool = False,
        shared_bias: bool = False,
        out_blocks: Sequence[int] | None = None,
        class_token: bool = False,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        depth = len(encoder.blocks)
        if global_blocks is None:
            global_blocks = [i for i in range(depth) if (i + 1) % max(1, depth // 4) == 0]
        if window_size and class_token:
            raise UserError("a class token cannot be kept with window attention: set class_token or window_size off")
        if rel_pos and class_token:
            raise UserError("decomposed relative positions do not cover a class token: set class_token or rel_pos off")
        if rel_pos_bias and (rel_pos or window_size):
            raise UserError(
                "rel_pos_bias goes with global attention and without rel_pos: set window_size and rel_pos off"
            )
        if shared_bias and (rel_pos or rel_pos_bias or class_token):
            raise UserError("shared_bias goes without rel_pos, rel_pos_bias and class_token: set these off")
        own_bias = hasattr(encoder.blocks[0].attn, "rel_bias")
        if own_bias and rel_pos:
            raise UserError("this encoder has a relative position bias of its own (BEiT): set rel_pos off")
        self.out_blocks = sorted(out_blocks) if out_blocks is not None else [depth - 1]
        # Parameters of blocks behind the last that is read would never get a gradient, which DDP waits for.
        encoder.blocks = encoder.blocks[: self.out_blocks[-1] + 1]
        self.encoder: Any = encoder
        self.rotary = isinstance(encoder, Eva) and encoder.rope is not None
        self.patch_size: int = encoder.patch_embed.patch_size[0]
        self.embed_dim: int = encoder.embed_dim
        self.prefix_tokens = encoder.num_prefix_tokens if class_token else 0
        size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        grid = (-(-size[0] // self.patch_size), -(-size[1] // self.patch_size))
        self.windows = [
            0 if window_size == 0 or i in global_blocks else window_size for i in range(len(encoder.blocks))
        ]
        if rel_pos:
            for block, window in zip(encoder.blocks, self.windows, strict=True):
                _add_rel_pos(block, (window, window) if window else grid)
        if rel_pos_bias and not own_bias:
            for block in encoder.blocks:
                add_bias_tables(block.attn, grid, class_token)
        self.bias_tables = nn.ParameterDict()
        if shared_bias and not own_bias:
            heads = encoder.blocks[0].attn.num_heads
            for window in set(self.windows):
                h, w = (window, window) if window else grid
                table = torch.zeros(heads, 2 * h - 1, 2 * w - 1)
                self.bias_tables["window" if window else "global"] = nn.Parameter(table)
        _drop_unused(encoder, class_token)
        for block in encoder.blocks:
            block.__class__ = _EvaBlockOnGrid if isinstance(block, EvaBlock) else _BlockOnGrid
        if grad_checkpointing:
            recompute(encoder.blocks)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, grid = self._embed(images)
        ropes = self._ropes(grid)
        biases = {w: self._shared_bias(w, grid) for w in set(self.windows)}
        maps = []
        for i, (block, window) in enumerate(zip(self.encoder.blocks, self.windows, strict=True)):
            x = block(x, grid, window, biases[window], ropes[i])
            if i in self.out_blocks:
                patches = x[:, self.prefix_tokens :]
                maps.append(patches.transpose(1, 2).unflatten(2, grid))
        return maps

    def _ropes(self, grid: tuple[int, int]) -> list[Tensor | None]:
        """Rotary positions of the whole image for each block; those of RoPE-mixed differ from block to block."""
        blocks = len(self.encoder.blocks)
        if not self.rotary:
            return [None] * blocks
        rope: Tensor = self.encoder.rope.get_embed(shape=list(grid))
        return list(rope)[:blocks] if rope.ndim == 4 else [rope] * blocks

    def _shared_bias(self, window: int, grid: tuple[int, int]) -> Tensor | None:
        """(heads, T, T), made once for all blocks that share it."""
        if not self.bias_tables:
            return None
        table = self.bias_tables["window" if window else "global"]
        return bias_of_tables(table, None, (window, window) if window else grid)

    def _embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens (N, [1 +] h*w, C) with absolute positions resampled to this image's grid, and the grid."""
        encoder, patch = self.encoder, self.patch_size
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % patch, 0, -height % patch))
        x = encoder.patch_embed.proj(images)
        grid = (x.shape[2], x.shape[3])
        x = encoder.patch_embed.norm(x.flatten(2).transpose(1, 2))
        prefix = [t for t in (encoder.cls_token, encoder.reg_token) if t is not None]
        tokens = torch.cat([t.expand(len(x), -1, -1) for t in prefix], dim=1) if prefix else x[:, :0]
        if encoder.pos_embed is not None:
            count = encoder.pos_embed.shape[1] - encoder.patch_embed.num_patches
            x = x + resample_grid(encoder.pos_embed[:, count:], encoder.patch_embed.grid_size, grid)
            tokens = tokens + encoder.pos_embed[:, :count] if count else tokens
        return encoder.norm_pre(torch.cat([tokens, x], dim=1)), grid


def block_forward(
    block: Block | EvaBlock,
    x: Tensor,
    grid: tuple[int, int],
    window: int,
    bias: Tensor | None = None,
    rope: Tensor | None = None,
) -> Tensor:
    """A timm block on tokens (N, [1 +] h*w, C), with attention inside windows when `window` is not 0."""
    if isinstance(block, EvaBlock):
        return _rotary_block(block, x, grid, window, bias, rope)
    x = x + block.drop_path1(block.ls1(attend_on_grid(block.attn, block.norm1(x), grid, window, bias)))
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


class _BlockOnGrid(Block):
    """timm's block, called as `block_forward` where a grid is given: recomputing and sharding hang on a module's call."""

    def forward(self, x: Tensor, *on_grid: Any) -> Tensor:
        return block_forward(self, x, *on_grid) if on_grid else super().forward(x)


class _EvaBlockOnGrid(EvaBlock):
    def forward(self, x: Tensor, *on_grid: Any, **settings: Any) -> Tensor:
        return block_forward(self, x, *on_grid) if on_grid else super().forward(x, **settings)


def _rotary_block(
    block: Any, x: Tensor, grid: tuple[int, int], window: int, bias: Tensor | None, rope: Tensor | None
) -> Tensor:
    own = _own_bias(block.attn, x, grid, window) if bias is None else bias
    y = attend_rotary(block.attn, block.norm1(x), rope, grid, window, own)
    x = x + block.drop_path1(y if block.gamma_1 is None else block.gamma_1 * y)
    y = block.mlp(block.norm2(x))
    return x + block.drop_path2(y if block.gamma_2 is None else block.gamma_2 * y)


def _own_bias(attn: Any, x: Tensor, grid: tuple[int, int], window: int) -> Tensor | None:
    """The bias of the block's own tables, if it has any."""
    if not hasattr(attn, "rel_bias"):
        return None
    size = (window, window) if window else grid
    return bias_of_tables(attn.rel_bias, getattr(attn, "rel_bias_cls", None), size, x.shape[1] - grid[0] * grid[1])


def attend_on_grid(attn: Any, x: Tensor, grid: tuple[int, int], window: int = 0, bias: Tensor | None = None) -> Tensor:
    """timm's attention on tokens (N, [1 +] h*w, C), with `bias` (heads, T, T) or the block's own relative positions if any."""
    size = (window, window) if window else grid
    if bias is None:
        bias = _own_bias(attn, x, grid, window)
    decomposed = bias is None and hasattr(attn, "rel_pos_h")
    if not window and not decomposed:
        return attn(x) if bias is None else attend(attn, x, bias)
    # A padded token is zero before the projection, so after it the projection's bias: only real tokens are multiplied.
    windows = partition(attn.qkv(x).unflatten(1, grid), size, attn.qkv.bias)
    qkv = windows.unflatten(-1, (3, attn.num_heads, attn.head_dim)).permute(5, 0, 1, 2, 6, 3, 4, 7)
    qkv = qkv.reshape(3, -1, attn.num_heads, size[0] * size[1], attn.head_dim)
    if decomposed:
        y = attend_decomposed(_normed(attn, qkv), attn.rel_pos_h, attn.rel_pos_w, size)
    else:
        q, k, v = _normed(attn, qkv).unbind(0)
        mask = None if bias is None else bias.to(q.dtype)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    y = unpartition(y.reshape(*windows.shape[:5], -1), grid)
    return attn.proj_drop(attn.proj(y.flatten(1, 2)))


def _normed(attn: Any, qkv: Tensor) -> Tensor:
    if isinstance(attn.q_norm, nn.Identity) and isinstance(attn.k_norm, nn.Identity):
        return qkv
    q, k, v = qkv.unbind(0)
    return torch.stack([attn.q_norm(q), attn.k_norm(k), v])


def partition(x: Tensor, window: tuple[int, int], fill: Tensor | None = None) -> Tensor:
    """(N, h, w, C) -> windows (N, rows, columns, H, W, C), a view where nothing has to be padded.

    The padding, below and to the right, is `fill` (C), zero without.
    """
    n, h, w, c = x.shape
    below, right = -h % window[0], -w % window[1]
    if below or right:
        padded = x.new_zeros(c) if fill is None else fill.to(x.dtype)
        x = torch.cat([x, padded.expand(n, h, right, c)], dim=2)
        x = torch.cat([x, padded.expand(n, below, w + right, c)], dim=1)
    return x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0])).transpose(2, 3)


def unpartition(windows: Tensor, grid: tuple[int, int]) -> Tensor:
    """The inverse of `partition`: (N, rows, columns, H, W, C) -> (N, h, w, C) without the padding."""
    x = windows.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x[:, : grid[0], : grid[1]]


def _add_rel_pos(block: Any, size: tuple[int, int]) -> None:
    for name, length in (("rel_pos_h", size[0]), ("rel_pos_w", size[1])):
        block.attn.register_parameter(name, nn.Parameter(torch.zeros(2 * length - 1, block.attn.head_dim)))


def _drop_unused(encoder: Any, class_token: bool) -> None:
    """Parameters without a gradient would stall DDP: the norm after the last block, heads, unused prefix tokens."""
    encoder.norm = nn.Identity()
    encoder.fc_norm = nn.Identity()
    encoder.head = nn.Identity()
    encoder.attn_pool = None
    if class_token:
        return
    encoder.cls_token = encoder.reg_token = None
    for block in encoder.blocks:
        if hasattr(block.attn, "num_prefix_tokens"):
            block.attn.num_prefix_tokens = 0
        if hasattr(block.attn, "rel_bias_cls"):
            del block.attn.rel_bias_cls
    if encoder.pos_embed is not None:
        with torch.no_grad():
            encoder.pos_embed = nn.Parameter(encoder.pos_embed[:, -encoder.patch_embed.num_patches :].clone())
