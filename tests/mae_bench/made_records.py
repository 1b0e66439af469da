"""Records for tests: the figures are made up, to test arithmetic and layout; no test calls them results."""

from __future__ import annotations

import hashlib
from typing import Any

from mae_bench.records.record import Data, Device, Git, Init, Metrics, Record

EMBEDDED = Data(
    name="embedded", root="/cache/embedded", train_count=2000, val_count=500, classes=10, fingerprint="e" * 64
)
IMAGENET = Data(
    name="imagenet", root="/data/imagenet", train_count=1281167, val_count=50000, classes=1000, fingerprint="1" * 64
)
COCO = Data(name="coco", root="/data/coco", train_count=117266, val_count=5000, classes=80, fingerprint="c" * 64)
LVIS = Data(name="lvis", root="/data/lvis", train_count=99388, val_count=19809, classes=1203, fingerprint="b" * 64)
ADE20K = Data(name="ade20k", root="/data/ade", train_count=20210, val_count=2000, classes=150, fingerprint="a" * 64)


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def make(method: str = "MAE", protocol: str = "finetune", seed: int = 0, **changes: Any) -> Record:
    """A finished run of a micro ViT on the embedded set, with `changes`; `metrics` may be a plain dictionary."""
    tasks = {"pretrain": "pretraining", "detection_fpn": "detection", "lvis": "detection"}
    tasks |= {"detection": "detection", "segmentation": "segmentation", "segmentation_frozen": "segmentation"}
    tasks |= {"knn": "probing", "probe": "probing"}
    task = tasks.get(protocol, "classification")
    defaults = {"detection": {"box_ap": 31.5, "mask_ap": 28.25}, "segmentation": {"mIoU": 40.0}}
    metrics = changes.pop("metrics", defaults.get(task, {"top1": 68.6, "top5": 95.0}))
    recipe_hash = changes.pop("recipe_hash", digest("recipe", protocol, method == "scratch"))
    sha256 = None if method == "scratch" else changes.pop("sha256", digest("weights", method))
    values: dict[str, Any] = {
        "name": f"{protocol}-{method}-seed{seed}",
        "task": task,
        "protocol": protocol,
        "status": "done",
        "arch": "vit_micro_patch8",
        "img_size": 48,
        "init": Init(method=method, checkpoint=sha256 and "pretrain/encoder.safetensors", sha256=sha256, layout=None),
        "metrics": metrics if isinstance(metrics, Metrics) else Metrics(last=metrics),
        "primary_metric": next(iter(metrics)) if isinstance(metrics, dict) else "top1",
        "seed": seed,
        "data": EMBEDDED,
        "recipe": {
            "task": task,
            **({"train": {"batch_size": 64}} if changes.get("data", EMBEDDED) is EMBEDDED else {}),
        },
        "recipe_name": f"{protocol}/vit_micro",
        "recipe_hash": recipe_hash,
        "software": {"python": "3.11.7", "torch": "2.14.1"},
        "git": Git(commit="0123456789abcdef" * 2 + "01234567", dirty=False),
        "device": Device(name="a processor", count=1, type="cpu"),
        "precision": "fp32",
        "images_per_s": 950.0,
        "peak_memory_bytes": 1 << 30,
        "device_hours": 0.05,
        "wall_time_s": 180.0,
        "started": f"2026-11-23T18:{seed % 60:02d}:00+00:00",
        "finished": f"2026-11-23T19:{seed % 60:02d}:00+00:00",
        "final_loss": 0.7,
        "checkpoints": ["checkpoints/last"],
    }
    values.update(changes)
    data = values["data"]
    values.setdefault(
        "job_id",
        digest(method, protocol, values["arch"], values["img_size"], seed, recipe_hash, sha256, data.fingerprint),
    )
    return Record(**values)
