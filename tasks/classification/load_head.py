"""The head of a fine-tuned checkpoint on a classifier that is only evaluated. Files are read by
`backbones.checkpoints.checkpoint`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from backbones.checkpoints.checkpoint import Checkpoint
from backbones.errors import UserError
from tasks.classification.model import Classifier
from tasks.datasets.account import printable
from tasks.datasets.images import ImageSet
from tasks.datasets.listing import natural_key
from tasks.datasets.manifest import CLASS_NAMES

_POOLING = {"fc_norm.weight": "avg", "attn_pool.latent": "attentive"}  # a tensor that only this pooling has


CLASSES = "classes"
"""In the metadata of our exports: the names of a head's classes in its order."""


def number_by_head(images: ImageSet, checkpoint: Checkpoint, allow: Collection[str]) -> tuple[ImageSet, list[str]]:
    """`images` with the class numbers that the checkpoint's head has, and notes.

    Our exports name their classes; those of versions before did not, and numbered folders in natural order. Heads of other
    programs have torchvision's `ImageFolder`'s order, which is that of `images` already.

    Args:
        allow: ``data.allow``; with ``class_names`` the classes of both are taken for the same in their order.

    Raises:
        UserError: images of classes that the head does not have.
    """
    names = checkpoint.metadata.get(CLASSES)
    if names is None:
        ours, own = "recipe" in checkpoint.metadata, images.class_names
        natural = sorted(own, key=natural_key)
        if not ours or images.reader.numbered or natural == own:
            return images, []
        note = "classes in natural order, as the version had them that made the checkpoint"
        return replace(images, class_to_idx={name: i for i, name in enumerate(natural)}), [note]
    if not isinstance(names, list):
        raise UserError(f"{checkpoint.path}: its metadata's {CLASSES!r} is no list of names: the file is damaged")
    index = {str(name): i for i, name in enumerate(names)}
    own = [printable(name) for name in images.class_names]
    present = [own[i] for i in np.unique(images.labels).tolist()]
    strangers = [name for name in present if name not in index]
    if not strangers:
        # Names that the head has and the folder lacks keep their numbers.
        spelled = {printable(name): name for name in images.class_names}
        return replace(images, class_to_idx={spelled.get(name, name): i for name, i in index.items()}), []
    if CLASS_NAMES in allow and len(own) == len(index):
        return images, [f"classes have other names than the head's, such as {strangers[0]!r}: taken in their order"]
    few = ", ".join(list(index)[:3]) + (", …" if len(index) > 3 else "")
    raise UserError(
        f"{images.reader.root}: class {strangers[0]!r} ({len(strangers)} such) is none of the {len(index)} that the head of "
        f"{checkpoint.path} was trained on ({few}): give its data set, train a head on this one (schedule.epochs), or, if "
        f"the classes are the same in the same order, --set data.allow=[{CLASS_NAMES}]"
    )


def other_names(checkpoint: Checkpoint | None, wanted: Sequence[str]) -> list[str]:
    """A note where the head's classes have other names than those of a set that shares their numbers."""
    names = checkpoint.metadata.get(CLASSES) if checkpoint else None
    if not isinstance(names, list) or names == list(wanted):
        return []
    return [f"the head's classes are named {names[0]!r} and so on, not {wanted[0]!r}: taken in their order"]


def load_head(model: Classifier, checkpoint: Checkpoint, data: str) -> None:
    """Gives `model` the norm or pooling after the encoder and the linear layer that `checkpoint` was fine-tuned with.

    Args:
        data: how the user named the data set, for messages.

    Raises:
        UserError: no head there, of another class count, or on other features than the recipe's.
    """
    head = checkpoint.head
    name = model.classifier
    weight = head.get(f"{name}.weight", head.get(f"{name}.1.weight"))
    if weight is None:
        raise UserError(
            f"{checkpoint.path} holds no classification head: evaluation alone (schedule.iterations=0) needs a fine-tuned "
            "checkpoint"
        )
    classes = model.head[1].out_features
    if len(weight) != classes:
        raise UserError(
            f"{checkpoint.path}: its head has {len(weight)} classes, {data} has {classes}: give the data set that it was "
            "fine-tuned on, or train a head on this one (schedule.epochs)"
        )
    _check_features(checkpoint, head, model.head_state(), name)
    model.load_head(head)


def _check_features(checkpoint: Checkpoint, head: dict[str, Tensor], wanted: dict[str, Tensor], name: str) -> None:
    if head.keys() == wanted.keys():
        return
    others = "token" if checkpoint.plain is not None else "own"
    learnt = {**_POOLING, f"{name}.pooling.weight": "avg", f"{name}.pooling.latent": "attentive"}
    pool = next((pool for tensor, pool in learnt.items() if tensor in head), others)
    batch_norm = str(f"{name}.1.weight" in head).lower()
    raise UserError(
        f"{checkpoint.path}: its head is on other features than the recipe's: "
        f"give --set head.pool={pool} --set head.batch_norm={batch_norm}"
    )
