"""What a run prints and logs: progress bar on stderr, ``log.jsonl``, TensorBoard. stdout stays for results."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

console = Console(stderr=True, highlight=False)

_PLAIN_SECONDS = 15.0  # between progress lines where stderr is no terminal


class RunLog:
    """Progress and logs of one `fit`; silent on processes that are not the main one."""

    def __init__(self, run_dir: Path, name: str, total: int, start: int, *, active: bool) -> None:
        self.name, self.total, self.active = name, total, active
        self._last_line = 0.0
        self._live = active and console.is_terminal
        if not active:
            return
        self._jsonl = open(run_dir / "log.jsonl", "a", buffering=1)  # noqa: SIM115 (closed in close)
        self._tensorboard = SummaryWriter(str(run_dir / "tensorboard"), purge_step=start)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._live,
        )
        self._task: TaskID = self._bar.add_task(name, total=total, completed=start, detail="")
        self._bar.start()

    def step(self, step: int) -> None:
        """Moves the bar."""
        if self.active and self._live:
            self._bar.update(self._task, completed=step)

    def train(self, step: int, epoch: float, values: dict[str, float], seconds_left: float) -> None:
        """Losses, lr and images/s of a logging interval."""
        if not self.active:
            return
        self._write("train", step, epoch, values)
        detail = f"loss {values['loss']:.4f}  lr {values['lr']:.2e}  {values['images_per_s']:.0f} images/s"
        if self._live:
            self._bar.update(self._task, completed=step, detail=detail)
        elif time.monotonic() - self._last_line > _PLAIN_SECONDS:
            self._last_line = time.monotonic()
            left = time.strftime("%H:%M:%S", time.gmtime(seconds_left))
            console.print(f"{self.name}  {step}/{self.total}  {detail}  {left} left", soft_wrap=True)

    def evaluation(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        """Metrics of an evaluation."""
        if self.active:
            self._write("val", step, epoch, metrics)

    def message(self, text: str) -> None:
        """A line for people."""
        say(text)

    def close(self) -> None:
        if self.active:
            self._bar.stop()
            self._tensorboard.close()
            self._jsonl.close()

    def _write(self, kind: str, step: int, epoch: float, values: dict[str, float]) -> None:
        line: dict[str, Any] = {"kind": kind, "step": step, "epoch": round(epoch, 4), **values}
        self._jsonl.write(json.dumps(line) + "\n")
        for name, value in values.items():
            self._tensorboard.add_scalar(f"{kind}/{name}", value, step)


def say(text: str, style: str | None = None) -> None:
    """A line on stderr, from the main process only."""
    if PartialState().is_main_process:
        console.print(text, style=style, markup=False, soft_wrap=True)
