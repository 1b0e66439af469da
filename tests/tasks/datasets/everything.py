"""A made-up folder with one of everything: what `docs/data.md` shows the account of."""

from __future__ import annotations

import os
from pathlib import Path

from tests.tasks.datasets.layouts import layouts
from tests.tasks.pictures import save_picture, truncate


def make(root: Path) -> Path:
    """``root/{train,val}`` with two classes, and one of everything that people's folders hold; returns `root`."""
    for seed, (split, count) in enumerate((("train", 3), ("val", 2))):
        for c, name in enumerate(("cat", "dog")):
            for i in range(count):
                save_picture(root / split / name / f"{i}.jpg", 100 * seed + 10 * c + i)
    train = root / "train"
    used = ("cat/camera2/a.webp", "dog/a.JPEG", "dog/a.tif", "cat/a.png")
    for seed, name in enumerate(used):
        save_picture(train / name, 200 + seed)
    (train / "cat/a.png").rename(train / "cat/without_suffix")
    save_picture(root / "elsewhere/a.jpg", 300)
    (train / "dog/link.jpg").symlink_to(root / "elsewhere/a.jpg")
    os.link(train / "dog/0.jpg", train / "dog/hard_link.jpg")
    for seed, name in enumerate((".cache/a.jpg", "dog/@eaDir/a.jpg", "stray.jpg", "dog/cut.jpg")):
        save_picture(train / name, 400 + seed)
    truncate(train / "dog/cut.jpg")
    (train / "cat/.DS_Store").write_bytes(b"\0")
    (train / "cat/empty.jpg").write_bytes(b"")
    (train / "cat/notes.txt").write_text("x\n")
    (train / "labels.csv").write_text("path,label\n")
    (train / "cat/phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (train / "cat/gone.jpg").symlink_to("nowhere")
    (train / "cat/up").symlink_to(train)
    os.mkfifo(train / "cat/pipe.jpg")
    (root / "val/cat/copy.jpg").write_bytes((train / "cat/0.jpg").read_bytes())
    return root


def make_broken_tar(root: Path) -> Path:
    """``root/train.tar`` with a damaged header in its middle, and a sound ``root/val.tar``; returns `root`."""
    for split in ("train", "val"):
        members = [(f"{name}/{i}.jpg", b"x" * 700) for name in ("cat", "dog") for i in range(4)]
        tar = layouts.write_tar(root / f"{split}.tar", members)
        if split == "train":
            content = bytearray(tar.read_bytes())
            content[4 * 1536 + 3] ^= 1  # a header and two blocks of content a member
            tar.write_bytes(content)
    return root
