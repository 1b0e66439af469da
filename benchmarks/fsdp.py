"""FSDP against DDP and one process, on the CPU with gloo: losses of 20 steps, final weights, killed runs that others finish.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/fsdp.py equal
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/fsdp.py resume
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/fsdp.py nudge --cases "detection; segmentation"

``equal``: every case is trained in one process and, by DDP and by FSDP, in 2 and in 4. Differences are of the losses (relative,
the largest of all steps) and of the exported weights (absolute). Against one process only cases count that draw nothing by
process and normalise over no process's own images: others differ from it under DDP as well, and are held against DDP alone.

``resume``: every way of training is killed (SIGKILL, all processes) inside a step, and every way goes on from what it left;
held against the run of one process that nothing disturbed, or, where cases count on the number of processes, DDP's.

``nudge`` shards nothing: a case is trained in one process, twice, and once each weight of the patch embedding is moved to the
next number after step 4. What that comes to in the end is what any rounding comes to.

``--double`` computes everything in fp64: what a sum in another order changes in fp32, and what chaotic steps make of it, is
then smaller by nine digits; a difference in the arithmetic stays what it is.

All runs of one number of processes share one start of torchrun.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_DOUBLE = "FSDP_BENCHMARK_DOUBLE"  # told to the processes that train
STEPS, KILLED_AT, SAVED_EVERY, NUDGED_AFTER = 20, 12, 5, 4
WAYS = ((1, "ddp"), (2, "ddp"), (4, "ddp"), (2, "fsdp"), (4, "fsdp"))
_ALL = (
    *("data.options.pretrain_count=80", "data.options.train_count=80", "data.options.val_count=21"),
    *("data.options.scene_train_count=16", "data.options.scene_val_count=5", "train.workers=0"),
    *("train.log_every_steps=1", f"train.checkpoint_every_steps={SAVED_EVERY}", "train.eval_every_epochs=null"),
)
_STEPPED = (f"schedule.iterations={STEPS}", "schedule.epochs=null", "schedule.warmup_epochs=0")


@dataclass(frozen=True)
class Case:
    """A run of every task, small; `alone`: one process computes the same."""

    recipe: str
    settings: tuple[str, ...] = ()
    alone: bool = True


_EVERYTHING = ("train.ema=0.9", "optimizer.clip_grad=0.5", "train.micro_batch_size=2", "train.batch_size=16")
CASES = {
    "pre-training, grid masks": Case("pretrain/ablations/sampling_grid_75", (*_EVERYTHING, "BASE=embedded")),
    "pre-training, random masks, bf16": Case(
        "pretrain/vit_micro_patch8_embedded", (*_EVERYTHING, "train.precision=bf16"), alone=False
    ),
    "pre-training, activations recomputed": Case(
        "pretrain/vit_micro_patch8_embedded", (*_EVERYTHING, "train.activation_checkpointing=true"), alone=False
    ),
    "fine-tuning, layer decay": Case(
        "finetune/vit_micro_patch8_embedded", (*_EVERYTHING, "optimizer.layer_decay=0.75", "encoder.drop_path=0")
    ),
    "linear probe, LARS": Case("linear/vit_micro_patch8_embedded", ("train.batch_size=16",), alone=False),
    "half a block": Case("partial/vit_micro_patch8_embedded", ("train.batch_size=16", "head.tune_blocks=0.5")),
    "grid of linear heads": Case(
        "probe/vit_micro_patch8_embedded", ("train.batch_size=16", "probe.lrs=[0.01,0.03]"), alone=False
    ),
    # Any rounding grows tenfold a step in these two, in one process as well (`nudge`): equal in fp64 only. Two images a process
    # leave a batch norm behind a 1 x 1 pooling two values, whose difference it blows up to +-1 however small it is; so 8.
    "detection": Case("detection/vit_micro_patch8_embedded", ("train.batch_size=4",), alone=False),
    "segmentation": Case(
        "segmentation/vit_micro_patch8_embedded",
        ("train.batch_size=32", "data.options.scene_train_count=64"),
        alone=False,
    ),
}


def _recipe(case: Case, parallel: str) -> Any:
    from mae_bench.recipes.load import load_recipe

    settings = [each for each in case.settings if not each.startswith("BASE=")]
    base = "pretrain/vit_micro_patch8_embedded_ablations" if "BASE=embedded" in case.settings else None
    return load_recipe(case.recipe, [*_ALL, *settings, *_STEPPED, f"train.parallel={parallel}"], base=base)


def _compute_in_double() -> None:
    import torch

    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]  # what images and losses are cast by


def _nudge(model: Any) -> None:
    import torch

    (weight,) = (each for name, each in model.named_parameters() if name.endswith("patch_embed.proj.weight"))
    with torch.no_grad():
        weight.copy_(torch.nextafter(weight, torch.full_like(weight, torch.inf)))


def _train(
    case: Case, parallel: str, folder: Path, killed_at: int | None = None, nudged_after: int | None = None
) -> None:
    """One run in this process and its companions; the main one leaves ``weights.safetensors``."""
    from safetensors.torch import save_file

    from mae_bench.engine.loop import create_accelerator, fit
    from mae_bench.engine.seeding import seed_all
    from mae_bench.engine.trainer import Trainer
    from tasks import create_task

    recipe, step = _recipe(case, parallel), Trainer.step
    if recipe.train.batch_size < 4:
        raise SystemExit(f"{case.recipe}: too small a batch for 4 processes")

    def disturbed(trainer: Any, number: int, batches: Any) -> Any:
        found = step(trainer, number, batches)
        if number + 1 == nudged_after:
            _nudge(trainer.model)
        if number == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    Trainer.step = disturbed  # type: ignore[method-assign]
    try:
        accelerator = create_accelerator(recipe)
        seed_all(recipe.seed, "init")
        task = create_task(recipe)
        result = fit(task, folder, accelerator=accelerator)
        if accelerator.is_main_process:
            tensors = {f"{n}/{k}": v for n, each in task.export(result.model).items() for k, v in each.items()}
            save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / "weights.safetensors")
            (folder / "metrics.json").write_text(json.dumps(result.progress.last))
        accelerator.wait_for_everyone()
    finally:
        Trainer.step = step  # type: ignore[method-assign]


def start(processes: int, runs: list[dict[str, Any]], folder: Path) -> None:
    """Runs ``{"case", "parallel", "folder"}`` and what else `_train` takes, one after the other, in so many processes.

    Raises:
        RuntimeError: one of them failed that was not killed on purpose.
    """
    file = folder / "runs.json"
    file.write_text(json.dumps(runs))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    command = [sys.executable, "-W", "ignore", *launcher, __file__, "--runs", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=1800)
    if done.returncode and not any(run.get("killed_at") for run in runs):
        raise RuntimeError(done.stderr[-4000:])


def losses(folder: Path) -> dict[int, float]:
    """Step -> loss; of steps that were taken again, the last."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train" and "loss" in line}


def difference(one: Path, other: Path) -> tuple[float, float]:
    """The largest relative difference of a step's loss, the largest absolute one of a weight."""
    from safetensors.torch import load_file

    a, b = losses(one), losses(other)
    assert a.keys() == b.keys() == set(range(1, STEPS + 1)), (one, sorted(a), sorted(b))
    x, y = (load_file(each / "weights.safetensors") for each in (one, other))
    assert x.keys() == y.keys()
    relative = max(abs(a[step] - b[step]) / max(abs(a[step]), 1e-12) for step in a)
    return relative, max(float((x[k].double() - y[k].double()).abs().max()) for k in x if x[k].numel())


def equal(out: Path, names: list[str]) -> list[str]:
    """Rows of the table of differences."""
    for processes in (1, 2, 4):
        ways = [parallel for count, parallel in WAYS if count == processes]
        runs = [{"case": n, "parallel": p, "folder": str(_place(out, n, processes, p))} for n in names for p in ways]
        start(processes, runs, out)
    rows = [
        "| run | against | 2 processes: loss | weights | 4 processes: loss | weights |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        others = [("DDP", None), *([("one process", 1)] if CASES[name].alone else [])]
        for label, count in others:
            found = [difference(_place(out, name, count or n, "ddp"), _place(out, name, n, "fsdp")) for n in (2, 4)]
            rows.append(f"| {name} | {label} | " + " | ".join(f"{x:.1e}" for pair in found for x in pair) + " |")
    return rows


def nudge(out: Path, names: list[str]) -> list[str]:
    """Rows: what a last digit comes to in one process."""
    rows = ["| run | loss | weights |", "|---|---|---|"]
    for name in names:
        places = [_place(out, name, 1, kind) for kind in ("plain", "nudged")]
        runs = [{"case": name, "parallel": "ddp", "folder": str(place)} for place in places]
        start(1, [runs[0], {**runs[1], "nudged_after": NUDGED_AFTER}], out)
        rows.append(f"| {name} | " + " | ".join(f"{x:.1e}" for x in difference(*places)) + " |")
    return rows


def resume(out: Path, names: list[str]) -> list[str]:
    """Rows: killed under one way of training, gone on with by another; differences from a run that nothing disturbed.

    That is a run of one process, or for cases that count on the number of processes DDP's, and then that number stays.
    """
    rows = [
        "| run | killed | " + " | ".join(f"on as {_label(*way)}" for way in WAYS) + " |",
        "|---|---|" + "---|" * len(WAYS),
    ]
    for name in names:
        groups = [WAYS] if CASES[name].alone else [tuple(way for way in WAYS if way[0] == count) for count in (2, 4)]
        for ways in groups:
            rows += _resumed(out, name, ways)
    return rows


def _resumed(out: Path, name: str, ways: Sequence[tuple[int, str]]) -> list[str]:
    (count, parallel), counts = ways[0], sorted({processes for processes, _ in ways})
    whole = _place(out, name, count, "whole")
    start(count, [{"case": name, "parallel": parallel, "folder": str(whole)}], out)
    for processes, parallel in ways:
        run = {"case": name, "parallel": parallel, "folder": str(_place(out, name, processes, parallel))}
        start(processes, [{**run, "killed_at": KILLED_AT}], out)
    pairs = {
        (way, on): _place(out, name, *on) / f"from-{_label(*way)}".replace(" ", "-") for way in ways for on in ways
    }
    for (way, _), place in pairs.items():
        shutil.copytree(_place(out, name, *way), place, ignore=shutil.ignore_patterns("from-*"))
    for processes in counts:
        runs = [
            {"case": name, "parallel": on[1], "folder": str(p)} for (_, on), p in pairs.items() if on[0] == processes
        ]
        start(processes, runs, out)
    rows = []
    for way in ways:
        cells = ["{:.0e}, {:.0e}".format(*difference(whole, pairs[way, on])) if on in ways else "–" for on in WAYS]
        rows.append(f"| {name} | {_label(*way)} | " + " | ".join(cells) + " |")
    return rows


def _label(processes: int, parallel: str) -> str:
    return "one process" if processes == 1 else f"{parallel.upper()} {processes}"


def _place(out: Path, name: str, processes: int, parallel: str) -> Path:
    return out / "".join(c if c.isalnum() else "-" for c in name) / f"{parallel}-{processes}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["equal", "resume", "nudge"])
    parser.add_argument("--cases", default=None, help="some of: " + "; ".join(CASES))
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--double", action="store_true", help="compute in fp64")
    parser.add_argument("--runs", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.runs is not None:
        if os.environ.get(_DOUBLE):
            _compute_in_double()
        for run in json.loads(options.runs.read_text()):
            _train(CASES[run.pop("case")], run.pop("parallel"), Path(run.pop("folder")), **run)
        return
    os.environ |= {_DOUBLE: "1"} if options.double else {}
    out = options.out or Path(tempfile.mkdtemp(prefix="mae-bench-fsdp-"))
    out.mkdir(parents=True, exist_ok=True)
    chosen = options.cases.split("; ") if options.cases else list(CASES)
    print("\n".join({"equal": equal, "resume": resume, "nudge": nudge}[options.what](out, chosen)))


if __name__ == "__main__":
    main()
