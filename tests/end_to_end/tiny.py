"""Overrides that make shipped recipes small enough for tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

DATA = ("pretrain_count=200", "train_count=80", "val_count=21", "scene_train_count=12", "scene_val_count=5")
EMBEDDED = [a for option in DATA for a in ("--set", f"data.options.{option}")]
FEW_STEPS = [
    *("--set", "train.batch_size=20", "--set", "schedule.epochs=2", "--set", "schedule.warmup_epochs=0"),
    *("--set", "train.workers=0", "--set", "train.log_every_steps=2"),
]
PRETRAIN = ["pretrain", "pretrain/vit_micro_patch8_embedded", *EMBEDDED, *FEW_STEPS]


def spawn(*arguments: object, processes: int = 1) -> subprocess.Popen[str]:
    """The command line as a process of its own, under torchrun when there are several."""
    launcher = [sys.executable, "-m"]
    if processes > 1:
        launcher += ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
    return subprocess.Popen(
        [*launcher, "mae_bench", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def checkpoints(run_dir: Path) -> list[Path]:
    """Complete checkpoints under a folder."""
    return sorted(run_dir.rglob("checkpoints/step_*.pt"))
