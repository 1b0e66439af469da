"""The layouts that labelled images are distributed in, one module each; `tasks.images` is what tasks use."""

from tasks.imagesets.find import open_reader
from tasks.imagesets.reader import Reader

__all__ = ["Reader", "open_reader"]
