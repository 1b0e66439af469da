"""The repeated blocks of a net: which they are, and how their activations are computed again instead of kept. No sharding.

One way for every encoder, whoever wrote it: the blocks are found by the net's structure, and wrapped by their class, so that
names of parameters and the net itself stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from backbones.errors import UserError


def blocks_of(net: nn.Module) -> list[nn.Module]:
    """The blocks that `net` repeats, in order: innermost members of lists (``blocks.0``) with two or more weight matrices.

    Of a ViT its Transformer blocks, of MAE the decoder's as well, of a hierarchical net those of all its stages.
    """
    listed = [child for module in net.modules() if _is_list(module) for child in module.children()]
    large = [block for block in listed if sum(p.ndim > 1 for p in _weights(block)) > 1]
    outer = {id(module) for module in net.modules() if any(b in large for b in module.modules() if b is not module)}
    return [block for block in large if id(block) not in outer]


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, (nn.ModuleList, nn.Sequential))


def _weights(block: nn.Module) -> Iterator[nn.Parameter]:
    return (parameter for name, parameter in block.named_parameters() if name.endswith("weight"))


def recompute(blocks: Iterable[nn.Module], *, compiled: bool = False) -> None:
    """Makes training forget the activations inside each of `blocks`, in place, and compute them again in the backward pass.

    Gradients are those of before to the bit where kernels are: random numbers (drop path, dropout) are drawn as in the first
    pass, and running statistics of batch norms are updated once.

    Raises:
        UserError: torch.compile cannot keep statistics from being updated twice.
    """
    for block in blocks:
        if compiled and _norms(block):
            raise UserError(
                "train.activation_checkpointing=true does not go with train.compile=true in a net with batch norms, whose "
                "statistics would be updated twice: leave one of them out"
            )
        if not isinstance(block, _Recomputed):
            block.__class__ = _recomputed(type(block))  # type: ignore[arg-type]


class _Recomputed(nn.Module):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(*args, **kwargs)
        own: dict[str, Any] = {"context_fn": partial(_contexts, self)} if _norms(self) else {}
        return checkpoint(super().forward, *args, use_reentrant=False, **own, **kwargs)


@cache
def _recomputed(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Recomputed{kind.__name__}", (_Recomputed, kind), {})


def _norms(block: nn.Module) -> list[_BatchNorm]:
    return [module for module in block.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch norms update copies of their running statistics."""
    kept = [(norm._buffers, dict(norm._buffers)) for norm in _norms(block)]
    for buffers, own in kept:
        buffers.update({name: None if tensor is None else tensor.clone() for name, tensor in own.items()})
    try:
        yield
    finally:
        for buffers, own in kept:
            buffers.update(own)
