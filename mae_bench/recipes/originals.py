"""In what shipped recipes compute otherwise than the code that they follow (docs/recipes.md has all such differences)."""

from __future__ import annotations

_FP16 = ("classification", "pretraining")  # tasks whose official code trains in fp16 with a loss scaler


def precision(task: str, ours: str) -> str:
    """What is to be said of a recipe's ``train.precision``; empty where it is the original's, or full."""
    if task not in _FP16 or ours != "bf16":
        return ""
    return "the original: fp16 with a loss scaler, --set train.precision=fp16 on a GPU"
