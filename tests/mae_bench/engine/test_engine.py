"""The loop's promises, on a task small enough to work out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from backbones.errors import RunFailed, UserError
from mae_bench.engine.checkpoints import checkpoints
from mae_bench.engine.loop import FitResult, fit
from tasks.base import DataInfo, Evaluator, Task
from tasks.recipe import OptimizerConfig, Recipe, ScheduleConfig, TrainConfig


class Numbers(Dataset[Any]):
    """x and 3 x + noise; the noise is drawn when the sample is read, as augmentation is."""

    def __init__(self, count: int = 24, poison: int | None = None) -> None:
        self.count, self.poison = count, poison

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        if i == self.poison:
            raise UserError(f"number {i} cannot be read")
        x = torch.full((4,), i / self.count)
        return x, 3 * x.sum() + 0.01 * torch.randn(())


class Line(nn.Module):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.factor = factor

    def forward(self, batch: Any) -> Any:
        x, y = batch
        predicted = self.linear(x).squeeze(-1)
        if not self.training:
            return predicted
        return {"loss_square": self.factor * (predicted - y).square().mean(), "loss_zero": 0 * predicted.sum()}


class Closeness(Evaluator):
    def __init__(self) -> None:
        self.kept: list[float] = []

    def update(self, model: nn.Module, batch: Any) -> None:
        self.kept += (model(batch) - batch[1]).abs().tolist()

    def results(self) -> list[Any]:
        return self.kept

    def metrics(self, results: list[Any]) -> dict[str, float]:
        return {"closeness": -sum(results) / len(results), "images": len(results)}


class LineTask(Task[Recipe]):
    primary_metric = "closeness"

    def __init__(self, recipe: Recipe, data: Numbers | None = None, factor: float = 1.0) -> None:
        super().__init__(recipe)
        torch.manual_seed(0)
        self.model = Line(factor)
        self.numbers = data or Numbers()
        self.data = DataInfo("numbers", "", len(self.numbers), 7, 0, "none")

    def train_dataset(self) -> Dataset[Any]:
        return self.numbers

    def val_dataset(self) -> Dataset[Any]:
        return Numbers(7)

    def evaluator(self) -> Evaluator:
        return Closeness()

    def param_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.model.parameters()), "weight_decay": 0.0}]


def recipe(epochs: float = 3, **train: Any) -> Recipe:
    settings: dict[str, Any] = {"batch_size": 6, "workers": 0, "log_every_steps": 1, **train}
    return Recipe(
        task="pretraining",
        optimizer=OptimizerConfig(lr=0.3),
        schedule=ScheduleConfig(epochs=epochs),
        train=TrainConfig(**settings),
    )


def run(folder: Path, settings: Recipe, **task: Any) -> FitResult:
    folder.mkdir(exist_ok=True)
    return fit(LineTask(settings, **task), folder)


def weights(result: FitResult) -> Tensor:
    return torch.cat([p.detach().flatten() for p in result.model.parameters()])


def log(folder: Path, kind: str = "train") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def test_training_lowers_the_loss_and_logs_every_step(tmp_path: Path) -> None:
    result = run(tmp_path, recipe(epochs=10))
    lines = log(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 41))
    assert lines[-1]["loss"] < lines[0]["loss"] / 4
    assert {"loss", "loss_square", "loss_zero", "lr", "images_per_s", "epoch"} <= lines[0].keys()
    assert result.progress.images == 240
    assert list(tmp_path.glob("tensorboard/events*"))


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(tmp_path: Path) -> None:
    first = weights(run(tmp_path / "a", recipe()))
    assert torch.equal(first, weights(run(tmp_path / "b", recipe())))
    other = recipe()
    other.seed = 1
    assert not torch.equal(first, weights(run(tmp_path / "c", other)))


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_do_not_change_the_result(tmp_path: Path, workers: int) -> None:
    alone = weights(run(tmp_path / "a", recipe()))
    assert torch.equal(alone, weights(run(tmp_path / "b", recipe(workers=workers))))


def test_accumulated_micro_batches_equal_the_whole_batch(tmp_path: Path) -> None:
    whole = weights(run(tmp_path / "a", recipe()))
    # Means of means, in another order of sums: equal up to rounding.
    torch.testing.assert_close(weights(run(tmp_path / "b", recipe(micro_batch_size=2))), whole, rtol=1e-5, atol=1e-6)


def test_a_resumed_run_continues_bit_for_bit(tmp_path: Path) -> None:
    settings = recipe(epochs=6, ema=0.9, checkpoint_every_steps=5, eval_every_epochs=2, keep_checkpoints=99)
    whole = run(tmp_path / "a", settings)
    files = checkpoints(tmp_path / "a" / "checkpoints")
    for path in files[1:]:
        path.unlink()
    again = run(tmp_path / "a", settings)
    assert again.resumed_from == 5
    assert torch.equal(weights(again), weights(whole))
    assert again.progress.last == whole.progress.last
    assert again.progress.best == whole.progress.best


def test_a_run_killed_during_its_last_evaluation_evaluates_when_resumed(tmp_path: Path) -> None:
    settings = recipe()

    class Killed(Exception):
        pass

    class Dying(LineTask):
        def evaluator(self) -> Evaluator:
            raise Killed

    with pytest.raises(Killed):
        fit(Dying(settings), tmp_path)
    again = run(tmp_path, settings)
    assert again.resumed_from == 12
    assert again.progress.last["images"] == 7


def test_last_and_best_evaluation_are_kept_apart(tmp_path: Path) -> None:
    settings = recipe(epochs=10, eval_every_epochs=1)
    settings.optimizer.lr = 0.5
    settings.schedule.min_lr = 0.5  # constant and too high: the last epoch is not the best
    progress = run(tmp_path, settings).progress
    metrics = [line["closeness"] for line in log(tmp_path, "val")]
    assert len(metrics) == 10
    assert progress.last["closeness"] == metrics[-1]
    assert progress.best["closeness"] == max(metrics)
    assert progress.best_epoch == 1 + metrics.index(max(metrics))


def test_the_moving_average_is_what_is_evaluated(tmp_path: Path) -> None:
    frozen = run(tmp_path / "a", recipe(ema=1.0))  # an average that never moves keeps the first weights
    torch.manual_seed(0)
    assert torch.equal(weights(frozen), torch.cat([p.detach().flatten() for p in Line().parameters()]))


def test_clipping_bounds_the_update(tmp_path: Path) -> None:
    settings = recipe(epochs=0.25)
    settings.optimizer = OptimizerConfig(name="sgd", lr=1.0, momentum=0.0, clip_grad=0.01)
    torch.manual_seed(0)
    before = torch.cat([p.detach().flatten() for p in Line().parameters()])
    assert (weights(run(tmp_path, settings)) - before).norm() == pytest.approx(0.01, rel=1e-3)


def test_bf16_trains(tmp_path: Path) -> None:
    run(tmp_path, recipe(epochs=10, precision="bf16"))
    lines = log(tmp_path)
    assert lines[-1]["loss"] < lines[0]["loss"] / 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a GPU trains in fp16")
def test_fp16_without_a_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        run(tmp_path, recipe(precision="fp16"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="fp16 with its scaler needs a GPU")
def test_fp16_trains_with_a_scaler_that_is_saved(tmp_path: Path) -> None:
    run(tmp_path, recipe(epochs=10, precision="fp16"))
    lines = log(tmp_path)
    assert lines[-1]["loss"] < lines[0]["loss"] / 4
    state = torch.load(checkpoints(tmp_path / "checkpoints")[-1], weights_only=True)
    assert state["scaler"]["scale"] > 0


def test_a_loss_that_stays_not_finite_ends_the_run_with_a_line(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"10 steps in a row were not finite from step 0 on, whose batch is image") as e:
        run(tmp_path, recipe(), factor=float("inf"))
    assert "3 returns to an earlier checkpoint" in str(e.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_read_is_named_also_from_a_worker(tmp_path: Path, workers: int) -> None:
    with pytest.raises(UserError, match=r"^number 5 cannot be read$"):
        run(tmp_path, recipe(workers=workers), data=Numbers(poison=5))


def test_no_iterations_only_evaluates(tmp_path: Path) -> None:
    settings = recipe()
    settings.schedule = ScheduleConfig(iterations=0)
    result = run(tmp_path, settings)
    assert result.progress.step == 0
    assert result.progress.last["images"] == 7


def test_an_evaluation_that_does_not_fit_is_repeated_in_smaller_batches(tmp_path: Path) -> None:
    class Narrow(Closeness):
        def update(self, model: nn.Module, batch: Any) -> None:
            if len(batch[1]) > 2:
                torch.empty(1 << 50)  # what no machine has: torch's own error of the CPU's allocator
            super().update(model, batch)

    class NarrowTask(LineTask):
        def evaluator(self) -> Evaluator:
            return Narrow()

    result = fit(NarrowTask(recipe(eval_batch_size=8)), tmp_path)
    assert result.progress.last == run(tmp_path / "b", recipe(eval_batch_size=2)).progress.last
    assert result.progress.inference_s_per_image is not None


def test_memory_that_is_short_after_some_steps_costs_no_step(tmp_path: Path) -> None:
    """From the step on that did not fit, the run is one of smaller micro batches that was resumed there."""
    settings = recipe(checkpoint_every_steps=5, keep_checkpoints=99)

    class Short(LineTask):
        steps = 0

        def prepare_batch(self, batch: Any) -> Any:
            self.steps += 1
            if self.steps > 5 and len(batch[1]) > 3:
                torch.empty(1 << 50)
            return batch

    short = fit(Short(settings), tmp_path / "short")
    assert short.progress.recovered == {"oom_halvings": 1}
    assert [line["step"] for line in log(tmp_path / "short")] == list(range(1, 13))
    run(tmp_path / "resumed", settings)
    for path in checkpoints(tmp_path / "resumed" / "checkpoints")[1:]:
        path.unlink()
    settings.train.micro_batch_size = 3
    resumed = run(tmp_path / "resumed", settings)
    assert resumed.resumed_from == 5
    assert torch.equal(weights(short), weights(resumed))


def test_one_bad_step_is_left_out_of_the_logged_loss(tmp_path: Path) -> None:
    class Once(LineTask):
        steps = 0

        def prepare_batch(self, batch: Any) -> Any:
            self.steps += 1
            return [batch[0], batch[1] * torch.nan] if self.steps == 3 else batch

    result = fit(Once(recipe(log_every_steps=4)), tmp_path)
    assert result.progress.recovered == {"skipped_steps": 1}
    assert all(math.isfinite(line["loss"]) for line in log(tmp_path))
    assert result.progress.notes[0].startswith("loss or gradient not finite at step 2 (image ")


@pytest.mark.parametrize(("batch_size", "micro"), [(1, None), (8, 1), (7, 4)])
def test_batch_norm_on_micro_batches_of_one_image_is_refused_before_training(
    tmp_path: Path, batch_size: int, micro: int | None
) -> None:
    task = LineTask(recipe(batch_size=batch_size, micro_batch_size=micro))
    task.model.norm = nn.BatchNorm1d(4)
    with pytest.raises(UserError, match=r"micro batches of one image, which BatchNorm cannot normalise"):
        fit(task, tmp_path)
    assert not list(tmp_path.iterdir())
