"""``speed.json``: what `mae-bench speed` measured, onto the disk and back. Measuring is `mae_bench.speed`'s."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backbones import atomic
from backbones.errors import UserError
from backbones.plain_files import JSON_LIMIT, parse_json, read_plain

FILE_NAME = "speed.json"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timing:
    """A row of Table 2: what was measured, and what follows for the whole schedule on this machine."""

    encoder_mask_tokens: bool
    decoder_depth: int
    images_per_s: float
    hours: float  # for `Speed.epochs` on `Speed.images` images
    speedup: float  # against the first row
    flops_per_image: int  # of a step, forward and backward (`mae_bench.engine.flops`)


@dataclass(frozen=True)
class Speed:
    """Table 2 of one architecture on one machine."""

    arch: str
    recipe_name: str
    device: str
    precision: str
    compiled: bool
    batch_size: int
    steps: int
    epochs: float
    images: int  # in an epoch
    software: dict[str, str]
    rows: tuple[Timing, ...]


def write(speed: Speed, folder: Path) -> None:
    """``folder/speed.json``, in one go."""
    atomic.write_json(folder / FILE_NAME, asdict(speed))


def read(path: Path) -> Speed:
    """The file's content.

    Raises:
        UserError: it cannot be read, or is none of ours.
    """
    try:
        raw = parse_json(read_plain(path, JSON_LIMIT))
        speed = Speed(**{**raw, "rows": tuple(Timing(**row) for row in raw["rows"])})
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a file of `mae-bench speed`: remove it and measure again") from error
    if not _sound(speed):
        raise UserError(f"{path}: not a file of `mae-bench speed` (figures): remove it and measure again")
    return speed


def find(folder: str | os.PathLike[str]) -> list[tuple[Path, Speed]]:
    """All below a folder, in the order of their paths; what cannot be read is logged as a warning."""
    found = []
    for path in sorted(Path(folder).rglob(FILE_NAME)):
        try:
            found.append((path, read(path)))
        except UserError as error:
            log.warning("left out: %s", error)
    return found


def _sound(speed: Speed) -> bool:
    texts = (speed.arch, speed.device, speed.precision, speed.recipe_name)
    figures = [speed.epochs, speed.images, speed.batch_size, speed.steps]
    for row in speed.rows:
        figures += [row.decoder_depth, row.images_per_s, row.hours, row.speedup, row.flops_per_image]
    return all(isinstance(text, str) for text in texts) and all(map(_positive, figures))


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0
