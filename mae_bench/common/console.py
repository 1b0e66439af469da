"""What goes to people: stderr. stdout stays for results."""

from __future__ import annotations

import torch
from accelerate import PartialState
from rich.console import Console

console = Console(stderr=True, highlight=False)


def processes() -> PartialState:
    """Which of how many processes this is. Told of the CPU: else Accelerate takes processes without a GPU for single ones."""
    return PartialState(cpu=not torch.cuda.is_available())


def say(text: str, style: str | None = None) -> None:
    """A line on stderr, from the main process only."""
    if processes().is_main_process:
        console.print(text, style=style, markup=False, soft_wrap=True)
