"""What a rehearsal says of memory against the peak of real steps on this machine's CPU, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import REPO

CASES = {
    "finetune/vit_base_patch16_imagenet activations computed again": [
        *("encoder.arch=vit_tiny_patch16", "train.batch_size=32", "train.activation_checkpointing=true"),
    ],
    "finetune/vit_base_patch16_imagenet": ["encoder.arch=vit_tiny_patch16", "train.batch_size=16"],
    "pretrain/vit_base_patch16_imagenet": [
        "encoder.arch=vit_small_patch16",
        "train.batch_size=8",
        "mae.decoder_depth=2",
    ],
    "segmentation/vit_base_patch16_ade20k": [
        *("encoder.arch=vit_tiny_patch16", "encoder.img_size=256", "train.batch_size=4"),
        *("segmentation.channels=64", "segmentation.slide_stride=170"),
    ],
}
_STEPS = """
import copy, gc, sys, tempfile
from pathlib import Path
import torch
from mae_bench.engine.optimizer import create_optimizer
from mae_bench.jobs.job import PlannedJob
from mae_bench.recipes.load import load_recipe
from mae_bench.rehearsal.rehearse import Rehearsals
from mae_bench.rehearsal.stand_in import data_for
from tasks import create_task, load, spec

def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

torch.set_num_threads(1)
recipe = load_recipe(sys.argv[1], [*sys.argv[2:], "train.precision=fp32", "train.compile=false", "train.micro_batch_size=null"])
with tempfile.TemporaryDirectory() as folder:
    real = copy.deepcopy(recipe)
    real.data = data_for(real, Path(folder))
    load(spec(real.task).build)  # its packages are not the step's
    sample = torch.rand(8, 3, 64, 64, requires_grad=True)
    torch.nn.functional.conv2d(sample, torch.rand(8, 3, 3, 3)).sum().backward()  # nor is what kernels set up
    gc.collect()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    task = create_task(real)
    task.checkpoint_activations()
    batch = task.rehearse_batch(real.train.batch_size, train=True)
    optimizer = create_optimizer(real, task.param_groups())
    task.model.train()
    for _ in range(2):
        losses = task.model(task.prepare_batch(batch))
        losses = sum(losses.values()) if isinstance(losses, dict) else losses
        losses.backward()
        del losses
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    measured = status("VmHWM") - before
print(Rehearsals(1).step(PlannedJob(sys.argv[1], recipe)).peak / measured)
"""


@pytest.mark.slow
@pytest.mark.parametrize("recipe", CASES)
def test_peak_memory_is_that_of_real_steps(recipe: str) -> None:
    if recipe.startswith("segmentation"):
        pytest.importorskip("mmseg")
    # malloc gives large blocks back at once, as it does anyway for blocks above its usual threshold.
    env = {**os.environ, "PYTHONPATH": str(REPO), "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _STEPS, recipe.split()[0], *CASES[recipe]],
        capture_output=True, text=True, check=False, env=env, cwd=REPO,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) == pytest.approx(1, rel=0.15)
