"""The head of a fine-tuned checkpoint on a classifier that is only evaluated. Files are read by
`backbones.checkpoints.checkpoint`."""

from __future__ import annotations

from torch import Tensor

from backbones.checkpoints.checkpoint import Checkpoint
from backbones.errors import UserError
from tasks.classification.model import Classifier

_POOLING = {"fc_norm.weight": "avg", "attn_pool.latent": "attentive"}  # a tensor that only this pooling has


def load_head(model: Classifier, checkpoint: Checkpoint, data: str) -> None:
    """Gives `model` the norm or pooling after the encoder and the linear layer that `checkpoint` was fine-tuned with.

    Args:
        data: how the user named the data set, for messages.

    Raises:
        UserError: no head there, of another class count, or on other features than the recipe's.
    """
    head = checkpoint.head
    weight = head.get("head.weight", head.get("head.1.weight"))
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
    wanted = {k: v for k, v in model.timm_state().items() if _of_head(k)}
    _check_features(checkpoint, head, wanted)
    model.load_head(head)


def _check_features(checkpoint: Checkpoint, head: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    if head.keys() == wanted.keys():
        return
    pool = next((pool for name, pool in _POOLING.items() if name in head), "token")
    batch_norm = str("head.1.weight" in head).lower()
    raise UserError(
        f"{checkpoint.path}: its head is on other features than the recipe's: "
        f"give --set head.pool={pool} --set head.batch_norm={batch_norm}"
    )


def _of_head(name: str) -> bool:
    return name.startswith(("head.", "fc_norm.", "attn_pool."))
