"""Faults put into runs of the command line: each is said in a line, and the weights come out as if it had not been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mae_bench.engine import checkpoints as on_disk
from mae_bench.engine import evaluate as evaluation
from mae_bench.engine.sampler import BatchPlan, SeededDataset
from mae_bench.engine.trainer import Trainer
from tasks.pretraining.task import PretrainingTask
from tests.conftest import Result
from tests.end_to_end.forked import Child
from tests.end_to_end.tiny import EMBEDDED, FEW_STEPS, PRETRAIN, checkpoints

pytestmark = pytest.mark.slow
Cli = Callable[..., Result]
Hook = Callable[[], None]
SMALL = ["--set", "data.limit_train=80", "--set", "train.batch_size=8"]  # 10 steps an epoch
COMMAND = [*PRETRAIN, *SMALL, "--set", "train.checkpoint_every_steps=4"]  # 20 steps


class Case:
    """One run directory, and the command on it as often as needed."""

    def __init__(self, folder: Path, command: list[str] = COMMAND) -> None:
        self.folder, self.command = folder, command
        self.out = folder / "run"
        self.err = ""

    def start(self, *more: object, hook: Hook | None = None) -> Child:
        return Child(self.folder / "err.txt", *self.command, *more, "--out", self.out, hook=hook)

    def run(self, *more: object, hook: Hook | None = None) -> int:
        child = self.start(*more, hook=hook)
        code = child.wait()
        self.err = child.err
        return code

    def weights(self) -> bytes:
        return (self.out / "mae.safetensors").read_bytes()

    def record(self) -> Any:
        return json.loads((self.out / "record.json").read_text())

    def steps_logged(self) -> list[int]:
        lines = [json.loads(line) for line in (self.out / "log.jsonl").read_text().splitlines()]
        return [line["step"] for line in lines if line["kind"] == "train"]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Case:
    case = Case(tmp_path_factory.mktemp("undisturbed"))
    assert case.run() == 0, case.err
    return case


def at_step(step: int, do: Callable[..., Any]) -> Hook:
    """Calls `do` when that step begins."""

    def hook() -> None:
        take = Trainer.step

        def faulty(self: Trainer, now: int, batches: list[Any]) -> Any:
            if now == step:
                do()
            return take(self, now, batches)

        Trainer.step = faulty  # type: ignore

    return hook


def send(*signals: signal.Signals) -> Callable[[], None]:
    def do() -> None:
        for number in signals:
            os.kill(os.getpid(), number)

    return do


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda s: s.name)
def test_a_stop_signal_saves_and_asks_to_be_resumed(case: Case, undisturbed: Case, number: signal.Signals) -> None:
    assert case.run(hook=at_step(6, send(number))) == 75
    assert "stopped at step 7 of 20: the same command resumes there" in case.err
    assert case.run() == 0
    assert "resuming at step 7 of 20" in case.err
    assert case.weights() == undisturbed.weights()
    assert case.record()["recovered"] == {"resumes": 1}


def test_a_second_interrupt_stops_at_once(case: Case, undisturbed: Case) -> None:
    assert case.run(hook=at_step(6, send(signal.SIGINT, signal.SIGINT))) == 75
    assert [p.name for p in checkpoints(case.out)] == ["step_00000004.pt"]
    assert case.run() == 0
    assert case.weights() == undisturbed.weights()


def test_a_signal_before_the_first_step_leaves_at_once(case: Case, undisturbed: Case) -> None:
    def hook() -> None:
        PretrainingTask.prepare = lambda self: send(signal.SIGTERM)()  # type: ignore

    assert case.run(hook=hook) == 75
    assert not checkpoints(case.out)
    assert case.run() == 0
    assert case.weights() == undisturbed.weights()


def test_a_signal_in_an_evaluation_leaves_between_batches(tmp_path: Path) -> None:
    command = ["run", "--scratch", "vit_micro_patch8", "--tasks", "finetune", *EMBEDDED, *FEW_STEPS]
    command += ["--set", "train.eval_batch_size=4"]
    whole, case = (Case(tmp_path / name, command) for name in ("a", "b"))
    for folder in (whole, case):
        folder.folder.mkdir()
    assert whole.run() == 0, whole.err

    def hook() -> None:
        loader = evaluation.raise_if_failed
        seen: list[int] = []

        def faulty(batch: Any) -> Any:
            seen.append(1)
            if len(seen) == 2:
                send(signal.SIGTERM)()
            assert len(seen) < 3, "it goes on evaluating"
            return loader(batch)

        evaluation.raise_if_failed = faulty

    assert case.run(hook=hook) == 75
    assert "stopped in the evaluation at step 8 of 8" in case.err
    assert case.run() == 0
    runs = [json.loads(next(c.out.rglob("record.json")).read_text()) for c in (whole, case)]
    assert runs[0]["metrics"] == runs[1]["metrics"]
    assert all(run["inference_s_per_image"] > 0 for run in runs)


def kill_in_the_middle_of_a_checkpoint() -> None:
    save = on_disk.write_torch

    def faulty(state: Any, write: Callable[[bytes], int]) -> None:
        calls = [0]

        def counted(content: bytes) -> int:
            calls[0] += 1
            if calls[0] == 5:
                send(signal.SIGKILL)()
            return write(content)

        save(state, counted)

    on_disk.write_torch = faulty  # type: ignore


def kill_before_old_checkpoints_go() -> None:
    look = on_disk.checkpoints

    def faulty(folder: Path) -> list[Path]:
        if len(look(folder)) == 3:
            send(signal.SIGKILL)()
        return look(folder)

    on_disk.checkpoints = faulty


KILLS: dict[str, Hook] = {
    "between the first checkpoint and the start": at_step(2, send(signal.SIGKILL)),
    "in a step": at_step(10, send(signal.SIGKILL)),
    "while a checkpoint is written": kill_in_the_middle_of_a_checkpoint,
    "after a checkpoint got its name": kill_before_old_checkpoints_go,
}


def test_a_run_that_is_killed_again_and_again_loses_nothing(case: Case, undisturbed: Case) -> None:
    for where, hook in KILLS.items():
        assert case.run(hook=hook) == -signal.SIGKILL, (where, case.err)
    with open(case.out / "log.jsonl", "a") as log:
        log.write('{"kind": "train", "step": 20, "lo')  # torn, as by a power cut
    assert case.run() == 0
    assert "which is gone: taken over" in case.err
    assert case.weights() == undisturbed.weights()
    assert case.steps_logged() == undisturbed.steps_logged() == list(range(2, 21, 2))
    assert not list(case.out.rglob(".*.tmp*"))


@pytest.mark.parametrize("damage", ["cut", "bit", "empty"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(case: Case, undisturbed: Case, damage: str) -> None:
    assert case.run(hook=at_step(10, send(signal.SIGKILL))) == -signal.SIGKILL
    newest = checkpoints(case.out)[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 4
    newest.write_bytes({"cut": content[:5000], "bit": content, "empty": bytearray()}[damage])
    assert case.run() == 0
    assert f"{newest} is damaged (" in case.err
    assert "resuming at step 4 of 20" in case.err
    assert case.weights() == undisturbed.weights()
    assert case.record()["recovered"] == {"damaged_checkpoints": 1, "resumes": 1}


def test_a_checkpoint_of_before_there_were_checksums_is_read(case: Case, undisturbed: Case) -> None:
    assert case.run(hook=at_step(10, send(signal.SIGKILL))) == -signal.SIGKILL
    newest = checkpoints(case.out)[-1]
    torch.save(torch.load(newest, weights_only=True), newest)
    assert case.run() == 0
    assert "resuming at step 8 of 20" in case.err
    assert case.weights() == undisturbed.weights()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip(f"cannot mount a small file system here: {mount.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass


@pytest.mark.parametrize("logs", [False, True], ids=["checkpoint", "log"])
def test_a_full_disk_ends_the_run_with_a_line_and_costs_nothing(
    small_disk: Path, undisturbed: Case, logs: bool
) -> None:
    case = Case(small_disk)

    def full() -> None:
        if logs:  # its next line begins a new block
            with open(case.out / "log.jsonl", "a") as log:
                log.write(" " * (4095 - log.tell() % 4096) + "\n")
        fill(small_disk / "ballast")

    assert case.run(hook=at_step(6, full)) == 1
    assert "No space left on device" in case.err, case.err
    lines = [line for line in case.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "0 bytes free of 67108864" in lines[0]
    assert "Traceback" not in case.err
    assert [p.name for p in checkpoints(case.out)] == ["step_00000004.pt"]
    assert not list(case.out.rglob(".*.tmp*"))
    assert (f"{case.out}/log.jsonl: cannot be written" in lines[0]) == logs
    (small_disk / "ballast").unlink()
    assert case.run() == 0, case.err
    assert case.weights() == undisturbed.weights()


def test_a_second_process_is_refused_and_a_dead_one_gives_way(case: Case, undisturbed: Case) -> None:
    first = case.start(hook=at_step(6, lambda: time.sleep(60)))
    while not checkpoints(case.out):
        time.sleep(0.01)
    second = Child(case.folder / "second.txt", *COMMAND, "--out", case.out)
    assert second.wait() == 2
    assert f"is in use by process {first.pid} on " in second.err
    status = json.loads((case.out / "status.json").read_text())
    assert (status["state"], status["pid"]) == ("running", first.pid)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert case.run() == 0
    assert f"was in use by process {first.pid} on " in case.err
    assert case.weights() == undisturbed.weights()


def short_memory(images: int) -> Hook:
    """More than `images` at once do not fit: the step asks the CPU's allocator for what no machine has."""

    def hook() -> None:
        prepare = PretrainingTask.prepare_batch

        def faulty(self: PretrainingTask, batch: list[torch.Tensor]) -> torch.Tensor:
            if len(batch[0]) > images:
                torch.empty(1 << 50)
            return prepare(self, batch)

        PretrainingTask.prepare_batch = faulty  # type: ignore

    return hook


def test_short_memory_halves_the_micro_batch_and_keeps_the_batch(tmp_path: Path) -> None:
    case, wanted = (Case(tmp_path / name) for name in ("a", "b"))
    for folder in (case, wanted):
        folder.folder.mkdir()
    assert wanted.run("--set", "train.micro_batch_size=2") == 0
    assert case.run(hook=short_memory(2)) == 0
    assert case.weights() == wanted.weights()
    assert case.record()["recovered"] == {"oom_halvings": 2}
    assert "out of memory at step 0: micro batches of 4 images from there on, not 8" in case.record()["warnings"]
    assert case.record()["job_id"] == wanted.record()["job_id"]


def test_memory_too_short_for_one_image_is_said(case: Case) -> None:
    assert case.run(hook=short_memory(0)) == 1
    assert "error: the device's memory is too small for a micro batch of one image" in case.err


def poison(step: int, until: int, *, once: bool) -> Hook:
    """Images of some steps are not numbers; `once`: until the run went back."""

    def hook() -> None:
        prepare, take, back = PretrainingTask.prepare_batch, Trainer.step, Trainer.roll_back
        now, spent = [0], [False]

        def faulty(self: PretrainingTask, batch: list[torch.Tensor]) -> torch.Tensor:
            pixels = prepare(self, batch)
            return pixels * torch.nan if step <= now[0] < until and not spent[0] else pixels

        def noted(self: Trainer, at: int, batches: list[Any]) -> Any:
            now[0] = at
            return take(self, at, batches)

        def gone_back(self: Trainer, saved: Any) -> None:
            spent[0] = once
            back(self, saved)

        PretrainingTask.prepare_batch = faulty  # type: ignore
        Trainer.step, Trainer.roll_back = noted, gone_back  # type: ignore

    return hook


def leave_out(step: int) -> Hook:
    """What a skipped step should come to: it is not taken at all."""

    def hook() -> None:
        take = Trainer.step

        def without(self: Trainer, now: int, batches: list[Any]) -> Any:
            if now == step:
                return {"loss": torch.tensor(0.0)}, torch.tensor(True)
            return take(self, now, batches)

        Trainer.step = without  # type: ignore

    return hook


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path: Path) -> None:
    case, wanted = (Case(tmp_path / name) for name in ("a", "b"))
    for folder in (case, wanted):
        folder.folder.mkdir()
    assert wanted.run(hook=leave_out(9)) == 0
    assert case.run(hook=poison(9, 10, once=False)) == 0
    assert case.weights() == wanted.weights()
    assert case.record()["recovered"] == {"skipped_steps": 1}
    assert "loss or gradient not finite at step 9 (" in case.record()["warnings"][0]


def test_many_such_steps_lead_back_to_a_checkpoint_and_other_batches(tmp_path: Path) -> None:
    case, wanted = (Case(tmp_path / name) for name in ("a", "b"))
    for folder in (case, wanted):
        folder.folder.mkdir()

    def reshuffled() -> None:
        make: Any = BatchPlan.make
        BatchPlan.make = staticmethod(lambda *a: make(*a).reshuffled_at([8]))  # type: ignore

    limit = ("--set", "train.max_skipped_steps=4")
    assert wanted.run(*limit, hook=reshuffled) == 0
    assert case.run(*limit, hook=poison(9, 20, once=True)) == 0, case.err
    assert case.weights() == wanted.weights()
    assert case.record()["recovered"] == {"skipped_steps": 5, "rollbacks": 1}
    assert case.steps_logged() == list(range(2, 21, 2))


def test_a_loss_that_stays_not_finite_ends_in_one_line(case: Case) -> None:
    assert case.run("--set", "train.max_skipped_steps=4", hook=poison(9, 20, once=False)) == 1
    (line,) = (line for line in case.err.splitlines() if line.startswith("error: "))
    assert "3 returns to an earlier checkpoint with other batches did not help" in line
    assert [p.name for p in checkpoints(case.out)][-1] == "step_00000008.pt"


def test_a_data_worker_that_dies_is_named_and_nothing_is_lost(case: Case, undisturbed: Case) -> None:
    def hook() -> None:
        read, mine = SeededDataset.__getitem__, os.getpid()
        seen: list[int] = []

        def faulty(self: SeededDataset, key: tuple[int, int]) -> Any:
            seen.append(1)
            if os.getpid() != mine and len(seen) == 75:
                send(signal.SIGKILL)()
            return read(self, key)

        SeededDataset.__getitem__ = faulty  # type: ignore
        SeededDataset.__getitems__ = lambda self, keys: [self[key] for key in keys]  # type: ignore

    assert case.run("--set", "train.workers=1", hook=hook) == 1
    (line,) = (line for line in case.err.splitlines() if line.startswith("error: "))
    assert "data worker (pid " in line
    # The first where torch had the system's report of it, the second where it found the worker gone before that.
    assert "ended by a signal (Killed)" in line or "ended unexpectedly" in line
    assert "most likely by the system, for want of memory" in line
    assert "the same command goes on" in line
    assert case.run() == 0
    assert case.weights() == undisturbed.weights()
