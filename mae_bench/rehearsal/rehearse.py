"""A job rehearsed: its task is built as the real start builds it, and a step is taken on fake tensors."""

from __future__ import annotations

import gc
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from backbones.checkpoints.checkpoint import Checkpoint
from backbones.checkpoints.read_layouts import REL_POS
from backbones.encoders.timm_models import PREFIX
from backbones.errors import UserError
from backbones.vit.attention import choose_attention
from mae_bench.common.children import from_children
from mae_bench.engine.optimizer import check, create_optimizer
from mae_bench.engine.sampler import BatchPlan
from mae_bench.jobs.job import PlannedJob
from mae_bench.recipes.load import as_dict
from mae_bench.rehearsal.fake_step import FusedAttention, Meter, autocast, backward
from mae_bench.rehearsal.stand_in import checkpoint_for, data_for
from tasks import create_task
from tasks.base import Task
from tasks.recipe import Recipe

# What changes neither shapes nor operations: recipes that differ in nothing else share a rehearsal.
_NO_MATTER = ("title", "published", "protocol", "seed", "cost", "schedule", "gpus")
_NO_MATTER_OF = {
    "optimizer": ("blr", "lr", "betas", "momentum", "weight_decay", "layer_decay", "clip_grad"),
    "data": ("label_share", "label_list", "limit_train", "limit_val", "decoder"),
    "train": (
        "workers",
        "eval_every_epochs",
        "checkpoint_every_seconds",
        "keep_checkpoints",
        "log_every_steps",
        "batch_size",
    ),
    "knn": ("k", "temperature"),
}


@dataclass(frozen=True)
class Step:
    """What a step of one process takes. Bytes, but for the counts.

    Attributes:
        operations: of an image in training (forward and backward), as `torch.utils.flop_counter` counts them.
        evaluation: operations of an image in evaluation.
        activations: kept from the forward pass for the backward one, at `images`.
        peak: the most that lives at once, at `images`; CUDA's own context and fragmentation are not in it.
        per_image, fixed: ``peak`` of n images is about ``fixed + n * per_image``.
        gathered: weights that a sharded model has whole at once: what is in no block, and two blocks, one being fetched.
        evaluation_peak: in evaluation, at the recipe's ``eval_batch_size``.
    """

    images: int
    parameters: int
    weights: int
    trained: int = 0
    gradients: int = 0
    optimizer: int = 0
    ema: int = 0
    gathered: int = 0
    operations: float = 0.0
    evaluation: float = 0.0
    activations: int = 0
    peak: int = 0
    per_image: float = 0.0
    fixed: float = 0.0
    evaluation_peak: int = 0
    train_count: int = 0
    val_count: int = 0
    notes: tuple[str, ...] = ()


@dataclass
class Rehearsals:
    """Rehearses jobs; what has been rehearsed is not rehearsed again."""

    processes: int | None = None  # of a job; default: the recipe's own
    done: dict[str, Step | str] = field(default_factory=dict)
    _graphs: dict[str, str] = field(default_factory=dict)  # code path -> what breaks its graph
    _place: str = ""  # below `_folder`
    _folder: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="mae-bench-rehearsal-")
    )

    def step(self, job: PlannedJob) -> Step:
        """The step of a job.

        Raises:
            UserError: whatever would stop the real start, or a step that cannot run on a device.
        """
        key, micro = self._key(job)
        if key not in self.done:
            try:
                self.done[key] = self._rehearse(job, micro)
            except UserError as e:
                self.done[key] = str(e)
            except Exception as e:  # whatever torch and the libraries raise: one job must not hide what the others say
                said = (str(e).splitlines() or [""])[0][:200]
                self.done[key] = f"cannot be rehearsed: {type(e).__name__}: {said}"
            gc.collect()
        found = self.done[key]
        if isinstance(found, str):
            raise UserError(found)
        return found

    def side_by_side(self, jobs: Iterable[PlannedJob], children: int) -> Iterator[int]:
        """Rehearses jobs in so many processes, which begin at once, for `step` to find; how many of `jobs` have been so far."""
        alike: dict[str, list[PlannedJob]] = defaultdict(list)
        for job in jobs:
            with suppress(UserError):  # `step` will say it
                alike[self._key(job)[0]].append(job)
        first = [(key, same[0]) for key, same in alike.items()]
        found = from_children([partial(self._found, first[k::children], str(k)) for k in range(children)])
        return self._kept(found, alike)

    def _kept(
        self, found: Iterator[tuple[str, Step | str]], alike: Mapping[str, Sequence[PlannedJob]]
    ) -> Iterator[int]:
        count = 0
        for key, step in found:
            self.done[key] = step
            count += len(alike[key])
            yield count

    def _found(self, jobs: Iterable[tuple[str, PlannedJob]], place: str) -> Iterator[tuple[str, Step | str]]:
        self._place = place  # two processes must not make the same data
        for key, job in jobs:
            with suppress(UserError):
                self.step(job)
            yield key, self.done[key]

    def _key(self, job: PlannedJob) -> tuple[str, int]:
        """Equal for jobs that share a rehearsal, and the images of its step."""
        check(job.recipe)
        world = self.processes or job.recipe.gpus
        train, images = job.recipe.train, 0 if job.recipe.evaluate_only else 1
        micro = BatchPlan.make(images, train.batch_size, train.micro_batch_size, 0, world, 0).micro_batch_size
        return same_step(job, micro), micro

    def _rehearse(self, job: PlannedJob, micro: int) -> Step:
        task, notes = build(job, Path(self._folder.name) / self._place)
        graph = _graph_key(job.recipe)
        if job.recipe.train.compile and not job.recipe.evaluate_only and graph not in self._graphs:
            self._graphs[graph] = _graph_break(task)
        if broken := self._graphs.get(graph) if job.recipe.train.compile else None:
            notes.append(broken)
        if task.not_rehearsed:
            notes.append(f"not rehearsed: {task.not_rehearsed}")
        return replace(_steps(task, micro), notes=tuple(notes))


def same_step(job: PlannedJob, micro: int) -> str:
    """Equal for jobs whose steps of `micro` images differ in values alone."""
    values = {k: v for k, v in as_dict(job.recipe).items() if k not in _NO_MATTER}
    for section, names in _NO_MATTER_OF.items():
        if isinstance(values.get(section), dict):
            values[section] = {k: v for k, v in values[section].items() if k not in names}
    start = job.checkpoint.identity if job.checkpoint else job.start
    return json.dumps([values, micro, job.recipe.evaluate_only, start], sort_keys=True, default=str)


def _graph_key(recipe: Recipe) -> str:
    """What decides which code a step goes through: everything but sizes and data."""
    sections = {"head", "mae", "augmentation", "probe", "detection", "segmentation"}
    values = {k: v for k, v in as_dict(recipe).items() if k in sections}
    sizes = ("decoder_embed_dim", "decoder_depth", "decoder_num_heads", "mask_ratio", "vocabulary", "pca_components")
    if "mae" in values:
        values["mae"] = {k: v for k, v in values["mae"].items() if k not in sizes}
    return json.dumps([recipe.task, values, recipe.encoder.drop_path > 0], sort_keys=True, default=str)


def build(job: PlannedJob, folder: Path, *, stand_in: bool = False) -> tuple[Task[Any], list[str]]:
    """The task on the meta device, and what stands in for what was not given.

    Args:
        folder: for data that stand in.
        stand_in: for data that were given, too.
    """
    recipe, checkpoint, notes = deepcopy(job.recipe), job.checkpoint, []
    if recipe.data.root is None or stand_in:
        recipe.data = data_for(recipe, folder)
        notes.append(f"data: a stand-in with the classes of {recipe.data.name}")
    if checkpoint is None and _wants_checkpoint(job):
        checkpoint = _stand_in(recipe)
        if recipe.task in ("detection", "segmentation") and recipe.evaluate_only:
            checkpoint = _with_heads(checkpoint, recipe)
        notes.append(f"checkpoint: {checkpoint.source}")
    with torch.device("meta"), _NoValues():
        task = create_task(recipe, checkpoint)
    task.checkpoint_activations()
    return task, notes


class _NoValues(TorchFunctionMode):
    """Lets mmengine note the mean of each weight, for its log, where there are none."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.cpu and args[0].is_meta:
            return torch.zeros(args[0].shape, dtype=args[0].dtype, device="cpu")
        return function(*args, **(kwargs or {}))


def _wants_checkpoint(job: PlannedJob) -> bool:
    from_scratch = getattr(job.recipe, "from_scratch", False) or job.recipe.task == "pretraining"
    return not from_scratch and job.start != "scratch" and not job.recipe.encoder.arch.startswith(PREFIX)


def _stand_in(recipe: Recipe) -> Checkpoint:
    tuned = recipe.task == "classification" and recipe.evaluate_only
    return checkpoint_for(recipe, classes=1000 if tuned else None)


def _with_heads(encoder: Checkpoint, recipe: Recipe) -> Checkpoint:
    """As a model that the recipe would have trained leaves it: with heads and tables of relative positions."""
    training = deepcopy(recipe)
    training.schedule.iterations = 1
    with torch.device("meta"), _NoValues():
        state = create_task(training, encoder).model.state_dict()
    heads = {name: tensor for name, tensor in state.items() if ".encoder." not in name}
    heads |= {found[0]: tensor for name, tensor in state.items() if (found := re.search(rf"{REL_POS}$", name))}
    return replace(encoder, heads=heads, task=recipe.task)


def _graph_break(task: Task[Any]) -> str:
    """Where `torch.compile` breaks the step's graph, which costs time and stops nothing; empty where it does not."""
    batch = tree_map_only(Tensor, lambda t: t.to("meta"), task.rehearse_batch(2, train=True))
    with torch.device("meta"):
        batch = task.prepare_batch(batch)
    torch._dynamo.reset()
    try:
        torch.compile(task.model.train(), fullgraph=True, backend="eager")(batch)
    except torch._dynamo.exc.TorchDynamoException as e:
        said = re.sub(r" at 0x\w+", "", " ".join(str(e).split()))
        return f"graph break: torch.compile says: {said[:200]}"
    finally:
        torch._dynamo.reset()
    return ""


@contextmanager
def _named(what: str) -> Iterator[None]:
    """What fake tensors refuse, as a line for people."""
    try:
        yield
    except (DataDependentOutputException, DynamicOutputShapeException) as e:
        raise UserError(f"{what} waits for the device to read a value ({e})") from e
    except RuntimeError as e:
        if not re.search("two (different )?devices", str(e)):  # older releases of torch have no class of its own for it
            raise
        raise UserError(f"{what} leaves a tensor on the CPU: {' '.join(str(e).split())[:200]}") from e


def _steps(task: Task[Any], micro: int) -> Step:
    recipe = task.recipe
    few = 1 if recipe.task == "detection" else 2  # mixup pairs images, and BatchNorm wants more than one
    counts = () if recipe.evaluate_only else (few, micro if micro != few else 2 * few)
    batches = {count: task.rehearse_batch(count, train=True) for count in counts}
    evaluated = recipe.features.batch_size if recipe.task == "probing" else recipe.train.eval_batch_size
    batch = None if recipe.task == "pretraining" else task.rehearse_batch(evaluated, train=False)
    with FakeTensorMode(allow_non_fake_inputs=True), Meter() as meter, FusedAttention():
        for module in task.rehearsed_modules():
            module._apply(lambda t: torch.empty(t.shape, dtype=t.dtype, device="cuda", requires_grad=t.requires_grad))
            choose_attention(module, "cuda", bf16=recipe.train.precision == "bf16")
        found = Step(
            images=micro,
            parameters=sum(p.numel() for module in task.rehearsed_modules() for p in module.parameters()),
            weights=meter.now,
            train_count=task.data.train_count,
            val_count=task.data.val_count,
        )
        if batches:
            found = _training(task, batches, meter, found)
        return found if batch is None else _evaluation(task, batch, evaluated, meter, found)


def _training(task: Task[Any], batches: dict[int, Any], meter: Meter, found: Step) -> Step:
    train = task.recipe.train
    task.model.train()
    learnt = [p for p in task.model.parameters() if p.requires_grad]
    before = meter.now
    # A copy, as timm's ModelEmaV3 keeps it; that one asks the driver for a generator.
    ema = deepcopy(task.model) if train.ema is not None else None
    ema_bytes = meter.now - before
    optimizer = create_optimizer(task.recipe, task.param_groups())
    taken, state = {}, 0
    for count, batch in batches.items():
        taken[count] = _forward_and_backward(task, batch, meter)
        if not state:  # made by the first step; every later one finds it there
            before = meter.now
            optimizer.step()
            state = meter.now - before
            taken[count] = replace(taken[count], peak=taken[count].peak + state)
        optimizer.zero_grad(set_to_none=True)
    del ema
    few, many = taken
    per_image = (taken[many].peak - taken[few].peak) / (many - few)
    own = taken[found.images]
    return replace(
        found,
        trained=sum(p.numel() for p in learnt),
        gathered=_gathered(task),
        gradients=sum(p.numel() * p.element_size() for p in learnt),
        optimizer=state,
        ema=ema_bytes,
        peak=own.peak,
        activations=own.kept,
        operations=own.operations / found.images,
        per_image=per_image,
        fixed=own.peak - found.images * per_image,
    )


def _gathered(task: Task[Any]) -> int:
    sizes = [_size(block) for block in task.repeated_blocks()]
    return _size(task.model) - sum(sizes) + sum(sorted(sizes)[-2:])


def _size(module: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


@dataclass(frozen=True)
class _Pass:
    peak: int
    kept: int
    operations: int


def _forward_and_backward(task: Task[Any], batch: Any, meter: Meter) -> _Pass:
    before, meter.peak, meter.operations = meter.now, meter.now, 0
    with _named("the training step"):
        on_device = task.prepare_batch(send_to_device(batch, "cuda"))
        with autocast(task.recipe.train.precision):
            losses = task.rehearse_losses(on_device)
        losses = losses if isinstance(losses, dict) else {"loss": losses}
        total = [torch.stack(list(losses.values())).sum()]
    del losses
    kept = meter.now - before
    backward(total)
    return _Pass(meter.peak, kept, meter.operations)


def _evaluation(task: Task[Any], batch: Any, count: int, meter: Meter, found: Step) -> Step:
    train = task.recipe.train
    for module in task.rehearsed_modules():
        module.eval()
    meter.peak, meter.operations = meter.now, 0
    with torch.no_grad(), autocast(train.precision), _named("the evaluation"):
        task.rehearse_evaluation(send_to_device(batch, "cuda"))
    return replace(found, evaluation=meter.operations / count, evaluation_peak=meter.peak)
