"""However few images there are for the processes: each is evaluated once, by one of them, and nobody waits for ever."""

from __future__ import annotations

import json
import math
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState

import mae_bench.api  # noqa: F401 (children find it imported)
from mae_bench.records.record import Record, find
from tasks import load, require, spec
from tests.end_to_end.forked import Child
from tests.end_to_end.tiny import EMBEDDED

SHORT = "schedule.epochs=1", "schedule.warmup_epochs=0", "train.batch_size=12"
# What is evaluated has to be the same model: detection draws proposals by process, so it learns nothing; of segmentation, whose
# batch norms see a process's images, only that all are there is looked at.
DENSE = (
    *("optimizer.lr=0", "schedule.iterations=1", "schedule.epochs=null", "schedule.warmup_iterations=0"),
    "train.batch_size=12",
)


def command(tasks: str, images: int, out: Path) -> list[str]:
    few = [f"data.options.val_count={images}", f"data.options.scene_val_count={images}", "train.workers=0"]
    short = {"finetune": SHORT, "linear": (*SHORT, "head.batch_norm=false"), "knn": ("knn.k=[5]",)}
    short |= {"detection": DENSE, "segmentation": DENSE}
    few += [f"{task}:{key}" for task, keys in short.items() if task in tasks for key in keys]
    sets = [text for each in few for text in ("--set", each)]
    return ["run", "--scratch", "vit_micro_patch8", "--tasks", tasks, *EMBEDDED, *sets, "--out", str(out)]


def be(monkeypatch: pytest.MonkeyPatch, rank: int, world: int, port: int) -> None:
    # Of a test that ran here before: who has been alone once stays alone, and all would want the run's folder for themselves.
    AcceleratorState._reset_state(reset_partial_state=True)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))


def results(out: Path) -> dict[str, dict[str, Any]]:
    def of(record: Record) -> dict[str, Any]:
        folder = Path(str(record.path)).parent / "predictions"
        if record.task == "segmentation":
            return {"images drawn": len(list(folder.glob("*.png")))}
        figures = {name: math.nan if value is None else value for name, value in record.metrics.last.items()}
        if record.task == "detection":
            found = json.loads((folder / "coco_instances_results.json").read_text())
            figures |= {"images with boxes": len({line["image_id"] for line in found}), "boxes": len(found)}
        return figures

    return {record.task + record.protocol: of(record) for record in find(out)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "images", "tasks"), [(3, 7, "finetune,knn,linear,detection,segmentation"), (4, 2, "knn")]
)
def test_every_image_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, world: int, images: int, tasks: str) -> None:
    for task in ("classification", "probing", *(["detection", "segmentation"] if "detection" in tasks else [])):
        require(task)
        load(spec(task).build)  # here, once for all children
    one = Child(tmp_path / "one.err", *command(tasks, images, tmp_path / "one"))
    assert one.wait(400) == 0, one.err
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared_run = command(tasks, images, tmp_path / "all")
    hooks = [partial(be, monkeypatch, rank, world, port) for rank in range(world)]
    together = [Child(tmp_path / f"{rank}.err", *shared_run, hook=hook) for rank, hook in enumerate(hooks)]
    for child in together:
        assert child.wait(400) == 0, child.err
    alone, shared = results(tmp_path / "one"), results(tmp_path / "all")
    assert len(alone) == tasks.count(",") + 1
    assert {v for each in shared.values() for k, v in each.items() if k.startswith("images")} == {images}
    for name, metrics in alone.items():
        assert shared[name] == pytest.approx(metrics, rel=1e-3, nan_ok=True), name
