"""How a run recovers from faults and reports them; each is counted in `Progress.recovered`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from backbones.errors import Interrupted, RunFailed, UserError
from mae_bench.common.console import say
from mae_bench.engine.batches import batch_names
from mae_bench.engine.checkpoints import State, checkpoints, go_back, load_newest, read_checkpoint
from mae_bench.engine.finite import SkippedSteps
from mae_bench.engine.out_of_memory import MicroBatchLimit
from mae_bench.engine.run_log import RunLog
from mae_bench.engine.sharded_checkpoint import ShardedState
from mae_bench.engine.trainer import Trainer
from tasks.datasets.loading import explain_dead_worker, reset_worker_death_handler

MAX_RETURNS = 3


class Diverged(Exception):
    """Too many consecutive steps had a non-finite loss or gradient, the first of them at `step`."""

    def __init__(self, skips: SkippedSteps) -> None:
        self.step, self.skipped = skips.since, skips.in_a_row


def resume(trainer: Trainer, run_dir: Path, name: str) -> int:
    """Loads the newest intact checkpoint into `trainer` and returns its step."""
    saved, damaged = _load_together(trainer, run_dir)
    if saved is None:
        trainer.keep_first()
    else:
        _load(trainer, saved, run_dir)
    progress = trainer.progress
    progress.starts += 1
    for line in damaged:
        say(line, style="yellow")
        progress.recover("damaged_checkpoints", note=line)
    if progress.starts > 1:
        progress.recover("resumes")
    fits = MicroBatchLimit.read(run_dir)
    progress.recovered.update({"oom_halvings": fits.halvings} if fits.halvings else {})
    if progress.step:
        say(f"{name}: resuming at step {progress.step} of {trainer.total}")
    return progress.step


def _load(trainer: Trainer, saved: State | ShardedState, run_dir: Path) -> None:
    try:
        trainer.load_state(saved)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as e:
        why = (str(e).strip().splitlines() or [type(e).__name__])[0][:120]
        raise UserError(
            f"{checkpoints(run_dir / 'checkpoints')[-1]} does not fit this run ({type(e).__name__}: {why}): another version or "
            "another run wrote it; delete it to go on from the one before it"
        ) from e


def _load_together(trainer: Trainer, run_dir: Path) -> tuple[State | ShardedState | None, list[str]]:
    """The main process checks the files; the others read the one that it found intact."""
    folder = run_dir / "checkpoints"
    if trainer.plan.world == 1:
        return load_newest(folder)
    saved, damaged = load_newest(folder) if trainer.main else (None, [])
    shared: list[Any] = [saved is not None, damaged]
    broadcast_object_list(shared)
    if not trainer.main and shared[0]:
        saved = read_checkpoint(checkpoints(folder)[-1], checked=True)
    return saved, shared[1]


def halve_micro_batch(trainer: Trainer, run_dir: Path) -> None:
    """Retries this step, and continues, with micro batches of half the size."""
    before = trainer.plan.micro_batch_size
    fits = MicroBatchLimit.read(run_dir).halved(trainer.plan, run_dir)
    after = trainer.plan.with_micro_batch(fits.micro_batch_size).micro_batch_size
    said = f"out of memory at step {trainer.progress.step}: micro batches of {after} images from there on, not {before}"
    if trainer.plan.world > 1:
        # The others wait for this process inside a collective operation, and only a new start brings them together.
        raise Interrupted(f"{said}: the same command goes on from the last checkpoint")
    say(said, style="yellow")
    trainer.plan = trainer.plan.with_micro_batch(after)
    trainer.progress.recovered["oom_halvings"] = fits.halvings
    trainer.progress.recover("oom_halvings", 0, said)


def check_finite(trainer: Trainer, dataset: Any) -> None:
    """Counts skipped steps; raises `Diverged` when too many are consecutive."""
    skips, progress = trainer.guard.read(), trainer.progress
    trainer.last_step_finite = skips.in_a_row == 0
    new, scaler = skips.steps - trainer.reported_skips.steps, skips.by_scaler - trainer.reported_skips.by_scaler
    trainer.reported_skips = skips
    progress.recover("skipped_steps", new)
    if new and skips.since != trainer.reported_at:  # a row is named once, when it is first seen
        trainer.reported_at = skips.since
        images = _some(batch_names(trainer.plan, dataset, skips.since))
        said = f"loss or gradient not finite at step {skips.since} ({images}): weights are left as they were"
        say(said, style="yellow")
        progress.recover("skipped_steps", 0, said if len(progress.notes) < 20 else None)
    progress.recover("scaler_skips", scaler)
    if skips.in_a_row >= min(trainer.recipe.train.max_skipped_steps, trainer.total):
        raise Diverged(skips)


def return_to_good(trainer: Trainer, dataset: Any, run_dir: Path, log: RunLog, fault: Diverged) -> None:
    """Rolls back to the last checkpoint before the non-finite steps; the batches after it are drawn anew.

    Raises:
        RunFailed: that was done `MAX_RETURNS` times already.
    """
    progress = trainer.progress
    images = batch_names(trainer.plan, dataset, fault.step)
    said = f"{fault.skipped} steps in a row were not finite from step {fault.step} on, whose batch is {_some(images)}"
    if progress.recovered.get("rollbacks", 0) >= MAX_RETURNS:
        raise RunFailed(
            f"{said}; {MAX_RETURNS} returns to an earlier checkpoint with other batches did not help: lower the learning "
            "rate, set optimizer.clip_grad, or use train.precision=fp32; the last good checkpoint is kept"
        )
    saved = go_back(run_dir / "checkpoints", fault.step) if trainer.main else None
    if trainer.plan.world > 1:
        trainer.accelerator.wait_for_everyone()
        found = checkpoints(run_dir / "checkpoints")
        saved = read_checkpoint(found[-1], checked=True) if found and not trainer.main else saved
    trainer.roll_back(saved)
    said = f"{said}: back to step {trainer.progress.step}, on with other batches"
    say(said, style="yellow")
    trainer.progress.recover("rollbacks", note=said)
    log.rewind(trainer.progress, said, images)
    trainer.save(run_dir)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def leave_with_dead_worker(trainer: Trainer, run_dir: Path, error: Exception) -> None:
    """Saves if no step is half taken, then raises `RunFailed`; returns if `error` has another cause."""
    said = explain_dead_worker(error)
    if said is None:
        return
    reset_worker_death_handler()
    step = trainer.progress.step
    if trainer.consistent and trainer.last_step_finite and trainer.plan.world == 1 and step:
        trainer.save(run_dir)
        raise RunFailed(f"{said}; saved at step {step}, where the same command goes on") from error
    raise RunFailed(f"{said}; the same command goes on from the last checkpoint") from error
