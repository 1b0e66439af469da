"""Which files are images, by their names and, where those do not tell, by their first bytes. Nothing is decoded here."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Literal

from PIL import features

Kind = Literal["image", "unknown_format", "not_image"]

# What PIL decodes of what photographs come in; torchvision's ImageFolder has some fewer, timm's reader three.
_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".mpo"),
)
# Images to people, but not to this reader: leaving them out in silence would be another data set.
_OTHERS = frozenset(
    (
        *(".heic", ".heif", ".jxl", ".psd", ".svg", ".eps", ".exr", ".hdr", ".tga", ".ico", ".pcx", ".xcf"),
        *(".qoi", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf"),
    )
)
# Plainly something else: not worth looking into.
_NO_IMAGES = frozenset(
    (
        *(
            ".txt",
            ".csv",
            ".tsv",
            ".json",
            ".jsonl",
            ".xml",
            ".yaml",
            ".yml",
            ".md",
            ".html",
            ".log",
            ".pdf",
            ".doc",
            ".docx",
        ),
        *(
            ".zip",
            ".tar",
            ".gz",
            ".tgz",
            ".bz2",
            ".xz",
            ".7z",
            ".rar",
            ".parquet",
            ".arrow",
            ".npy",
            ".npz",
            ".mat",
            ".h5",
        ),
        *(".py", ".ipynb", ".sh", ".m", ".pkl", ".pt", ".pth", ".db", ".ini", ".cls", ".lnk", ".url", ".mp4", ".avi"),
        *(".mov"),
    )
)
_TOOLS = frozenset(
    (
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "__macosx",
        "@eadir",
        "#recycle",
        "@recycle",
        "$recycle.bin",
        "lost+found",
    )
) | {"system volume information", "__pycache__"}

HEAD = 32  # bytes that `by_content` wants


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name (no path) is hidden, or a tool's own: nobody put it there as data."""
    return name[:1] == "." or name.lower() in _TOOLS


@cache
def readable() -> frozenset[str]:
    """Suffixes, in small letters, of images that can be decoded here."""
    return frozenset((*_SUFFIXES, *([".avif"] if features.check("avif") else [])))


def kind_of(name: str, head: Callable[[], bytes]) -> Kind:
    """What a file is: by its suffix, or where that says nothing (none, ``.jpg_large``, ``.img``) by its first bytes.

    Args:
        head: gives the first `HEAD` bytes; asked for only where the name does not tell.
    """
    suffix = os.path.splitext(name)[1].lower()
    if suffix in readable():
        return "image"
    if suffix in _OTHERS or suffix == ".avif":
        return "unknown_format"
    return "not_image" if suffix in _NO_IMAGES else by_content(head())


def by_content(head: bytes) -> Kind:
    """What the first bytes of a file say, by the formats' signatures."""
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")):
        return "image"
    if head.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return "image"
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0" and head[14:15] in (b"\x0c", b"\x28", b"\x6c", b"\x7c"):
        return "image"  # the two reserved fields are 0, and the size of the next header is a known one
    if head[:2] in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6") and head[2:3].isspace():
        return "image"
    if head[4:8] == b"ftyp":
        avif = head[8:12] in (b"avif", b"avis")
        return "image" if avif and ".avif" in readable() else "unknown_format"
    if head.startswith((b"8BPS", b"\xff\x0a", b"\0\0\0\x0cJXL ", b"%!PS", b"\x76\x2f\x31\x01", b"qoif")):
        return "unknown_format"
    return "not_image"
