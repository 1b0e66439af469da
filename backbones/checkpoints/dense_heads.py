"""Trained heads into a model of a dense task: all of them for an evaluation, those that fit for training on other classes.

The encoder's own weights are in place before (`backbones.checkpoints.checkpoint.build_encoder`). What the names mean is
`backbones.checkpoints.read_layouts`'s.
"""

from __future__ import annotations

import re

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.checkpoints.checkpoint import Checkpoint
from backbones.checkpoints.read_layouts import REL_POS
from backbones.errors import UserError


def load_heads(model: nn.Module, checkpoint: Checkpoint, *, task: str, encoder_prefix: str, whole: bool) -> list[str]:
    """Copies `checkpoint.heads` into `model`; relative positions of another size are resampled linearly.

    Args:
        task: what `model` is for: ``detection`` or ``segmentation``.
        encoder_prefix: where the encoder sits in `model`, such as ``backbone.net.dense.encoder.``.
        whole: every tensor beside the encoder must come from the checkpoint, as evaluation needs it.

    Returns:
        What the record should say: nothing for a checkpoint without heads.

    Raises:
        UserError: `whole`, and heads are missing or of another shape, or relative positions find no place.
    """
    if checkpoint.dense_alone and not (whole and checkpoint.task == task):
        raise UserError(
            f"{checkpoint.path} holds a trained {checkpoint.task} model, whose encoder is not whole: it can be evaluated "
            f"(--tasks {checkpoint.task} --set schedule.iterations=0), not trained"
        )
    if checkpoint.task != task and whole:
        raise UserError(f"{checkpoint.path} holds no trained {task} heads: give one that was trained for {task}")
    if not checkpoint.heads or checkpoint.task not in (task, None):
        return []
    found = {(encoder_prefix + k if re.fullmatch(REL_POS, k) else k): v for k, v in checkpoint.heads.items()}
    wanted = model.state_dict() if checkpoint.dense_alone else _own(model, encoder_prefix)
    fitting = {}
    for name, tensor in wanted.items():
        if name in found:
            given = found[name]
            given = _resampled(given, len(tensor)) if re.search(rf"{REL_POS}$", name) else given
            if given.shape == tensor.shape:
                fitting[name] = given
    fresh, unused = sorted(wanted.keys() - fitting.keys()), sorted(found.keys() - fitting.keys())
    if whole and fresh:
        raise UserError(f"{checkpoint.path} does not fit this model: {_why(fresh[0], found, wanted)}{_more(fresh)}")
    if whole and (tables := [name for name in unused if name.startswith(encoder_prefix)]):
        raise UserError(f"{checkpoint.path} has relative positions ({tables[0]}), which this recipe turns off")
    model.load_state_dict(fitting, strict=False)
    notes = [f"{len(fitting)} tensors of the {task} heads are the checkpoint's"]
    if fresh:
        notes.append(f"{len(fresh)} tensors of the {task} heads start afresh ({', '.join(fresh[:3])}{_dots(fresh)})")
    if unused := [name for name in unused if name not in wanted]:
        notes.append(
            f"{len(unused)} tensors of the checkpoint's heads are unused ({', '.join(unused[:3])}{_dots(unused)})"
        )
    return notes


def _own(model: nn.Module, encoder_prefix: str) -> dict[str, Tensor]:
    """What the encoder's checkpoint does not bring: all outside the encoder, and its relative-position tables."""
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith(encoder_prefix) or re.search(rf"{REL_POS}$", name)
    }


def _resampled(table: Tensor, length: int) -> Tensor:
    if table.ndim != 2 or len(table) == length:
        return table
    return F.interpolate(table.t()[None], size=length, mode="linear")[0].t()


def _why(name: str, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    if name not in found:
        return f"{name} is missing"
    return f"{name} has shape {tuple(found[name].shape)}, not {tuple(wanted[name].shape)}"


def _more(names: list[str]) -> str:
    return f", and {len(names) - 1} more" if len(names) > 1 else ""


def _dots(names: list[str]) -> str:
    return ", …" if len(names) > 3 else ""
