"""The schema of a recipe: every key that a recipe file or ``--set`` may name, with its default; no loading here.

Each task extends `Recipe` by its own section (`tasks/<task>/config.py`), so that OmegaConf rejects keys that nobody reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class EncoderConfig:
    """Which ViT, at which input size."""

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
    # Reasons by name (`tasks.datasets.account`) for which images and labels may be left out, counted, instead of stopping.
    allow: list[str] = field(default_factory=list)


@dataclass
class OptimizerConfig:
    """One of `blr` (scaled by effective batch size / 256, paper App. A) and `lr` (as it is)."""

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

    batch_size: int = 256  # effective: over all processes and accumulation steps
    # The batch size that lr, iterations and warm-up iterations are written for; another batch_size scales them on loading.
    reference_batch_size: int | None = None
    micro_batch_size: int | None = None  # images a process takes at once; default: all of its share
    precision: str = "fp32"  # fp32 | bf16 | fp16
    compile: bool = False
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
    log_every_steps: int = 20


@dataclass
class CostConfig:
    """What the run took where it was published: of this very recipe, so `base` does not hand it on and nothing is scaled."""

    gpu_hours: float | None = None  # devices × hours
    source: str = ""  # which device, and who says so


@dataclass
class Recipe:
    """What every recipe has. The task's own section comes with its subclass."""

    task: str = "???"  # registry key: pretraining | classification | probing | detection | segmentation
    title: str = ""
    published: str = ""  # the figure that the recipe reproduces, with its source
    seed: int = 0
    gpus: int = 1  # that a launcher gives the job; without a GPU, processes
    cost: CostConfig = field(default_factory=CostConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def protocol(self) -> str:
        """The row group of the tables that this recipe's figures belong to."""
        return self.task
