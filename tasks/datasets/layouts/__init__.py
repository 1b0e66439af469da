"""The layouts that labelled images are distributed in, one module each; `tasks.datasets.images` is what tasks use."""

from tasks.datasets.layouts.find import open_reader
from tasks.datasets.layouts.reader import Reader

__all__ = ["Reader", "open_reader"]
