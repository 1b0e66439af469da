"""Model, optimiser and schedule of a run: how a step is taken, saved and gone back from. When, `loop` says."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from backbones.errors import Interrupted, UserError
from backbones.vit.attention import choose_attention
from mae_bench.engine.checkpoints import save_checkpoint, save_sharded
from mae_bench.engine.finite import FiniteGuard, SkippedSteps
from mae_bench.engine.optimizer import create_optimizer, create_schedule, total_steps
from mae_bench.engine.out_of_memory import OutOfMemory, is_out_of_memory, release
from mae_bench.engine.progress import Progress
from mae_bench.engine.sampler import BatchPlan
from mae_bench.engine.seeding import seed_all
from mae_bench.engine.sharded_checkpoint import ShardedState
from mae_bench.engine.sharding import full, is_sharded, likes_of, names_of, outline, shard, state_in_shards, whole
from tasks import metric
from tasks.base import Task
from tasks.recipe import Recipe


class Trainer:
    """A task in training; `plan` may change when memory is short or batches are reshuffled.

    Attributes:
        consistent: no step is half taken.
        last_step_finite: the last step that was looked at was finite.
        reported_skips: skipped steps that are in `progress` already.
        reported_at: the last of them that was named to the user.
    """

    def __init__(
        self, task: Task[Any], plan: BatchPlan, accelerator: Accelerator, check_owner: Callable[[], None] = lambda: None
    ) -> None:
        self.task, self.plan, self.accelerator = task, plan, accelerator
        self.recipe: Recipe = task.recipe
        self.main = accelerator.is_main_process
        self.check_owner = check_owner
        self.consistent = self.last_step_finite = True
        self.reported_skips = SkippedSteps()
        self.reported_at: int | None = None
        self.progress = Progress()
        self.total = total_steps(self.recipe.schedule, plan.steps_per_epoch)
        task.checkpoint_activations()
        self.ema: ModelEmaV3 | None = None
        self.outline: nn.Module | None = None  # of a sharded model, which is filled to be evaluated and exported
        model = self._placed(task.model)
        optimizer = create_optimizer(self.recipe, task.param_groups())  # after sharding, which makes other parameters
        self.schedule = create_schedule(self.recipe, optimizer, plan.steps_per_epoch)
        if self.outline is None:
            self.model, self.optimizer = accelerator.prepare(model, optimizer)
        else:
            self.model = accelerator.prepare_model(model, evaluation_mode=True)  # autocast alone: it is sharded already
            self.optimizer = accelerator.prepare(optimizer)
        self.guard = FiniteGuard(accelerator, self.optimizer, waits=self.ema is not None or self.outline is not None)
        self._clip = self.recipe.optimizer.clip_grad
        self._first: dict[str, Any] | None = None  # where to go back to as long as there is no checkpoint

    def _placed(self, model: nn.Module) -> nn.Module:
        """`model` on the device, compiled and sharded as the recipe says, and its moving average, which is not compiled."""
        train, device = self.recipe.train, self.accelerator.device
        model = model.to(device)
        choose_attention(model, device, bf16=train.precision == "bf16")
        if train.ema is not None:
            # One by one in shards: at once they may not stand beside whole tensors, such as statistics of batch norms.
            self.ema = ModelEmaV3(model, decay=train.ema, foreach=not is_sharded(self.recipe))
        if is_sharded(self.recipe):
            blocks = names_of(model, self.task.repeated_blocks())
            self.outline = outline(model)
            shard(model, blocks, device, compiled=train.compile)
            if self.ema is not None:
                shard(self.ema.module, blocks, device)
        elif train.compile:
            model.compile()
        return model

    @contextmanager
    def taking_a_step(self) -> Iterator[None]:
        """The block in which weights and `progress` may disagree; after an error in it they stay so."""
        self.consistent = False
        try:
            yield
        except OutOfMemory:
            self.consistent = True
            raise
        self.consistent = True

    def step(self, step: int, batches: list[Any]) -> tuple[dict[str, Tensor], Tensor]:
        """One optimiser step; it waits for the device only where `FiniteGuard` has to.

        Returns:
            The losses averaged over micro batches, and whether the step was skipped because they or the gradient are not
            finite; scalars on the device.

        Raises:
            OutOfMemory: it does not fit; nothing has changed.
            Interrupted: memory ran out within the optimiser.
        """
        mean = self._gradients(step, batches)
        if mean is None:
            self.optimizer.zero_grad(set_to_none=True)
            release()
            raise OutOfMemory
        try:
            return mean, self._update(step, mean["loss"])
        except (RuntimeError, MemoryError) as e:
            if not is_out_of_memory(e):
                raise
            # Some weights may have moved and others not: only the last checkpoint is whole.
            raise Interrupted(
                f"out of memory in the optimiser at step {step}: the same command goes on from the last checkpoint "
                "with smaller micro batches"
            ) from e

    def _gradients(self, step: int, batches: list[Any]) -> dict[str, Tensor] | None:
        """Forward and backward passes of a step; None if memory ran out."""
        self.model.train()
        self.schedule.step_update(step)
        mean: dict[str, Tensor] = {}
        try:
            for i, batch in enumerate(batches):
                seed_all(self.recipe.seed, step, i, self.accelerator.process_index)
                last = i == len(batches) - 1
                with self.accelerator.no_sync(self.model) if not last else nullcontext():
                    losses = self._losses(self.task.prepare_batch(send_to_device(batch, self.accelerator.device)))
                    total = torch.stack(list(losses.values())).sum() / len(batches)
                    self.accelerator.backward(total)
                for name, value in {**losses, "loss": total * len(batches)}.items():
                    mean[name] = mean.get(name, 0.0) + value.detach().float() / len(batches)
        except (RuntimeError, MemoryError) as e:
            if not is_out_of_memory(e):
                raise
            return None
        return mean

    def _losses(self, batch: Any) -> dict[str, Tensor]:
        try:
            losses = self.model(batch)
        except ValueError as e:
            if "more than 1 value per channel" not in str(e):  # torch's words for BatchNorm on a single number
                raise
            raise UserError(
                f"train.micro_batch_size={self.plan.micro_batch_size}: BatchNorm cannot normalise a single value of each "
                "channel: give larger micro batches"
            ) from e
        return losses if isinstance(losses, dict) else {"loss": losses}

    def _update(self, step: int, loss: Tensor) -> Tensor:
        bad = self.guard.check_loss(loss)
        norm = None
        if self._clip is not None:
            norm = full(self.accelerator.clip_grad_norm_(self.model.parameters(), self._clip))
        if not self.task.parts_may_diverge:
            bad = self.guard.check_gradient(bad, norm)
        taken = self.guard.step(step, bad)
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None and taken:
            self.ema.update(self.accelerator.unwrap_model(self.model))
        return bad

    def eval_model(self) -> nn.Module:
        """The model that is evaluated and exported: the moving average if there is one; of a sharded one, a collective call."""
        model: nn.Module = self.ema.module if self.ema is not None else self.accelerator.unwrap_model(self.model)
        return model if self.outline is None else whole(self.outline, model)

    def epoch(self) -> float:
        """Where the run stands, in epochs."""
        return self.progress.step / self.plan.steps_per_epoch

    def any_process(self, flag: bool) -> bool:
        """Whether `flag` is true on any process; a collective call."""
        if self.accelerator.num_processes == 1:
            return flag
        flags = torch.tensor([float(flag)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(flags, "sum").item() > 0)

    def note_metrics(self, metrics: dict[str, float], notes: Iterable[str] = ()) -> None:
        """Stores the last and the best evaluation."""
        progress, key = self.progress, self.task.primary_metric
        progress.last, progress.evaluated_at = metrics, progress.step
        progress.notes += [note for note in notes if note not in progress.notes]
        if not progress.best or metric(self.recipe.task, key).improves(metrics[key], on=progress.best[key]):
            progress.best, progress.best_epoch = metrics, self.epoch()

    def state(self) -> dict[str, Any]:
        """The content of a checkpoint; a collective call."""
        scaler = self.accelerator.scaler
        return {
            "model": self.accelerator.get_state_dict(self.model),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema is not None else None,
            "scaler": scaler.state_dict() if scaler is not None else None,
            "progress": asdict(self.progress),
        }

    def keep_first(self) -> None:
        """Keeps a copy of the state on the host until the first checkpoint is written."""
        self._first = copy.deepcopy(send_to_device(self.state(), "cpu"))

    def save(self, run_dir: Path) -> None:
        """Writes a checkpoint; all processes wait for it."""
        state, keep, folder = self.state(), self.recipe.train.keep_checkpoints, run_dir / "checkpoints"
        if self.main:
            self.check_owner()
        if self.outline is not None:
            save_sharded(folder, self.progress.step, state, keep, main=self.main)
        elif self.main:
            save_checkpoint(folder, self.progress.step, state, keep)
        self._first = None
        self.accelerator.wait_for_everyone()

    def load_state(self, state: dict[str, Any] | ShardedState) -> None:
        """What `state` gave, of this run, whichever way it was trained in parallel then; a collective call."""
        state = self._shared_as_here(state)
        self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])
        self.plan = self.plan.reshuffled_at(self.progress.reshuffled)

    def _shared_as_here(self, state: dict[str, Any] | ShardedState) -> dict[str, Any]:
        """A checkpoint's state with the shards of this process, or with whole tensors where nothing is sharded."""
        if self.outline is None:
            return state.load() if isinstance(state, ShardedState) else state
        likes = likes_of(self.model, self.ema.module if self.ema is not None else None, self.optimizer)
        return state.load(likes) if isinstance(state, ShardedState) else state_in_shards(state, likes)

    def roll_back(self, saved: dict[str, Any] | ShardedState | None) -> None:
        """Returns to a checkpoint's state, or to the initial one; later batches are drawn anew, fault counts continue."""
        state = saved or self._first
        assert state is not None  # the first state is let go of only when a checkpoint is written
        now = self.progress
        self.load_state(state)
        progress = self.progress
        progress.seconds, progress.train_seconds, progress.starts = now.seconds, now.train_seconds, now.starts
        progress.recovered, progress.notes = now.recovered, now.notes
        progress.reshuffled = [*now.reshuffled, progress.step]
        self.plan = self.plan.reshuffled_at(progress.reshuffled)
        self.guard.reset()
        self.reported_skips, self.reported_at, self.last_step_finite, self.consistent = SkippedSteps(), None, True, True
