"""What a pre-training step costs: images/s on this machine, hours for a schedule, FLOPs; the paper's Table 2.

The steps are the engine's own (`mae_bench.engine.trainer.Trainer`) on random images that lie on the device: reading data is not
measured, nor are several processes. Peers' models are `benchmarks/`' subject.
"""

from __future__ import annotations

import time
from copy import deepcopy
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch import Tensor

from backbones.errors import UserError
from backbones.mae.model import MaskedAutoencoder
from backbones.vit.arch import parse_arch
from mae_bench.common.console import say
from mae_bench.engine.flops import step_flops_per_image
from mae_bench.engine.loop import create_accelerator
from mae_bench.engine.sampler import BatchPlan
from mae_bench.engine.trainer import Trainer
from mae_bench.jobs.run import make_folder
from mae_bench.recipes.load import describe, load_recipe, recipe_names
from mae_bench.records import provenance
from mae_bench.records import speed as speed_file
from mae_bench.records.speed import Speed, Timing
from mae_bench.tables.definitions.data_sets import IMAGENET
from tasks.base import Task
from tasks.pretraining.config import PretrainingRecipe
from tasks.pretraining.task import create_model, model_param_groups

# Rows of Table 2: mask tokens in the encoder, decoder depth.
CASES = ((True, 8), (False, 8), (False, 1))
_WARMUP_STEPS = 2


class _Step(Task[PretrainingRecipe]):
    """The pre-training task without its data: model and parameter groups, which is what a step takes."""

    def __init__(self, recipe: PretrainingRecipe) -> None:
        super().__init__(recipe)
        self.model: MaskedAutoencoder = create_model(recipe)

    def train_dataset(self) -> NoReturn:
        raise NotImplementedError("steps are measured on random images")

    def param_groups(self) -> list[dict[str, Any]]:
        return model_param_groups(self.model, self.recipe)


def measure(
    arch: str, *, batch_size: int | None = None, steps: int | None = None, epochs: float = 800, out: Path | None = None
) -> Speed:
    """Measures the rows of Table 2 for `arch` on the first GPU, or on the CPU where there is none.

    Args:
        batch_size: images a step; by default 64 on a GPU, 2 on a CPU.
        steps: measured ones, after two that are not; by default 20 on a GPU, 2 on a CPU.
        epochs: length of the schedule, on as many images as ImageNet-1K has.
        out: folder that gets ``speed.json``.

    Raises:
        UserError: no shipped pre-training recipe for `arch`, numbers that are not positive, or a folder that cannot be written.
    """
    parse_arch(arch)
    on_gpu = torch.cuda.is_available()
    batch_size = (64 if on_gpu else 2) if batch_size is None else batch_size
    steps = (20 if on_gpu else 2) if steps is None else steps
    for flag, value in (("--batch-size", batch_size), ("--steps", steps), ("--epochs", epochs)):
        if not value > 0:
            raise UserError(f"{flag} {value}: give a positive number")
    if out is not None:
        make_folder(out)
    name = _recipe_for(arch)
    recipe = cast(PretrainingRecipe, load_recipe(name))
    # Compiling pays on a GPU; on a CPU it takes minutes and a C++ compiler.
    recipe.train.compile &= on_gpu
    recipe.train.batch_size, recipe.train.micro_batch_size = batch_size, None
    rows: list[Timing] = []
    for encoder_mask_tokens, depth in CASES:
        recipe.mae.encoder_mask_tokens, recipe.mae.decoder_depth = encoder_mask_tokens, depth
        rate, flops = _images_per_s(deepcopy(recipe), steps)
        hours = IMAGENET.train_count * epochs / rate / 3600
        speedup = rate / rows[0].images_per_s if rows else 1.0
        rows.append(Timing(encoder_mask_tokens, depth, rate, hours, speedup, flops))
        say(f"{arch} {_label(rows[-1])}: {rate:.1f} images/s, {flops / 1e9:.1f} GFLOPs an image")
    kind = torch.device("cuda" if on_gpu else "cpu")
    speed = Speed(
        arch=arch,
        recipe_name=name,
        device=provenance.device(kind, 1).name,
        precision=recipe.train.precision,
        compiled=recipe.train.compile,
        batch_size=batch_size,
        steps=steps,
        epochs=epochs,
        images=IMAGENET.train_count,
        software=provenance.software(),
        rows=tuple(rows),
    )
    if out is not None:
        speed_file.write(speed, out)
    return speed


def _recipe_for(arch: str) -> str:
    """The shipped pre-training recipe of `arch`, that on the paper's data set when there are several."""
    names = [n for n in recipe_names() if n.startswith("pretrain/") and "/ablations/" not in n]
    fitting = [d for n in names if (d := describe(n))["arch"] == arch]
    if not fitting:
        known = sorted({describe(n)["arch"] for n in names})
        raise UserError(f"--arch {arch}: no shipped pre-training recipe: give one of {', '.join(known)}")
    return min(fitting, key=lambda d: (d["data"] != IMAGENET.name, d["name"]))["name"]


def _images_per_s(recipe: PretrainingRecipe, steps: int) -> tuple[float, int]:
    """Training throughput of a recipe's model, and its FLOPs per image."""
    batch, size = recipe.train.batch_size, recipe.encoder.img_size
    task = _Step(recipe)
    flops = step_flops_per_image(task.model, size)
    accelerator = create_accelerator(recipe)
    # An epoch of so many images that no measured step is the schedule's last.
    trainer = Trainer(task, BatchPlan.make(IMAGENET.train_count, batch, None, 0, 1, recipe.seed), accelerator)
    images = torch.randn(batch, 3, size, size, device=accelerator.device)
    for step in range(_WARMUP_STEPS):
        trainer.step(step, [images])
    started = _now(images)
    for step in range(_WARMUP_STEPS, _WARMUP_STEPS + steps):
        trainer.step(step, [images])
    return batch * steps / (_now(images) - started), flops


def _now(on: Tensor) -> float:
    """Seconds, once the device has done what it was asked for."""
    if on.is_cuda:
        torch.cuda.synchronize(on.device)
    return time.perf_counter()


def _label(row: Timing) -> str:
    return f"{'w/' if row.encoder_mask_tokens else 'w/o'} [M], {row.decoder_depth}"
