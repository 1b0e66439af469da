"""The schema of a recipe: every key that a recipe file or ``--set`` may name, with its default; no loading here.

Each task extends `Recipe` by its own section (`tasks/<task>/config.py`), so that OmegaConf rejects keys that nobody reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar

from backbones.errors import UserError, unknown

MOST = 1_000_000_000
"""No count, size or length that anybody means is larger, and what is overflows somewhere in a library."""
_LISTS = (1, 10_000)


@dataclass(frozen=True)
class Range:
    """Which numbers a key takes; of a list, each of its members. Not-a-number and infinity are in none.

    Attributes:
        low, high: both ends are in it.
        above: `low` itself is not.
        members: fewest and most members of a list.
    """

    low: float | None = None
    high: float | None = None
    above: bool = False
    members: tuple[int, int] = _LISTS

    def __contains__(self, value: float) -> bool:
        low = self.low is None or value > self.low or (value == self.low and not self.above)
        return math.isfinite(value) and low and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        if self.low is None:
            return "a finite number" if self.high is None else f"a number up to {self.high:g}"
        low = f"above {self.low:g}" if self.above else f"from {self.low:g}"
        return f"a number {low}" + ("" if self.high is None else f" to {self.high:g}")


@dataclass(frozen=True)
class Words:
    """Which words a key of text takes; of a list, each of its members. Texts that are names or paths are declared by none.

    Attributes:
        known: the words; none for a list of any texts.
        members: fewest and most members of a list.
    """

    known: tuple[str, ...] = ()
    members: tuple[int, int] = _LISTS


Ranges = dict[str, Range | Words]
COUNT, NATURAL, POSITIVE, SHARE = Range(1, MOST), Range(0, MOST), Range(0, MOST, above=True), Range(0, 1)
NOT_NEGATIVE = NATURAL
BATCH = Range(1, 1_000_000)
BLOCKS = Range(-1000, 1000)
"""Blocks of an encoder by number, from the end where negative; whether it has them is asked of the encoder."""


def check_ranges(recipe: Any, prefix: str = "") -> None:
    """Every number, word and length of a list is one that the schema declares (`RANGES` beside the fields).

    Raises:
        UserError: the first that is not, as ``key=value``.
    """
    declared = getattr(recipe, "RANGES", {})
    for entry in fields(recipe):
        value, key = getattr(recipe, entry.name), f"{prefix}{entry.name}"
        if is_dataclass(value):
            check_ranges(value, f"{key}.")
        elif isinstance(value, list):
            _check_members(key, value, declared.get(entry.name, Words()))
        elif isinstance(value, str):
            _check_word(key, value, declared.get(entry.name, Words()))
            if not value and entry.default != "":
                raise UserError(f"{key}: an empty text: give one, or null")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            allowed = declared.get(entry.name, Range())
            if value not in allowed:
                raise UserError(f"{key}={value}: give {allowed}")


def _check_members(key: str, value: list[Any], allowed: Range | Words) -> None:
    fewest, most = allowed.members
    if not fewest <= len(value) <= most:
        wanted = (
            f"{fewest} of them"
            if fewest == most
            else f"at least {fewest}"
            if len(value) < fewest
            else f"at most {most}"
        )
        raise UserError(f"{key}={value}: a list of {len(value)}: give {wanted}")
    if isinstance(allowed, Words):
        for word in value:
            _check_word(key, word, allowed)
    elif any(number not in allowed for number in value):
        raise UserError(f"{key}={value}: give numbers, each {str(allowed).removeprefix('a number ')}")


def _check_word(key: str, value: str, allowed: Words) -> None:
    if allowed.known and value not in allowed.known:
        raise unknown("word", value, allowed.known, where=key)
    if "\0" in value:
        raise UserError(f"{key}: a text with a null character, which no name and no path has: take it out")


INTERPOLATIONS = ("bicubic", "bilinear", "lanczos", "nearest")
DECODERS = ("fast", "pil")
OPTIMIZERS = ("adamw", "lars", "sgd")
SCHEDULES = ("cosine", "multistep", "poly")
PRECISIONS = ("fp32", "bf16", "fp16")
PARALLEL = ("ddp", "fsdp")


@dataclass
class EncoderConfig:
    """Which ViT, at which input size."""

    RANGES: ClassVar[Ranges] = {
        "img_size": COUNT,
        "drop_path": Range(0, 0.99),
        "mean": Range(0, 1, members=(3, 3)),
        "std": Range(0, 1, above=True, members=(3, 3)),
        "interpolation": Words(INTERPOLATIONS),
        "crop_pct": Range(0, 1, above=True),
    }

    arch: str = "vit_base_patch16"
    img_size: int = 224  # pixels
    drop_path: float = 0.0
    # Instead of what the checkpoint says of its preprocessing (`backbones.encoders.preprocessing`).
    mean: list[float] | None = None  # RGB, of pixels in 0..1
    std: list[float] | None = None
    interpolation: str | None = None  # of the evaluation crop: bicubic | bilinear | lanczos | nearest
    crop_pct: float | None = None  # side of the evaluation crop as a share of the resized image


@dataclass
class DataConfig:
    """Which data set. `root` comes from ``--data``; the embedded set needs none."""

    RANGES: ClassVar[Ranges] = {
        "limit_train": COUNT,
        "limit_val": COUNT,
        "decoder": Words(DECODERS),
        "allow": Words(members=(0, 100)),
        "label_share": Range(0, 1, above=True),
        "white_level": Range(1, 65535),
    }

    name: str = "imagenet"  # name in records and tables, and the NAME of --data NAME=DIR
    root: str | None = None
    # Options of the data set's maker, such as the seed and counts of the embedded one.
    options: dict[str, Any] = field(default_factory=dict)
    limit_train: int | None = None  # use n training images only, spread over the set
    limit_val: int | None = None
    # Classification trains on a part of the labels: a share of every class, or the images that a file names, one a line.
    label_share: float | None = None  # such as 0.01
    label_list: str | None = None
    # How training images of classification and pre-training are read. fast: a JPEG's random crop alone, as far as that goes;
    # pil: the official pipeline to the pixel, at about a third of the speed. The crops are the same.
    decoder: str = "fast"
    skip_broken: bool = False  # leave out unreadable training images and count them, instead of stopping
    # Level of 16-bit grey images that becomes white: 255 for 8-bit values in 16-bit files, 4095 for 12 bits.
    white_level: int = 65535
    # Reasons by name (`tasks.datasets.account`) for which images and labels may be left out, counted, instead of stopping.
    allow: list[str] = field(default_factory=list)


@dataclass
class OptimizerConfig:
    """One of `blr` (scaled by effective batch size / 256, paper App. A) and `lr` (as it is)."""

    RANGES: ClassVar[Ranges] = {
        "name": Words(OPTIMIZERS),
        "blr": NOT_NEGATIVE,
        "lr": NOT_NEGATIVE,
        "betas": Range(0, 0.999999, members=(2, 2)),
        "momentum": Range(0, 0.999999),
        "weight_decay": NOT_NEGATIVE,
        "layer_decay": Range(0, 1, above=True),
        "clip_grad": POSITIVE,
    }

    name: str = "adamw"  # adamw | lars | sgd
    blr: float | None = None
    lr: float | None = None
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    momentum: float = 0.9  # lars, sgd
    weight_decay: float = 0.05
    layer_decay: float | None = None  # layer-wise learning-rate decay
    clip_grad: float | None = None  # maximal gradient norm


@dataclass
class ScheduleConfig:
    """Length in epochs or in iterations (one of them), and the curve of the learning rate, set at every step."""

    RANGES: ClassVar[Ranges] = {
        "name": Words(SCHEDULES),
        "epochs": POSITIVE,
        "iterations": NATURAL,
        "warmup_epochs": NOT_NEGATIVE,
        "warmup_iterations": NATURAL,
        "warmup_factor": SHARE,
        "min_lr": NOT_NEGATIVE,
        "milestones": Range(0, 1, members=(0, 1000)),
        "gamma": Range(0, 1, above=True),
        "power": POSITIVE,
    }

    name: str = "cosine"  # cosine | multistep | poly
    epochs: float | None = None
    iterations: int | None = None
    warmup_epochs: float = 0.0
    warmup_iterations: int | None = None  # instead of warmup_epochs
    warmup_factor: float = 0.0  # warm-up starts at this share of the learning rate
    min_lr: float = 0.0
    milestones: list[float] = field(default_factory=list)  # multistep: shares of the schedule's length
    gamma: float = 0.1  # multistep
    power: float = 1.0  # poly


@dataclass
class TrainConfig:
    """How the loop runs; nothing here but `batch_size`, `precision` and `ema` changes what is learnt."""

    RANGES: ClassVar[Ranges] = {
        "batch_size": BATCH,
        "reference_batch_size": BATCH,
        "micro_batch_size": BATCH,
        "precision": Words(PRECISIONS),
        "parallel": Words(PARALLEL),
        "ema": Range(0, 0.999999999),
        "workers": Range(
            0, 256
        ),  # each is a process: a slip of the keyboard, or a stranger's recipe, must not stop the machine
        "eval_every_epochs": POSITIVE,
        "eval_batch_size": BATCH,
        "checkpoint_every_seconds": NOT_NEGATIVE,
        "checkpoint_every_steps": COUNT,
        "keep_checkpoints": COUNT,
        "max_skipped_steps": COUNT,
        "worker_timeout": NOT_NEGATIVE,
        "rendezvous_timeout": POSITIVE,
        "log_every_steps": COUNT,
    }

    batch_size: int = 256  # effective: over all processes and accumulation steps
    # The batch size that lr, iterations and warm-up iterations are written for; another batch_size scales them on loading.
    reference_batch_size: int | None = None
    micro_batch_size: int | None = None  # images a process takes at once; default: all of its share
    precision: str = "fp32"  # fp32 | bf16 | fp16
    compile: bool = False
    parallel: str = "ddp"  # ddp | fsdp: each of several processes keeps a share of weights, gradients and moments
    # Compute the activations of encoder's and decoder's blocks again in the backward pass: less memory, a third more time.
    activation_checkpointing: bool = False
    ema: float | None = None  # decay of the weights' moving average
    workers: int = 2  # data-loading processes of each training process
    cache_images: bool = False  # keep decoded training images in memory (small data sets)
    eval_every_epochs: float | None = None  # default: at the end only
    eval_batch_size: int = 64
    checkpoint_every_seconds: float = 300.0
    checkpoint_every_steps: int | None = None  # instead of by time
    keep_checkpoints: int = 2
    max_skipped_steps: int = 10  # in a row, for a loss or gradient that is not finite; then back to a checkpoint
    worker_timeout: float = 0.0  # seconds to wait for a batch before the run stops with a line; 0 waits for ever
    rendezvous_timeout: float = 1800.0  # seconds that a process of several waits for the others at the start
    log_every_steps: int = 20


@dataclass
class CostConfig:
    """What the run took where it was published: of this very recipe, so `base` does not hand it on and nothing is scaled."""

    RANGES: ClassVar[Ranges] = {
        "gpu_hours": NOT_NEGATIVE,
    }

    gpu_hours: float | None = None  # devices × hours
    source: str = ""  # which device, and who says so


@dataclass
class Recipe:
    """What every recipe has. The task's own section comes with its subclass."""

    RANGES: ClassVar[Ranges] = {
        "seed": Range(0, 2**32 - 1),
        "gpus": COUNT,
    }

    task: str = "???"  # registry key: pretraining | classification | probing | detection | segmentation
    title: str = ""
    published: str = ""  # the figure that the recipe reproduces, with its source
    # The row group of the tables that its figures belong to, and the SCOPE of --set SCOPE:key=value. Default: what the values
    # amount to.
    protocol: str = ""
    seed: int = 0
    gpus: int = 1  # that a launcher gives the job; without a GPU, processes
    cost: CostConfig = field(default_factory=CostConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        self.protocol = self.protocol or self.implied_protocol()

    def check_values(self) -> None:
        """A UserError for values that contradict each other, which a plan can tell without data and model."""

    def implied_protocol(self) -> str:
        """The protocol that the values amount to, whatever the recipe is called."""
        return self.task

    @property
    def evaluate_only(self) -> bool:
        """Nothing is trained: the model is evaluated as it comes."""
        return self.schedule.iterations == 0
