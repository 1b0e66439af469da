"""What rehearsals say: a report a job, rows for a terminal, and what published runs took beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from backbones.errors import UserError
from mae_bench.engine.sharding import ALONE, is_sharded
from mae_bench.jobs.dry_run import published_cost
from mae_bench.jobs.job import PlannedJob
from mae_bench.records.provenance import usable_cpus
from mae_bench.rehearsal import devices
from mae_bench.rehearsal.hours import Cluster, accumulation, hours, moved, seconds_a_step
from mae_bench.rehearsal.rehearse import Rehearsals, Step
from tasks.progress import progress

GB = 1e9
_CHILDREN = 2  # processes side by side, of 1.3 GB each
_MANY = 8  # jobs: fewer are done before a second process has imported what they need


@dataclass(frozen=True)
class Asked:
    """What the command line says.

    Attributes:
        memory: bytes of a device; None: the device's own.
        share: of the device's peak; None: by task, what published runs reached.
        gpus: of a node; None: as many as the recipe names, all in one node.
    """

    device: str = "h100"
    memory: int | None = None
    gpus: int | None = None
    nodes: int = 1
    share: float | None = None
    network: float = 50e9

    def __post_init__(self) -> None:
        devices.find(self.device)
        if self.share is not None and not 0 < self.share <= 1:
            raise UserError(f"--share {self.share:g}: give a share of the published peak, above 0 and up to 1")
        for flag, value in (("--gpus", self.gpus), ("--nodes", self.nodes)):
            if value is not None and value < 1:
                raise UserError(f"{flag} {value}: give at least 1")
        if self.nodes > 1 and self.gpus is None:
            raise UserError(f"--nodes {self.nodes}: give --gpus, the GPUs of a node, with it")

    @property
    def room(self) -> int:
        """Bytes of a device."""
        return self.memory if self.memory is not None else devices.find(self.device).memory

    @property
    def processes(self) -> int | None:
        """Of a job; None: the recipe's own."""
        return None if self.gpus is None else self.gpus * self.nodes


@dataclass(frozen=True)
class Report:
    """A rehearsed job. Bytes and seconds; everything but the counts and `operations` is an estimate."""

    job: str
    recipe: str
    error: str | None = None  # the line that the real start would end with
    step: Step | None = None
    processes: int = 0
    fits: bool | None = None
    peak: int = 0  # of a process: `step.peak`, and the buckets of the reduction
    largest_micro_batch: int | None = None
    accumulation: int = 0  # with the recipe's micro batch
    accumulation_of_largest: int | None = None
    checkpoints: int = 0  # on the disk
    reduced_per_step: int = 0
    seconds_per_step: float | None = None
    hours: float | None = None
    published_hours: float | None = None  # of all devices together, on this kind of device, of the recipe as it stands
    published_source: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def stops(self) -> bool:
        """It would not start, or not fit."""
        return self.error is not None or self.fits is False


def reports(jobs: Sequence[PlannedJob], asked: Asked) -> list[Report]:
    """All jobs rehearsed, in their order."""
    rehearsals, found = Rehearsals(asked.processes), []
    many = len(jobs) >= _MANY
    counts = rehearsals.side_by_side(jobs, min(_CHILDREN, usable_cpus())) if many else ()
    with progress("rehearsing", len(jobs), "jobs") as advance:
        for count in counts:
            advance(count)
        for job in jobs:
            found.append(report(job, asked, rehearsals))
            if not many:
                advance(len(found))
    return found


def report(job: PlannedJob, asked: Asked, rehearsals: Rehearsals) -> Report:
    """A job rehearsed; what would stop it is in `Report.error`."""
    alone = job.after is None and job.checkpoint is None
    name = job.recipe_name if alone else job.name
    try:
        step = rehearsals.step(job)
    except UserError as e:
        return Report(name, job.recipe_name, error=str(e))
    recipe, device = job.recipe, devices.find(asked.device)
    processes = asked.processes or recipe.gpus
    cluster = Cluster(device, processes, asked.nodes, asked.share, asked.network)
    trains = not recipe.evaluate_only
    sharded = is_sharded(recipe)
    if sharded and processes == 1:
        return Report(name, job.recipe_name, error=ALONE)
    mine = in_shards(step, processes) if sharded else step
    buckets = step.gradients if processes > 1 and not sharded else 0
    peak = max(mine.peak + buckets, mine.evaluation_peak + mine.optimizer + mine.ema)
    kept = step.weights + step.optimizer + step.ema
    notes = list(step.notes)
    if recipe.train.precision == "bf16" and not device.bf16:
        notes.append(f"{asked.device} has no bf16: --set train.precision=fp16")
    largest = _largest(mine, asked.room - buckets, recipe.train.batch_size // processes) if trains else None
    if trains and largest == 0:
        one = (mine.fixed + mine.per_image + buckets) / GB
        error = f"not one image fits into {asked.room / GB:.3g} GB: a step of one takes {one:.3g} GB"
        return Report(name, job.recipe_name, error, mine, processes, False, peak, notes=notes)
    return Report(
        name,
        job.recipe_name,
        step=mine,
        processes=processes,
        fits=peak <= asked.room,
        peak=peak,
        largest_micro_batch=accumulation(recipe, processes, largest)[0] if largest else None,
        accumulation=accumulation(recipe, processes, step.images)[1] if trains else 0,
        accumulation_of_largest=accumulation(recipe, processes, largest)[1] if largest else None,
        checkpoints=kept * (recipe.train.keep_checkpoints + 1) if trains else 0,
        reduced_per_step=moved(recipe, step, processes),
        seconds_per_step=seconds_a_step(recipe, step, cluster) if trains else None,
        hours=hours(recipe, step, cluster),
        **_published(job, asked),
        notes=notes,
    )


def in_shards(step: Step, processes: int) -> Step:
    """What one of several processes has of a sharded model; in evaluation it has all weights."""

    def share(size: int) -> int:
        return -(-size // processes)

    left = replace(
        step,
        weights=share(step.weights),
        gradients=share(step.gradients),
        optimizer=share(step.optimizer),
        ema=share(step.ema),
    )
    parts = ("weights", "gradients", "optimizer", "ema")
    less = sum(getattr(step, part) - getattr(left, part) for part in parts)
    # Weights and gradients of what is gathered, which a share of each is counted for already.
    less -= 2 * (step.gathered - share(step.gathered))
    # At the end of the forward pass there are no gradients yet, and all activations.
    least = left.weights + left.optimizer + left.ema + step.gathered
    return replace(
        left,
        peak=max(step.peak - less, least + step.activations),
        fixed=max(step.fixed - less, least),
        evaluation_peak=step.evaluation_peak + left.weights,
    )


def _published(job: PlannedJob, asked: Asked) -> dict[str, Any]:
    """What the recipe's own run took, where it was on this kind and number of devices."""
    gpu_hours, source = published_cost(job)
    alike = asked.processes in (None, job.recipe.gpus) and asked.device.upper() in source
    return {"published_hours": gpu_hours, "published_source": source} if alike else {}


def _beside_published(each: Report) -> str:
    assert each.hours
    assert each.published_hours
    ours, theirs = each.hours * each.processes, each.published_hours
    said = f"{theirs:,.0f} GPU-hours ({each.published_source}), estimated {ours:,.0f}"
    return f"published: {each.job}: {said}: {ours / theirs:.2f} of it"


def _largest(step: Step, room: int, share: int) -> int:
    """The most images at once that fit, up to a process's share of a batch; 0 where none does."""
    if step.per_image <= 0:
        return share if step.fixed <= room else 0
    return max(0, min(share, int((room - step.fixed) // step.per_image)))


def rows(reports: list[Report]) -> list[dict[str, str]]:
    """For the terminal; gigabytes are 10^9 bytes."""
    return [_row(each) for each in reports]


def _row(each: Report) -> dict[str, str]:
    step = each.step
    if step is None:
        return dict.fromkeys(_HEADINGS, "–") | {"job": each.job, "starts": "no"}
    trains = step.trained > 0
    return {
        "job": each.job,
        "starts": "no" if each.error else "yes" if each.fits else "too large",
        "parameters": f"{step.parameters / 1e6:.1f} M",
        "Gop/image": f"{(step.operations or step.evaluation) / 1e9:,.1f}",
        "micro": f"{step.images} x {each.accumulation}" if trains else "–",
        "weights": _gb(step.weights),
        "grads": _gb(step.gradients),
        "optim": _gb(step.optimizer),
        "EMA": _gb(step.ema),
        "activ": _gb(step.activations),
        "peak GB": f"{each.peak / GB:.1f}",
        "fits": f"{each.largest_micro_batch} x {each.accumulation_of_largest}" if each.largest_micro_batch else "–",
        "disk": _gb(each.checkpoints),
        "s/step": "–" if each.seconds_per_step is None else f"{each.seconds_per_step:.3g}",
        "hours": "–" if each.hours is None else f"{each.hours:,.3g} x {each.processes}",
    }


_HEADINGS = (
    *("job", "starts", "parameters", "Gop/image", "micro", "weights", "grads", "optim", "EMA", "activ"),
    *("peak GB", "fits", "disk", "s/step", "hours"),
)


def _gb(size: int) -> str:
    return f"{size / GB:.1f}" if size else "–"


def lines(reports: list[Report], asked: Asked) -> list[str]:
    """What is to be said below the rows: what the estimates rest on, notes, and last what does not start."""
    device = devices.find(asked.device)
    reached = ", ".join(f"{task} {share:.3g}" for task, share in devices.SHARES.items())
    share = (
        f"{asked.share:.3g}"
        if asked.share is not None
        else f"a share by task ({reached}; published runs, docs/rehearsal.md)"
    )
    said = [
        f"estimates for {asked.device}: {share} of {device.half / 1e12:.0f} Tflop/s in half precision, of "
        f"{device.single / 1e12:.0f} in fp32 ({device.source}); {asked.network / GB:g} GB/s between nodes; peak memory without "
        f"CUDA's context and fragmentation; {asked.room / GB:.3g} GB a device; each hour one of every GPU",
    ]
    said += [_beside_published(each) for each in reports if each.published_hours and each.hours]
    said += [f"note: {note}" for note in dict.fromkeys(note for each in reports for note in each.notes)]
    large = [each for each in reports if each.fits is False and not each.error]
    said += [f"too large: {each.job}: {each.peak / GB:.3g} GB" for each in large]
    return said + [f"does not start: {each.job}: {each.error}" for each in reports if each.error]


def as_json(reports: list[Report], asked: Asked) -> dict[str, Any]:
    """For ``--json``."""
    return {"asked": {**asdict(asked), "memory": asked.room}, "jobs": [asdict(each) for each in reports]}
