"""Optimisers and learning-rate curves of a recipe, from torch and timm; no groups (backbones.vit.param_groups) and no loop."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim import Lars
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, PolyLRScheduler
from timm.scheduler.scheduler import Scheduler

from backbones.errors import UserError
from tasks.recipe import OptimizerConfig, Recipe, ScheduleConfig

Groups = list[dict[str, Any]]


def learning_rate(config: OptimizerConfig, batch_size: int) -> float:
    """``lr``, or ``blr`` times the effective batch size / 256 (paper App. A.1)."""
    if (config.lr is None) == (config.blr is None):
        raise UserError("optimizer: give one of lr (as it is) and blr (scaled by batch size / 256)")
    return config.lr if config.lr is not None else config.blr * batch_size / 256  # type: ignore[operator]


def check(recipe: Recipe) -> None:
    """Raises a UserError for whatever `create_optimizer` and `create_schedule` would refuse, before anything is written."""
    learning_rate(recipe.optimizer, recipe.train.batch_size)
    total_steps(recipe.schedule, 1)


def create_optimizer(recipe: Recipe, groups: Groups) -> torch.optim.Optimizer:
    """The recipe's optimiser over a task's parameter groups."""
    config = recipe.optimizer
    lr = learning_rate(config, recipe.train.batch_size)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(config.betas[0], config.betas[1]), fused=True)
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=config.momentum)
    return Lars(_adapt_weights_only(groups), lr=lr, momentum=config.momentum, trust_coeff=0.001)


def _adapt_weights_only(groups: Groups) -> Groups:
    """The official LARS (util/lars.py) neither adapts nor decays parameters of one dimension; timm's is told by group."""
    split = []
    for group in groups:
        for many, decay in ((True, group["weight_decay"]), (False, 0.0)):
            params = [p for p in group["params"] if (p.ndim > 1) == many]
            if params:
                split.append({**group, "params": params, "weight_decay": decay, "always_adapt": many})
    return split


def total_steps(config: ScheduleConfig, steps_per_epoch: int) -> int:
    """Optimiser steps of the whole run."""
    if (config.epochs is None) == (config.iterations is None):
        raise UserError("schedule: give one of epochs and iterations")
    if config.iterations is not None:
        return config.iterations
    return round(config.epochs * steps_per_epoch)  # type: ignore[operator]


def create_schedule(recipe: Recipe, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> Scheduler:
    """A timm scheduler whose ``step_update(step)`` sets the rate of a step: nothing to save, nothing to restore."""
    config = recipe.schedule
    total = total_steps(config, steps_per_epoch)
    warmup = (
        config.warmup_iterations
        if config.warmup_iterations is not None
        else round(config.warmup_epochs * steps_per_epoch)
    )
    lr = learning_rate(recipe.optimizer, recipe.train.batch_size)
    common: dict[str, Any] = {
        "warmup_t": warmup,
        "warmup_lr_init": lr * config.warmup_factor,
        "t_in_epochs": False,
    }
    if config.name == "cosine":
        length = max(1, total - warmup)
        return CosineLRScheduler(optimizer, length, lr_min=config.min_lr, warmup_prefix=True, **common)
    if config.name == "poly":
        length = max(1, total - warmup)
        return PolyLRScheduler(
            optimizer, length, power=config.power, lr_min=config.min_lr, warmup_prefix=True, **common
        )
    # timm decays one update before the step that it is given.
    steps = [round(m * total) + 1 for m in config.milestones]
    return MultiStepLRScheduler(optimizer, steps, decay_rate=config.gamma, warmup_prefix=False, **common)
