"""A job: one recipe, one start (scratch or a checkpoint), one seed; plans of jobs. Running one is `run`'s business."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

from backbones.checkpoints.checkpoint import Checkpoint
from backbones.errors import unknown
from mae_bench.recipes.load import recipe_hash, short_name
from mae_bench.recipes.pretraining import pretraining_from_metadata
from tasks.recipe import Recipe


@dataclass(frozen=True)
class PlannedJob:
    """One job: a recipe, what it starts from, a seed. In a plan `after` names the job whose result it starts from.

    `checkpoint` None means from scratch, or that `after` has not been looked up yet (`from_result`).
    """

    recipe_name: str
    recipe: Recipe
    checkpoint: Checkpoint | None = None
    pretraining: dict[str, Any] | None = None  # of a pre-training: `mae_bench.recipes.pretraining.describe_pretraining`
    variant: str = ""  # which pre-training it starts from, where a run has several
    after: str | None = None
    start: str = "scratch"  # as a suite says it: scratch | checkpoint | a recipe of the suite
    only_after: tuple[str, ...] = ()  # pre-trainings of the suite that it is for, by recipe; none means all
    methods: tuple[str, ...] = ()  # methods whose encoders have it in place of the job that names none
    method_of_result: str = ""  # the method of what `after` makes

    @property
    def method(self) -> str:
        """The row of the tables that the start belongs to."""
        return self.checkpoint.method if self.checkpoint else self.method_of_result or "scratch"

    @property
    def name(self) -> str:
        """For people and for the run directory: ``finetune/vit_micro_patch8_embedded-MAE-s0``; a plan has each once."""
        return job_name(self.recipe.protocol, self.recipe_name, self.method, self.recipe.seed, self.variant)

    def from_result(self, checkpoint: Checkpoint | None) -> PlannedJob:
        """The job, started from what `after` made."""
        return replace(self, checkpoint=checkpoint)

    def known_pretraining(self) -> dict[str, Any] | None:
        """The settings behind the encoder: this job's own, or what its checkpoint says; None when nothing is known."""
        return self.pretraining or (pretraining_from_metadata(self.checkpoint.metadata) if self.checkpoint else None)


@dataclass(frozen=True)
class JobPlan:
    """The jobs of a run, each after what it starts from; tables to print at the end, and what is to be said of it."""

    jobs: list[PlannedJob]
    tables: list[str] = field(default_factory=list)
    speed: list[str] = field(default_factory=list)  # architectures to measure pre-training steps of (Table 2)
    notes: list[str] = field(default_factory=list)  # for people: what is left out, and why

    def __getitem__(self, name: str) -> PlannedJob:
        for job in self.jobs:
            if job.name == name:
                return job
        raise unknown("job", name, [job.name for job in self.jobs])


def job_name(protocol: str, recipe_name: str, method: str, seed: int, variant: str = "") -> str:
    """``protocol/recipe-method-sSEED``, with `variant` after the method when there is one; safe as a path."""
    label = f"{method}-{variant}" if variant else method
    safe = "".join(c if c.isalnum() or c in "._" else "-" for c in label)
    return f"{protocol}/{short_name(recipe_name)}-{safe}-s{seed}"


def job_id(job: PlannedJob, fingerprint: str) -> str:
    """sha256 over resolved recipe, checkpoint content, data fingerprint and seed."""
    parts = [recipe_hash(job.recipe), job.checkpoint.identity if job.checkpoint else "scratch", fingerprint]
    return hashlib.sha256("\n".join([*parts, str(job.recipe.seed)]).encode()).hexdigest()


def identity_facts(job: PlannedJob) -> dict[str, Any]:
    """What `job_id` is made of, but for the data."""
    start = job.checkpoint.identity if job.checkpoint else "scratch"
    return {"recipe_hash": recipe_hash(job.recipe), "start": start, "seed": job.recipe.seed}
