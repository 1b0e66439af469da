"""What libraries warn of: into the run's folder, not onto the terminal. What this project says goes to stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mae_bench.common.text import visible

FILE_NAME = "warnings.log"
_OWN = ("mae_bench", "tasks", "backbones")


class _Handler(logging.Handler):
    """Own messages to stderr; those of libraries to `path` while a run is under way, and to stderr where `shown`."""

    path: Path | None = None
    shown = False

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        own = record.name.partition(".")[0] in _OWN
        if own or self.shown:
            print(visible(text), file=sys.stderr)
        if not own and self.path is not None:
            with suppress(OSError), open(self.path, "a", encoding="utf-8") as file:
                file.write(f"{record.name}: {text}\n")


_handler = _Handler(logging.WARNING)


@contextmanager
def library_warnings_kept() -> Iterator[None]:
    """While this lasts, warnings of libraries (Python's and their loggers') are kept from the terminal."""
    root = logging.getLogger()
    root.addHandler(_handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(_handler)
        _handler.shown = False


def show_library_warnings() -> None:
    """They come to stderr, too: for ``--debug``."""
    _handler.shown = True


@contextmanager
def written_to(folder: Path) -> Iterator[None]:
    """While this lasts, they are written to ``warnings.log`` in `folder`, where `library_warnings_kept` is on."""
    _handler.path = folder / FILE_NAME
    try:
        yield
    finally:
        _handler.path = None
