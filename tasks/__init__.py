"""Downstream tasks and MAE pre-training as data for the engine. This file is the registry: one line a task."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from backbones.errors import UserError, unknown
from tasks.recipe import Recipe

if TYPE_CHECKING:  # torch takes seconds to import, and listing tasks needs none of it
    from backbones.checkpoints.checkpoint import Checkpoint
    from tasks.base import Task


@dataclass(frozen=True)
class TaskSpec:
    """A line of the registry."""

    recipe: str  # "module:class" of the recipe's schema; importing it needs no extra and no torch
    build: str  # "module:class" of the task; importing it may need the extra
    extra: str | None  # what to install when `needs` are missing
    needs: tuple[str, ...] = ()  # import names that the extra brings
    metrics: str = ""  # for `mae-bench list tasks`


REGISTRY: dict[str, TaskSpec] = {
    "pretraining": TaskSpec(
        "tasks.pretraining.config:PretrainingRecipe",
        "tasks.pretraining.task:PretrainingTask",
        None,
        metrics="loss",
    ),
    "classification": TaskSpec(
        "tasks.classification.config:ClassificationRecipe",
        "tasks.classification.task:ClassificationTask",
        None,
        metrics="top1, top5 (%)",
    ),
    "probing": TaskSpec(
        "tasks.probing.config:ProbingRecipe",
        "tasks.probing.task:ProbingTask",
        None,
        metrics="knn10_top1, knn20_top1, ... or top1 of each linear head (%)",
    ),
    "detection": TaskSpec(
        "tasks.detection.config:DetectionRecipe",
        "tasks.detection.task:DetectionTask",
        "detection",
        needs=("detectron2", "pycocotools"),
        metrics="box_ap, mask_ap (%)",
    ),
    "segmentation": TaskSpec(
        "tasks.segmentation.config:SegmentationRecipe",
        "tasks.segmentation.task:SegmentationTask",
        "segmentation",
        needs=("mmseg", "mmengine", "mmcv"),
        metrics="mIoU, aAcc, mAcc (%)",
    ),
}


LABELLED = ("classification", "probing")
"""Tasks that can train on a part of the labels (`tasks.datasets.label_subset`)."""


def _load(path: str) -> Any:
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)


def spec(task: str) -> TaskSpec:
    """The registry's line for `task`, or a UserError with the nearest name."""
    if task not in REGISTRY:
        raise unknown("task", task, REGISTRY)
    return REGISTRY[task]


def recipe_schema(task: str) -> type[Recipe]:
    """The dataclass that says which keys a recipe of this task has."""
    schema: type[Recipe] = _load(spec(task).recipe)
    return schema


def require(task: str) -> None:
    """One line that says what to install when the packages of this task are missing."""
    missing = [name for name in spec(task).needs if find_spec(name) is None]
    if missing:
        extra = spec(task).extra
        way = f"pip install 'mae-bench[{extra}]'"
        if "detectron2" in missing:
            way += ", then python -m tasks.detection.install"
        raise UserError(f"task {task} needs {', '.join(missing)}: {way}")


def create_task(recipe: Recipe, checkpoint: Checkpoint | None = None) -> Task[Any]:
    """The task of a resolved recipe, its encoder from `checkpoint` (a `Checkpoint`), or from scratch."""
    from tasks.datasets.account import check_allowed
    from tasks.datasets.manifest import CHECKS

    require(recipe.task)
    check_allowed(recipe.data.allow, CHECKS)
    if recipe.task not in LABELLED and (recipe.data.label_share is not None or recipe.data.label_list is not None):
        raise UserError(f"data.label_share and data.label_list are for {' and '.join(LABELLED)}, not for {recipe.task}")
    if checkpoint is not None:
        from tasks.suitability import why_not

        if reason := why_not(recipe.task, checkpoint):
            raise UserError(f"{checkpoint.path} cannot start {recipe.task}: {reason}")
    task: Task[Any] = _load(spec(recipe.task).build)(recipe, checkpoint)
    return task
