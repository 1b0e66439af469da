"""How long a job takes, estimated: operations by a share of a device's published peak, and gradients by a network's speed."""

from __future__ import annotations

from dataclasses import dataclass

from mae_bench.engine.optimizer import total_steps
from mae_bench.engine.sampler import BatchPlan
from mae_bench.engine.sharding import is_sharded
from mae_bench.rehearsal.devices import OTHER_SHARE, SHARES, Device
from mae_bench.rehearsal.rehearse import Step
from mae_bench.tables.definitions.data_sets import ALL
from tasks.recipe import Recipe


@dataclass(frozen=True)
class Cluster:
    """What a job runs on.

    Attributes:
        processes: one a GPU, of all nodes.
        share: of the published peak that is taken for reached; None: what published runs of the task reached.
        network: bytes a second that a node sends to others.
    """

    device: Device
    processes: int
    nodes: int = 1
    share: float | None = None
    network: float = 50e9

    def rate(self, recipe: Recipe) -> float:
        """Operations a second of one process, in the recipe's precision."""
        share = self.share if self.share is not None else SHARES.get(recipe.task, OTHER_SHARE)
        return share * (self.device.single if recipe.train.precision == "fp32" else self.device.half)


def images_of(recipe: Recipe, step: Step) -> tuple[int, int] | None:
    """Training and validation images: those of the folder given, else the paper's count; None where nobody counted."""
    if recipe.data.root is not None:
        return step.train_count, step.val_count
    known = {data.name: data for data in ALL}.get(recipe.data.name)
    if known is None:
        return None
    share = recipe.data.label_share or 1.0
    train = round(known.train_count * share)
    return min(train, recipe.data.limit_train or train), min(known.val_count, recipe.data.limit_val or known.val_count)


def steps_of(recipe: Recipe, train: int) -> int:
    """Optimiser steps of the run."""
    return total_steps(recipe.schedule, max(1, train // recipe.train.batch_size))


def seconds_a_step(recipe: Recipe, step: Step, cluster: Cluster) -> float:
    """Of all processes together: computing, then the reduction, as if neither hid the other."""
    images = recipe.train.batch_size / cluster.processes
    return step.operations * images / cluster.rate(recipe) + _exchange(recipe, step, cluster)


def moved(recipe: Recipe, step: Step, processes: int) -> int:
    """Bytes that all processes exchange in a step: gradients; sharded, in every micro batch, weights twice as well."""
    if processes == 1 or recipe.evaluate_only:
        return 0
    if not is_sharded(recipe):
        return step.gradients
    return (2 * step.weights + step.gradients) * accumulation(recipe, processes, step.images)[1]


def _exchange(recipe: Recipe, step: Step, cluster: Cluster) -> float:
    """A ring: of n processes each sends (n - 1) / n of what is gathered or scattered, and all-reducing does both.

    Over the network where there are several nodes.
    """
    n = cluster.processes
    ways = 1 if is_sharded(recipe) else 2
    sent = ways * (n - 1) / n * moved(recipe, step, n)
    return sent / (cluster.network if cluster.nodes > 1 else cluster.device.link)


def hours(recipe: Recipe, step: Step, cluster: Cluster) -> float | None:
    """Of the whole run, training and evaluations; reading of data is not in it. None where the data set is not counted."""
    counted = images_of(recipe, step)
    if counted is None:
        return None
    train, val = counted
    taken = 0.0
    steps = 0 if recipe.evaluate_only else steps_of(recipe, train)
    if steps:
        taken += steps * seconds_a_step(recipe, step, cluster)
    evaluations, images = 1.0, val
    if recipe.task == "probing":
        images += train  # features are made of both splits
    elif recipe.train.eval_every_epochs:
        epochs = steps * recipe.train.batch_size / max(1, train)
        evaluations = max(1.0, epochs / recipe.train.eval_every_epochs)
    taken += evaluations * images * step.evaluation / (cluster.rate(recipe) * cluster.processes)
    return taken / 3600


def accumulation(recipe: Recipe, processes: int, micro: int) -> tuple[int, int]:
    """(micro batch, accumulation) as the engine takes them of at most `micro` images; the images play no part."""
    plan = BatchPlan.make(1, recipe.train.batch_size, micro, 0, processes, 0)
    return plan.micro_batch_size, plan.accumulation
