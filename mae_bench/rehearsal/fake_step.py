"""A training step on torch's fake tensors: shapes, types, devices, memory and operations of the step, and no numbers.

The fake device is ``cuda``, under CUDA's own autocast, so that what each tensor's type would be is what it is: a tensor left on
the CPU raises, and so does what waits for the device (``.item()``). torch's autograd engine asks the driver for a device before
it begins, which a machine without a GPU does not have; so the graph of the backward pass is walked here, node by node, and
every operation is torch's own.

`torch.distributed._tools.mem_tracker` counts memory, too, but wants the engine's hooks for gradients, and copies its books at
every operation of every module.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_ROUND = 512  # bytes: what torch's allocator rounds a tensor up to (c10/cuda/CUDACachingAllocator.h, kMinBlockSize)
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Meter(TorchDispatchMode):
    """What is done while it is on.

    Attributes:
        now: bytes of the tensors that were made and are still alive.
        peak: the most of it.
        operations: as `torch.utils.flop_counter` counts them (whose own mode keeps graphs alive beyond their use).
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.operations = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and enters what it gives and costs."""
        kwargs = kwargs or {}
        found = op(*args, **kwargs)
        if (formula := flop_registry.get(op.overloadpacket)) is not None:
            self.operations += formula(*args, **kwargs, out_val=found)
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor):
                self._enter(leaf)
        return found

    def _enter(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        size = -(-storage.nbytes() // _ROUND) * _ROUND
        self._alive.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._leave, key, size)

    def _leave(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


class FusedAttention(TorchFunctionMode):
    """Attention by the kernel that a GPU takes; fake tensors would take the plain products.

    Flash attention in half precision without a mask, else the memory-efficient one, which takes both.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Passes everything but attention on."""
        if function is torch.nn.functional.scaled_dot_product_attention:
            return _attention(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    kind = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
    query, key, value = (each.to(kind) for each in (query, key, value))
    if attn_mask is None and kind in _AUTOCAST.values():
        width = query.shape[-1]
        pad = -width % 8  # flash attention's heads are padded to a multiple of 8
        scale = scale or 1 / math.sqrt(width)
        query, key, value = (torch.nn.functional.pad(each, (0, pad)) if pad else each for each in (query, key, value))
        found = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)
        return found[0][..., :width]
    if attn_mask is not None:
        shape = (*query.shape[:-1], key.shape[-2])
        attn_mask = attn_mask.to(kind).expand(shape)
    learns = any(each.requires_grad for each in (query, key, value))
    found = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, learns and torch.is_grad_enabled(), dropout_p, is_causal, scale=scale
    )
    return found[0]


@contextmanager
def autocast(precision: str) -> Iterator[None]:
    """CUDA's autocast; `torch.autocast` turns itself off on a machine without one."""
    if precision not in _AUTOCAST:
        yield
        return
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", _AUTOCAST[precision])
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


@contextmanager
def _recomputing() -> Iterator[None]:
    """Lets checkpointed activations be computed again outside of torch's engine: once each, under the forward's autocast."""
    real = torch.amp.autocast

    def of_forward(device_type: str, dtype: Any = None, enabled: bool = True, **rest: Any) -> Any:
        if device_type != "cuda":
            return real(device_type, dtype=dtype, enabled=enabled, **rest)
        return autocast(next((name for name, kind in _AUTOCAST.items() if enabled and kind == dtype), "fp32"))

    with mock.patch.object(torch.amp, "autocast", of_forward), checkpoint.GraphExecGroup():
        yield


def backward(loss: list[Tensor]) -> None:
    """``loss[0].backward()`` without the engine; `loss` is emptied, so that what the graph keeps goes as the walk goes on."""
    with torch.no_grad(), _recomputing():
        _walk(loss)


def _walk(loss: list[Tensor]) -> None:
    found = loss.pop()
    root = found.grad_fn
    assert root is not None
    gradients: dict[Any, list[Tensor | None]] = {root: [torch.ones_like(found)]}
    del found
    waiting = _uses(root)
    ready: list[Any] = [root]
    del root
    while ready:
        node = ready.pop()
        given: Any = gradients.pop(node)
        given += [None] * (len(node._input_metadata) - len(given))
        made = node.apply(*given) if isinstance(node, BackwardCFunction) else node(*given)
        for (after, place), gradient in zip(node.next_functions, _tuple(made), strict=False):
            if after is None:
                continue
            _add(gradients.setdefault(after, []), after._input_metadata[place], place, gradient)
            waiting[after] -= 1
            if not waiting[after]:
                del waiting[after]
                ready.append(after) if any(g is not None for g in gradients[after]) else gradients.pop(after)
        node = given = made = after = gradient = None  # what they hold is to go now


def _tuple(made: Any) -> tuple[Any, ...]:
    return made if isinstance(made, tuple) else (made,)


def _uses(root: Any) -> Counter[Any]:
    """How many gradients each node waits for."""
    waiting: Counter[Any] = Counter()
    seen, todo = {root}, [root]
    while todo:
        for after, _ in todo.pop().next_functions:
            if after is not None:
                waiting[after] += 1
                if after not in seen:
                    seen.add(after)
                    todo.append(after)
    return waiting


def _add(slots: list[Tensor | None], told: Any, place: int, gradient: Tensor | None) -> None:
    """Adds a gradient to what a node has got, in the shape and type that the engine gives it (`validate_outputs`)."""
    slots += [None] * (place + 1 - len(slots))
    if gradient is None:
        return
    if gradient.shape != told.shape:
        gradient = gradient.sum_to_size(told.shape)
    if gradient.dtype != told.dtype:
        gradient = gradient.to(told.dtype)
    old = slots[place]
    slots[place] = gradient if old is None else old + gradient
