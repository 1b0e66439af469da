"""What a task says of itself without being imported: its recipe, protocols, metrics and packages. No torch here.

Everything outside a task's folder that has to know about its figures (records, best epoch, status, check, tables, charts,
report) asks its `TaskSpec`. The registry of specs is in `tasks/__init__.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

MISSING = "–"
PERCENT = "%"
_ROUNDING = 1e-6  # of sums, by which a percentage may pass its bounds


@dataclass(frozen=True)
class Metric:
    """A figure that a task's evaluator gives, or a family of such figures.

    Attributes:
        key: as in `Evaluator.metrics`; ``*`` stands for any text, as in ``knn*_top1`` and ``IoU.*``.
        unit: "%" holds values between 0 and 100.
        better: which way is up, for the best epoch and for `mae-bench check`; "" where neither is, as of a count.
        decimals: with which people read it; None: four significant figures.
        headline: shown by `mae-bench status` and at the end of a job, and held by a new baseline, wherever a run has it.
    """

    key: str
    unit: str = PERCENT
    better: Literal["higher", "lower", ""] = "higher"
    decimals: int | None = 1
    headline: bool = False

    def fits(self, key: str) -> bool:
        """Whether the figure of this key is meant."""
        return key == self.key or ("*" in self.key and fnmatchcase(key, self.key.replace("[", "[[]")))

    def improves(self, value: float, on: float) -> bool:
        """Whether `value` is better than `on`; any value is better than not-a-number, which is better than nothing."""
        if math.isnan(on) or math.isnan(value):
            return math.isnan(on)
        return value < on if self.better == "lower" else value > on

    def out_of_range(self, value: float | None) -> bool:
        """Whether no such figure can be: a percentage below 0 or above 100. None and not-a-number stand for no figure."""
        return (
            self.unit == PERCENT
            and value is not None
            and not math.isnan(value)
            and not -_ROUNDING <= value <= 100 + _ROUNDING
        )


@dataclass(frozen=True)
class TaskSpec:
    """A task as the registry has it; a module that holds one imports neither torch nor what an extra brings.

    Attributes:
        recipe: "module:class" of the recipe's schema; importing it needs no extra and no torch.
        build: "module:class" of the task, called as ``build(recipe, checkpoint)``; importing it may need the extra.
        protocols: the row groups of tables that its recipes fall into (`Recipe.protocol`); no two tasks share one.
        metrics: what its evaluator gives; a figure takes the first that is its very key, else the first whose pattern fits.
        extra: the extra of mae-bench that brings `needs`.
        needs: import names without which the task cannot be built.
        install: how to get them, if the extra alone does not.
        labelled: it can train on a part of the labels (`tasks.datasets.label_subset`).
        verify: "module:function" that looks at a data set for `mae-bench data verify`, called as
            ``verify(recipe, folder, full=…, sample=…, progress=…)``; it returns a `tasks.datasets.verify.Report`.
        suits: "module:function" that says why an encoder (a `Checkpoint`) cannot start the task, "" where it can.
    """

    recipe: str
    build: str
    protocols: tuple[str, ...]
    metrics: tuple[Metric, ...] = ()
    extra: str | None = None
    needs: tuple[str, ...] = ()
    install: str = ""
    labelled: bool = False
    suits: str | None = None
    verify: str | None = None

    def declared(self, key: str) -> Metric | None:
        """What is declared of a figure, under its very key before any pattern; None of one that nobody declared."""
        exact = next((metric for metric in self.metrics if metric.key == key), None)
        return exact or next((metric for metric in self.metrics if metric.fits(key)), None)

    @property
    def headlines(self) -> tuple[str, ...]:
        """Keys of the figures that stand for a run."""
        return tuple(metric.key for metric in self.metrics if metric.headline)


def undeclared(key: str) -> Metric:
    """A figure that nobody declared: neither way is better, and no digit of it is rounded away."""
    return Metric(key, unit="", better="", decimals=None)


def in_decimals(value: float | None, decimals: int | None, *, signed: bool = False) -> str:
    """A figure as people read it: ``83.6``, ``0.32``, ``–`` of none, ``nan``; never ``-0.0``.

    Args:
        decimals: None gives four significant figures.
    """
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return "nan"
    sign = "+" if signed else ""
    text = f"{value:{sign}.4g}" if decimals is None else f"{value:{sign}.{decimals}f}"
    return text.lstrip("+-") if float(text) == 0 else text
