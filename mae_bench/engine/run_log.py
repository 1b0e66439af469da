"""What a run prints and logs: progress bar on stderr, ``log.jsonl``, TensorBoard. stdout stays for results."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import rich.progress
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from torch.utils.tensorboard import SummaryWriter

from backbones.atomic import append_to, json_text, write_text
from backbones.plain_files import parse_json, read_plain
from mae_bench.common.console import console, place_in_plan, say
from mae_bench.common.disk import writing
from mae_bench.common.text import visible
from mae_bench.engine.progress import Progress
from tasks.progress import PLAIN_SECONDS


class RunLog:
    """Progress and logs of one `fit`; silent on processes that are not the main one.

    What earlier starts logged beyond the checkpoint that this one goes on from is taken out of ``log.jsonl``: every step is
    there once.
    """

    def __init__(self, run_dir: Path, name: str, total: int, progress: Progress, *, active: bool) -> None:
        self.name, self.total, self.active, self.run_dir = visible(name), total, active, run_dir
        self._last_line = 0.0
        self._live = active and console.is_terminal
        if not active:
            return
        self._open(progress)
        self._bar = rich.progress.Progress(
            TextColumn("{task.fields[place]}"),
            BarColumn(bar_width=8),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            # At 80 columns the ends of these two go, and nothing wraps.
            TextColumn(
                "{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
            ),
            TextColumn("{task.fields[detail]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            console=console,
            expand=True,
            disable=not self._live,
        )
        self._task: TaskID = self._bar.add_task(
            self.name, total=total, completed=progress.step, detail="", place=place_in_plan.get()
        )
        self._evaluation: TaskID | None = None
        self._bar.start()

    def _open(self, progress: Progress) -> None:
        self._path = self.run_dir / "log.jsonl"
        with writing(self._path):
            _cut(self._path, progress)
            self._jsonl = append_to(self._path, buffering=1)
            self._tensorboard = SummaryWriter(str(self.run_dir / "tensorboard"), purge_step=progress.step)

    def step(self, step: int) -> None:
        """Moves the bar."""
        if self.active and self._live:
            self._bar.update(self._task, completed=step)

    def train(self, step: int, epoch: float, values: dict[str, float], seconds_left: float) -> None:
        """Losses, lr and images/s of a logging interval; without losses when all its steps were skipped."""
        if not self.active:
            return
        self._write("train", step, epoch, values)
        loss = f"loss {_short(values['loss'])}" if "loss" in values else "skipped"
        detail = f"{loss}  lr {values['lr']:.2e}  {values['images_per_s']:.0f} images/s"
        left = time.strftime("%H:%M:%S", time.gmtime(seconds_left))
        if self._live:
            self._bar.update(self._task, completed=step, detail=detail)
        else:
            self._line(f"{self.name}  {step}/{self.total}  {detail}  {left} left")

    def evaluating(self, done: int, total: int) -> None:
        """How many images of an evaluation are done."""
        if not self.active:
            return
        if not self._live:
            return self._line(f"{self.name}  evaluation  {done}/{total} images")
        if self._evaluation is None:
            self._evaluation = self._bar.add_task("  evaluation", total=total, detail="images", place="")
        self._bar.update(self._evaluation, completed=done)

    def evaluation(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        """Metrics of an evaluation."""
        if not self.active:
            return
        self._write("val", step, epoch, metrics)
        if self._evaluation is not None:
            self._bar.remove_task(self._evaluation)
            self._evaluation = None

    def rewind(self, progress: Progress, why: str, images: list[str]) -> None:
        """Rewinds the log to `progress`; `images` are those of the batch that caused it."""
        if not self.active:
            return
        self._close_files()
        self._open(progress)
        line = {"kind": "rollback", "step": progress.step, "why": why, "images": images}
        with writing(self._path):
            self._jsonl.write(json_text(line, indent=None) + "\n")
        self.step(progress.step)

    def message(self, text: str) -> None:
        """A line for people."""
        say(text)

    def close(self) -> None:
        """Closes the bar and the files; a full disk has been reported where it occurred."""
        if self.active:
            self._bar.stop()
            self._close_files()

    def _close_files(self) -> None:
        for file in (self._tensorboard, self._jsonl):
            with suppress(OSError):
                file.close()

    def _line(self, text: str) -> None:
        if time.monotonic() - self._last_line > PLAIN_SECONDS:
            self._last_line = time.monotonic()
            console.print(text, markup=False, soft_wrap=True)

    def _write(self, kind: str, step: int, epoch: float, values: dict[str, float]) -> None:
        line: dict[str, Any] = {"kind": kind, "step": step, "epoch": round(epoch, 4), **values}
        with writing(self._path):
            self._jsonl.write(json_text(line, indent=None) + "\n")
            for name, value in values.items():
                self._tensorboard.add_scalar(f"{kind}/{name}", value, step)


def _short(loss: float) -> str:
    """``2.3026``; that of a run that diverges has no room for all its digits."""
    return f"{loss:.4f}" if abs(loss) < 1e5 else f"{loss:.2e}"


def _cut(path: Path, progress: Progress) -> None:
    """Removes lines of later steps, and a torn last line, from the log; metrics missing from `progress` are measured again."""
    if not path.is_file():
        return
    lines = read_plain(path).decode(errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and _stays(line, progress)]
    if kept != lines:
        write_text(path, "".join(kept))


def _stays(line: str, progress: Progress) -> bool:
    try:
        content = parse_json(line)
        step = int(content["step"])
    except (ValueError, KeyError, TypeError):
        return False
    return step <= (progress.evaluated_at if content.get("kind") == "val" else progress.step)
