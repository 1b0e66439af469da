"""What a rehearsal says of memory against the peak of real steps on this machine's CPU, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import REPO

CASES = {
    "fine-tuning, activations computed again": (
        "finetune/vit_base_patch16_imagenet",
        *("encoder.arch=vit_tiny_patch16", "encoder.img_size=160", "train.batch_size=32"),
        "train.activation_checkpointing=true",
    ),
    "fine-tuning": (
        "finetune/vit_base_patch16_imagenet",
        *("encoder.arch=vit_tiny_patch16", "encoder.img_size=160", "train.batch_size=8"),
    ),
    "pre-training": (
        "pretrain/vit_base_patch16_imagenet",
        *("encoder.arch=vit_tiny_patch16", "train.batch_size=8", "mae.decoder_depth=2"),
    ),
    "segmentation": (
        "segmentation/vit_base_patch16_ade20k",
        *("encoder.arch=vit_tiny_patch16", "encoder.img_size=160", "train.batch_size=4"),
        *("segmentation.channels=64", "segmentation.slide_stride=107"),
    ),
    "detection": (
        "detection/vit_micro_patch8_coco256",
        *("train.batch_size=4",),
    ),
}
_STEPS = """
import copy, ctypes, gc, json, sys, tempfile
from pathlib import Path
import torch
from mae_bench.engine.optimizer import create_optimizer
from mae_bench.jobs.job import PlannedJob
from mae_bench.recipes.load import load_recipe
from mae_bench.rehearsal.rehearse import Rehearsals
from mae_bench.rehearsal.stand_in import data_for
from tasks import create_task

def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

def measured(recipe, folder):
    real = copy.deepcopy(recipe)
    real.data = data_for(real, Path(folder))
    task = create_task(real)
    task.checkpoint_activations()
    batch = task.rehearse_batch(real.train.batch_size, train=True)
    if real.task == "detection":  # as many objects as fill the share of proposals that get masks, which is what is rehearsed
        objects = batch[0]["instances"]
        objects = type(objects).cat([objects] * (real.detection.roi_batch_per_image // 4))
        batch = [{**record, "instances": objects} for record in batch]
    optimizer = create_optimizer(real, task.param_groups())
    task.model.train()
    for first in (True, False):  # what libraries and kernels set up in a step is not the step's
        if not first:
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            moments = [v for each in optimizer.state.values() for v in each.values()]
            kept = sum(t.nbytes for t in [*moments, *task.model.parameters(), *task.model.buffers()])
            before = status("VmRSS") - kept
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        losses = task.model(task.prepare_batch(batch))
        losses = sum(losses.values()) if isinstance(losses, dict) else losses
        losses.backward()
        del losses
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return status("VmHWM") - before

torch.set_num_threads(1)
ratios = {}
for name, (recipe, *overrides) in json.loads(sys.argv[1]).items():
    asked = load_recipe(recipe, [*overrides, "train.precision=fp32", "train.compile=false", "train.micro_batch_size=null"])
    with tempfile.TemporaryDirectory() as folder:
        taken = measured(asked, folder)
    ratios[name] = Rehearsals(1).step(PlannedJob(recipe, asked)).peak / taken
print(json.dumps(ratios))
"""


@pytest.mark.slow
def test_peak_memory_is_that_of_real_steps_of_every_task() -> None:
    for package in ("detectron2", "mmseg"):
        pytest.importorskip(package)
    # malloc gives large blocks back at once, as it does anyway for blocks above its usual threshold.
    env = {**os.environ, "PYTHONPATH": str(REPO), "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _STEPS, json.dumps(CASES)],
        capture_output=True, text=True, check=False, env=env, cwd=REPO,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ratios = json.loads(done.stdout.splitlines()[-1])
    assert ratios == pytest.approx(dict.fromkeys(CASES, 1), rel=0.15)
