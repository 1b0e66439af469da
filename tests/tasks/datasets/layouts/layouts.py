"""Class folders of tests in the other layouts that data sets are distributed in: tars, parquet, shards, json, lists."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SPLIT_NAMES = {"train": "train", "val": "validation"}  # as Hugging Face and timm name them


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(folders: Path, split: str) -> list[tuple[str, int, Path]]:
    """(class, index, file) of class folders, in order."""
    classes = sorted(path.name for path in (folders / split).iterdir())
    return [
        (name, i, file) for i, name in enumerate(classes) for file in sorted((folders / split / name).glob("*.jpg"))
    ]


def tars_of_classes(folders: Path, root: Path, split: str = "train") -> list[Path]:
    """``root/CLASS.tar``, flat inside, as ILSVRC2012_img_train.tar holds them."""
    return [
        write_tar(root / f"{c.name}.tar", [(f"{c.name}_{f.name}", f.read_bytes()) for f in sorted(c.glob("*.jpg"))])
        for c in sorted((folders / split).iterdir())
    ]


def tar_of_tars(folders: Path, path: Path, split: str = "train") -> Path:
    """ILSVRC2012_img_train.tar: a tar a class in one tar."""
    inner = tars_of_classes(folders, path.parent / "inner", split)
    return write_tar(path, [(tar.name, tar.read_bytes()) for tar in inner])


def parquet(
    folders: Path, root: Path, split: str, shards: int = 2, names: bool = True, group: int = 2, **columns: Any
) -> list[Path]:
    """``root/data/train-00000-of-00002.parquet``, with `datasets`' metadata; `columns` override what is written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = samples(folders, split)
    features: dict[str, Any] = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel"}}
    features["label"]["names"] = sorted({name for name, _, _ in rows})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    written = []
    for k in range(shards):
        part = rows[k::shards]
        content = {
            "image": [{"bytes": file.read_bytes(), "path": f"{name}_{file.name}"} for name, _, file in part],
            "label": [label for _, label, _ in part],
            **{key: [value] * len(part) for key, value in columns.items()},
        }
        table = pa.table(content).replace_schema_metadata(metadata)
        written.append(root / "data" / f"{SPLIT_NAMES[split]}-{k:05d}-of-{shards:05d}.parquet")
        written[-1].parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, written[-1], row_group_size=group)
    return written


def shards(folders: Path, root: Path, split: str, count: int = 2, prefix: str = "") -> list[Path]:
    """``root/PREFIXtrain-000000.tar`` with key.cls, key.jpg and key.json beside one another."""
    rows = samples(folders, split)
    written = []
    for k in range(count):
        members: list[tuple[str, bytes]] = []
        for name, label, file in rows[k::count]:
            key = f"{name}_{file.stem}"
            members += [(f"{key}.cls", str(label).encode()), (f"{key}.jpg", file.read_bytes())]
            members += [(f"{key}.json", json.dumps({"label": label}).encode())]
        written.append(write_tar(root / f"{prefix}{SPLIT_NAMES[split]}-{k:06d}.tar", members))
    return written


def inaturalist(folders: Path, root: Path, split: str, year: int = 2018) -> Path:
    """``root/train2018.json`` with images under ``train_val2018/``; ids have gaps and categories come in any order."""
    rows = samples(folders, split)
    images, annotations = [], []
    for k, (name, label, file) in enumerate(rows):
        place = f"train_val{year}/Animalia/{name}/{split}_{file.name}"
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(file.read_bytes())
        images.append({"id": 10 + 3 * k, "file_name": place, "width": 40, "height": 32})
        annotations.append({"id": k, "image_id": 10 + 3 * k, "category_id": label})
    categories = [{"id": label, "name": name} for name, label in {(name, label) for name, label, _ in rows}]
    content = {"info": {}, "images": images, "annotations": annotations[::-1], "categories": categories}
    path = root / f"{split}{year}.json"
    path.write_text(json.dumps(content))
    return path


def places365(folders: Path, root: Path, split: str) -> Path:
    """``places365_train_standard.txt`` with leading slashes, ``places365_val.txt`` without folders; 256 px archives."""
    lines = []
    for k, (name, label, file) in enumerate(samples(folders, split)):
        path = f"/{name[0]}/{name}/{file.name}" if split == "train" else f"Places365_val_{k + 1:08d}.jpg"
        place = root / ("data_256_standard" if split == "train" else "val_256") / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())
        lines.append(f"{path} {label}")
    listing = root / ("places365_train_standard.txt" if split == "train" else "places365_val.txt")
    listing.write_text("\n".join(lines) + "\n")
    return listing


def places205(folders: Path, root: Path, split: str) -> Path:
    """``trainvalsplit_places205/train_places205.csv`` and the images where the archive puts them."""
    lines = []
    for name, label, file in samples(folders, split):
        path = f"{name[0]}/{name}/{split}_{file.name}"
        place = root / "data/vision/torralba/deeplearning/images256" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())
        lines.append(f"{path} {label}")
    listing = root / "trainvalsplit_places205" / f"{split}_places205.csv"
    listing.parent.mkdir(exist_ok=True)
    listing.write_text("\n".join(lines) + "\n")
    return listing
