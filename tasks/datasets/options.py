"""What a user may say of a layout where it does not say so itself: ``--set data.options.label=json:label``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

from backbones.errors import UserError, unknown
from tasks.datasets.decoding import WHITE
from tasks.recipe import DataConfig

_OF_OTHERS = ("real_json",)  # an option of `tasks.classification.robustness`


@dataclass(frozen=True)
class LayoutOptions:
    """Options of labelled images' layouts.

    Attributes:
        image: the image among several of a sample: a field of shards such as ``jpg``, or a column of Parquet files.
        label: where labels are: a field of shards (``cls``, ``txt``, ``json:KEY``), or a column of Parquet files.
        first_label: the number of the first class in lists, shards and Parquet files.
        outside: a list may name files outside the data folder.
        white: ``data.white_level``, which is a key of its own.
    """

    image: str | None = None
    label: str | None = None
    first_label: int = 0
    outside: bool = False
    white: int = WHITE


def check_options(data: DataConfig, read: Sequence[str] | None = None) -> None:
    """A UserError for ``data.options`` that nobody reads or that are of another kind.

    Args:
        read: texts that the task's own layout reads, and ``outside``; None for labelled images' layouts.
    """
    if data.name == "embedded" and data.root is None:
        # Kept out of module scope: other data sets need nothing of it.
        from tasks.datasets.embedded.config import EmbeddedConfig

        EmbeddedConfig.of(data.options)
    elif read is None:
        layout_options(data)
    elif data.name != "embedded":
        for key, value in data.options.items():
            if key not in read:
                raise unknown("option", key, read, where="data.options")
            if key == "outside" and not isinstance(value, bool):
                raise UserError(f"data.options.outside={value}: give true or false")
            if key != "outside" and not (value and isinstance(value, str)):
                raise UserError(f"data.options.{key}={value}: give a path")


def layout_options(data: DataConfig) -> LayoutOptions:
    """``data.options`` of a data set on disk; the embedded one's are its maker's.

    Raises:
        UserError: an option that nobody reads, or a value of another type.
    """
    if data.name == "embedded" and data.root is None:
        return LayoutOptions(white=data.white_level)
    known = [option.name for option in fields(LayoutOptions) if option.name != "white"]
    for key in _OF_OTHERS:
        if not isinstance(data.options.get(key, ""), str):
            raise UserError(f"data.options.{key}={data.options[key]}: give a path")
    given = {key: value for key, value in data.options.items() if key not in _OF_OTHERS}
    for key, value in given.items():
        if key not in known:
            raise unknown("option", key, known, where="data.options")
        if key == "first_label":
            if value not in (0, 1) or isinstance(value, bool):
                raise UserError(f"data.options.first_label={value}: give 0 or 1")
        elif key == "outside":
            if not isinstance(value, bool):
                raise UserError(f"data.options.outside={value}: give true or false")
        elif not isinstance(value, str) or not re.fullmatch(r"\S.*", value):
            raise UserError(f"data.options.{key}={value}: give a name, such as {'jpg' if key == 'image' else 'cls'}")
    return LayoutOptions(**given, white=data.white_level)
