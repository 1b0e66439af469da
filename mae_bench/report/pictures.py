"""Pictures that runs left behind, made small enough to stand in a page: scaled down, JPEG, base64."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from tasks.datasets.pictures import UNREADABLE, open_picture

WIDTH = 960  # pixels; wider pictures are scaled down
MOST_PIXELS = 60_000_000
_BUDGET = 6_000_000  # bytes of all pictures of a page, as base64
_PER_RUN = 8


@dataclass(frozen=True)
class Picture:
    """An image as a page holds it."""

    caption: str
    uri: str
    width: int
    height: int


@dataclass
class Album:
    """Pictures of a page, of bounded size; says what it left out."""

    budget: int = _BUDGET
    left_out: int = 0  # for want of room
    unreadable: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)  # what a run's folder only links to

    def take(self, pictures: Iterable[tuple[str, Path | bytes]], most: int = _PER_RUN) -> list[Picture]:
        """The first `most` (caption, PNG file or its content), as far as the budget goes."""
        taken: list[Picture] = []
        for caption, source in pictures:
            if len(taken) == most or self.budget <= 0:
                self.left_out += 1
                continue
            try:
                picture = shrink(caption, source)
            except UNREADABLE:
                self.unreadable.append(caption)
                continue
            self.budget -= len(picture.uri)
            taken.append(picture)
        return taken


def of_run(run_dir: Path, folder: str, album: Album) -> Sequence[tuple[str, Path]]:
    """(name, file) of the PNG files that a run's evaluation wrote; what lies outside of the run's folder is named in `album`.

    A run's folder may be somebody else's, and the page is sent around: a link in it must not bring pictures of this machine.
    """
    files = [path for path in sorted((run_dir / folder).glob("*.png")) if path.is_file()]
    inside = [path for path in files if is_inside(path, run_dir)]
    album.outside += [f"{run_dir.name}/{path.relative_to(run_dir)}" for path in files if path not in inside]
    return [(path.stem, path) for path in inside]


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a file lies in a folder once all links are followed."""
    return path.resolve().is_relative_to(folder.resolve())


def shrink(caption: str, source: Path | bytes) -> Picture:
    """A picture at most `WIDTH` wide, on white where it is transparent.

    Raises:
        UNREADABLE: it is none, or too large.
    """
    with open_picture(source) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels")
        image.load()
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        picture = image.convert("RGB")
    if picture.width > WIDTH:
        size = (WIDTH, max(1, round(picture.height * WIDTH / picture.width)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=84, optimize=True)
    uri = "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
    return Picture(caption, uri, picture.width, picture.height)
