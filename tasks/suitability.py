"""Which checkpoints a task can start from; `mae-bench inspect` shows it, `create_task` refuses by it. One reason a task."""

from __future__ import annotations

from backbones.checkpoints.architecture import Architecture
from backbones.checkpoints.checkpoint import Checkpoint


def why_not(task: str, checkpoint: Checkpoint) -> str:
    """What keeps an encoder from a task of `tasks.REGISTRY`; empty when nothing does."""
    architecture = checkpoint.plain
    if architecture is None:
        return f"it is for the plain ViT that MAE has, this is a {checkpoint.arch}"
    if task == "pretraining":
        return _why_not_pretraining(architecture)
    if task == "detection":
        return _why_not_detection(architecture)
    return ""


def _why_not_pretraining(architecture: Architecture) -> str:
    """MAE's encoder sees a subset of the patches, each with its absolute position, behind a class token."""
    if architecture.relative_bias:
        return "a relative position bias does not fit an encoder that sees a part of the patches"
    if architecture.positions == "none" or not architecture.prefix_positions:
        return "the class token and all patches need absolute positions"
    if not architecture.class_token or architecture.registers:
        return "MAE has a class token and no registers"
    if not architecture.final_norm:
        return "the encoder's final norm is missing (fine-tuning with global pooling drops it)"
    return ""


def _why_not_detection(architecture: Architecture) -> str:
    patch = architecture.patch
    if patch < 4 or patch & (patch - 1):
        return f"the pyramid needs a patch size that is a power of 2 from 4 on, not {patch}"
    return ""
