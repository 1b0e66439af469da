"""The recipe's section of the task."""

from __future__ import annotations

from dataclasses import dataclass, field

from tasks.recipe import Recipe


@dataclass
class DepthConfig:
    """How far rooms go, and what the test makes the task do wrong."""

    metres: float = 3.0
    primary_metric: str = "rmse"


@dataclass
class DepthRecipe(Recipe):
    """Depth of every patch, by a linear layer on its feature."""

    depth: DepthConfig = field(default_factory=DepthConfig)
