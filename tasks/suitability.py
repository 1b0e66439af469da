"""Which checkpoints a task can start from; `mae-bench inspect` shows it, `create_task` refuses by it.

What a task wants of an encoder lies in its folder, and its `TaskSpec.suits` names it.
"""

from __future__ import annotations

from backbones.checkpoints.checkpoint import Checkpoint
from tasks import load, spec


def why_not(task: str, checkpoint: Checkpoint) -> str:
    """What keeps an encoder from a task of the registry; empty when nothing does."""
    suits = spec(task).suits
    return "" if suits is None else str(load(suits)(checkpoint))
