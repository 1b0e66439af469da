"""Which part of a bare file's net the plain ViT does not have, for the line that refuses it. Data: no file is read here."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from backbones.errors import UserError

SAY_MODEL = "say the model (--arch timm:NAME)"
WAY_OUT = f"{SAY_MODEL}, or put its config.json beside it"

# The first that matches a name behind the encoder's prefix.
_MARKS = (
    (r"blocks\.\d+\.mlp\.(?:w12|w[123]|fc1_[gx])\.", "a SwiGLU MLP, as DINOv2's ViT-g and EVA-02"),
    (r"patch_embed\.(?:backbone|proj\.\d)\b", "a convolutional stem"),
    (r"blocks\.\d+\.(?:attns|ffns)\.", "parallel blocks"),
    (r"blocks\.\d+\.attn\.in_proj\.", "fused or parallel blocks"),
    (r"(?:blocks\.\d+\.attn\.)?rope\.", "rotary positions"),
    (r"blocks\.\d+\.attn\.rel_pos\.", "relative positions other than BEiT's"),
    (
        r"blocks\.\d+\.(?:proj\.|pool_|(?:attn\.)?(?:rel_pos_[hw]$|norm_[qkv]\.))",
        "stages of several widths, as Hiera and MViT",
    ),
    (r"norm_pre\.", "a norm before its blocks, as CLIP and Perception Encoder"),
    (r"attn_pool\.", "pooling by attention, as SigLIP"),
    (r"blocks\.\d+\.(?:attn|mlp)\.norm\.", "norms inside its blocks, as BEiT-3 and EVA-02"),
    (r"blocks\.\d+\.attn\.[qk]_norm\.", "QK-norm"),
    (r"blocks\.\d+\.attn\.(?:proj_[lw]|temperature|gating_param|q_proj)\b", "another attention"),
)


def unlike(names: Mapping[str, Tensor]) -> str:
    """What these tensors, under names behind a prefix, have that the plain ViT has not; empty when nothing is known."""
    for mark, what in _MARKS:
        if name := next((name for name in names if re.match(mark, name)), None):
            return f"{what} ({name})"
    first, second = (names.get(f"blocks.0.mlp.{layer}.weight") for layer in ("fc1", "fc2"))
    if first is not None and second is not None and second.ndim and first.shape[:1] == (2 * second.shape[-1],):
        return "a SwiGLU MLP (blocks.0.mlp.fc1 makes gate and value)"
    positions = names.get("pos_embed")
    if positions is not None and positions.ndim == 4:
        return f"positions of a map (pos_embed has shape {tuple(positions.shape)}), as SAM's ViT"
    if positions is None and not any("relative_position_bias_table" in name or ".rel_bias" in name for name in names):
        return "no positions in the file: rotary ones, or relative ones that are not BEiT's"
    return ""


def refuse(path: object, names: Mapping[str, Tensor], way_out: str = WAY_OUT) -> None:
    """A UserError, where `unlike` knows what a bare file is not."""
    if what := unlike(names):
        raise UserError(f"{path} is no plain ViT, it has {what}: {way_out}")
