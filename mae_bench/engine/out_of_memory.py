"""Too little memory on the device: the micro batch halves, accumulation doubles, and the run remembers it.

The effective batch stays, so that the run learns what it would have; only what depends on the micro batch itself changes
(which random masks an image gets, and the statistics of a batch normalisation).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from backbones.atomic import read_json, write_json
from backbones.errors import RunFailed
from mae_bench.common.disk import writing
from mae_bench.engine.sampler import BatchPlan

_FILE = "memory.json"
_MORE_MESSAGES = (
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "not enough memory: you tried to allocate"),
    # oneDNN on a CPU says no more than that; with arguments that are in order it is for want of memory.
    *("could not create a primitive", "could not create a memory", "could not append", "std::bad_alloc"),
    *("Cannot allocate memory", "can't allocate memory"),
)


class OutOfMemory(Exception):
    """A step did not fit and was not taken: gradients are gone, weights and optimiser are as they were."""


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Whether torch, on a GPU or the CPU, says that memory was short (`torch.OutOfMemoryError` among them)."""
    return (
        isinstance(error, MemoryError)
        or should_reduce_batch_size(error)
        or any(text in str(error) for text in _MORE_MESSAGES)
    )


def release() -> None:
    """Empties the caching allocator; call it outside `except`, whose traceback keeps activations alive."""
    clear_device_cache(garbage_collection=True)


@dataclass(frozen=True)
class MicroBatchLimit:
    """The micro batch that fits the device's memory; stored beside the checkpoints for later starts."""

    micro_batch_size: int | None = None
    halvings: int = 0

    @staticmethod
    def read(run_dir: Path) -> MicroBatchLimit:
        """The limit that earlier starts found."""
        found = read_json(run_dir / _FILE)
        size, halvings = (
            (found.get("micro_batch_size"), found.get("halvings")) if isinstance(found, dict) else (None, 0)
        )
        if type(size) is not int or type(halvings) is not int or size < 1 or halvings < 0:
            return MicroBatchLimit()  # damaged: what fits is found anew
        return MicroBatchLimit(size, halvings)

    def plan(self, plan: BatchPlan, wanted: int | None) -> BatchPlan:
        """`plan` with the recipe's micro batch, or the smaller one that fits."""
        sizes = [size for size in (wanted, self.micro_batch_size) if size is not None]
        return plan.with_micro_batch(min(sizes, default=None))

    def halved(self, plan: BatchPlan, run_dir: Path) -> MicroBatchLimit:
        """Records that micro batches of half the plan's size are to be used.

        Raises:
            RunFailed: a micro batch of one image is too large.
        """
        if plan.micro_batch_size == 1:
            raise RunFailed(
                "the device's memory is too small for a micro batch of one image: use train.precision=bf16, a smaller "
                "encoder.img_size or architecture, or another device; everything up to the last checkpoint is kept"
            )
        fits = replace(self, micro_batch_size=plan.micro_batch_size // 2, halvings=self.halvings + 1)
        with writing(run_dir / _FILE):
            write_json(run_dir / _FILE, {"micro_batch_size": fits.micro_batch_size, "halvings": fits.halvings})
        return fits
