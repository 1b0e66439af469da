"""A job's identity: one recipe, one start (scratch or a checkpoint), one seed. Running it is `run`'s business."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from backbones.checkpoints.checkpoint import Checkpoint
from mae_bench.recipes.load import recipe_hash, short_name
from mae_bench.recipes.pretraining import said_of
from tasks.recipe import Recipe


@dataclass(frozen=True)
class Job:
    """What to run; `checkpoint` None means from scratch."""

    recipe_name: str
    recipe: Recipe
    checkpoint: Checkpoint | None = None
    pretraining: dict[str, Any] | None = None  # of a pre-training: `ablations.describe_pretraining`
    variant: str = ""  # which pre-training `checkpoint` is of, where a run has several

    @property
    def method(self) -> str:
        return self.checkpoint.method if self.checkpoint else "scratch"

    @property
    def name(self) -> str:
        """For people and for the run directory: ``finetune/vit_micro_patch8_embedded-MAE-s0``."""
        return job_name(self.recipe.protocol(), self.recipe_name, self.method, self.recipe.seed, self.variant)

    def known_pretraining(self) -> dict[str, Any] | None:
        """The settings behind the encoder: this job's own, or what its checkpoint says; None when nothing is known."""
        return self.pretraining or (said_of(self.checkpoint.metadata) if self.checkpoint else None)


def job_name(protocol: str, recipe_name: str, method: str, seed: int, variant: str = "") -> str:
    """``protocol/recipe-method-sSEED``, with `variant` after the method when there is one; safe as a path."""
    label = f"{method}-{variant}" if variant else method
    safe = "".join(c if c.isalnum() or c in "._" else "-" for c in label)
    return f"{protocol}/{short_name(recipe_name)}-{safe}-s{seed}"


def job_id(job: Job, fingerprint: str) -> str:
    """sha256 over resolved recipe, checkpoint content, data fingerprint and seed."""
    parts = [recipe_hash(job.recipe), job.checkpoint.identity if job.checkpoint else "scratch", fingerprint]
    return hashlib.sha256("\n".join([*parts, str(job.recipe.seed)]).encode()).hexdigest()


def _facts(job: Job) -> dict[str, Any]:
    """What `job_id` is made of, but for the data."""
    start = job.checkpoint.identity if job.checkpoint else "scratch"
    return {"recipe_hash": recipe_hash(job.recipe), "start": start, "seed": job.recipe.seed}
