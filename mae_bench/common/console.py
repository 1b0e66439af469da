"""What goes to people: stderr. stdout stays for results."""

from __future__ import annotations

import os
from contextvars import ContextVar

from accelerate import PartialState

from mae_bench.common.rendezvous import join
from mae_bench.common.terminal import shown_on
from tasks.progress import console

__all__ = ["console", "place_in_plan", "processes", "say"]

place_in_plan: ContextVar[str] = ContextVar("place_in_plan", default="")
"""Such as "job 2/9": which of a plan's jobs runs; progress shows it."""


_ACCELERATE = "ACCELERATE_"


def processes() -> PartialState:
    """Which of how many processes this is, once all of them are there.

    Accelerate's own variables are taken out of the environment first: they would change what is learnt (accumulation,
    precision, compilation) behind the recipe's back.
    """
    ignored = sorted(name for name in os.environ if name.startswith(_ACCELERATE))
    for name in ignored:
        del os.environ[name]
    state = join()
    if ignored and state.is_main_process:
        told = f"ignored from the environment: {', '.join(ignored)}: how a run computes is said by its recipe and --set train.…"
        console.print(shown_on(console.file, told), style="yellow", markup=False, soft_wrap=True)
    return state


def say(text: str, style: str | None = None) -> None:
    """A line on stderr, from the main process only."""
    if processes().is_main_process:
        console.print(shown_on(console.file, text), style=style, markup=False, soft_wrap=True)
