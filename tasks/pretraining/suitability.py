"""Which encoders MAE pre-training can start from."""

from __future__ import annotations

from backbones.checkpoints.checkpoint import Checkpoint


def why_not(checkpoint: Checkpoint) -> str:
    """MAE's encoder sees a subset of the patches, each with its absolute position, behind a class token."""
    architecture = checkpoint.plain
    if architecture is None:
        return f"it masks the plain ViT that MAE has, this is a {checkpoint.arch}"
    if architecture.relative_bias:
        return "a relative position bias does not fit an encoder that sees a part of the patches"
    if architecture.positions == "none" or not architecture.prefix_positions:
        return "the class token and all patches need absolute positions"
    if not architecture.class_token or architecture.registers:
        return "MAE has a class token and no registers"
    if not architecture.final_norm:
        return "the encoder's final norm is missing (fine-tuning with global pooling drops it)"
    return ""
