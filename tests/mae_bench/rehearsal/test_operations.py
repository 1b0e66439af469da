"""A rehearsal counts the operations that torch's own counter sees in a real step on this machine, for every task."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mae_bench.jobs.job import PlannedJob
from mae_bench.recipes.load import load_recipe
from mae_bench.rehearsal import rehearse
from mae_bench.rehearsal.stand_in import data_for
from tasks import create_task

IMAGES = 4
MORE = {"detection": ["detection.rel_pos=false"]}  # whose positions a CPU adds by other products than a GPU


@pytest.mark.slow
@pytest.mark.parametrize("task", ["pretrain", "finetune", "detection", "segmentation"])
def test_operations_are_those_of_a_real_step(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of detection those of what is rehearsed: how many proposals a real step draws hangs on values."""
    pytest.importorskip({"detection": "detectron2", "segmentation": "mmseg"}.get(task, "torch"))
    monkeypatch.setattr(rehearse, "FusedAttention", nullcontext)  # plain products, which both count alike
    recipe = load_recipe(f"{task}/vit_micro_patch8_embedded", [f"train.batch_size={IMAGES}", *MORE.get(task, [])])
    found = rehearse.Rehearsals(1).step(PlannedJob(task, recipe))
    real = copy.deepcopy(recipe)
    real.data = data_for(real, tmp_path)
    made = create_task(real)
    made.model.train()
    batch = made.prepare_batch(made.rehearse_batch(IMAGES, train=True))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        losses = made.rehearse_losses(batch) if task == "detection" else made.model(batch)
        (sum(losses.values()) if isinstance(losses, dict) else losses).backward()
    assert found.operations * IMAGES == counter.get_total_flops() > 0
