"""A recipe at another batch size than the one that it was published for. Imports neither torch nor timm."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from backbones.errors import UserError
from tasks.recipe import Recipe

RecipeT = TypeVar("RecipeT", bound=Recipe)


def at_batch_size(recipe: RecipeT) -> RecipeT:
    """The recipe with lr, iterations and warm-up iterations scaled from ``train.reference_batch_size`` to its batch size.

    lr in proportion, lengths in inverse proportion, as detectron2's `DefaultTrainer.auto_scale_workers`; epochs, shares of the
    schedule and ``blr`` follow the batch size by themselves. The reference becomes the batch size: the function is idempotent.
    """
    reference, batch_size = recipe.train.reference_batch_size, recipe.train.batch_size
    if reference is None or reference == batch_size:
        return recipe
    if reference < 1 or batch_size < 1:
        raise UserError(
            f"train.reference_batch_size={reference}, train.batch_size={batch_size}: give whole numbers from 1 on"
        )
    scale = batch_size / reference
    lr, schedule = recipe.optimizer.lr, recipe.schedule

    def steps(count: int | None) -> int | None:
        return None if count is None else round(count / scale)

    return replace(
        recipe,
        optimizer=replace(recipe.optimizer, lr=None if lr is None else lr * scale),
        schedule=replace(
            schedule, iterations=steps(schedule.iterations), warmup_iterations=steps(schedule.warmup_iterations)
        ),
        train=replace(recipe.train, reference_batch_size=batch_size),
    )
