"""A model in shards (FSDP2): each process keeps its part of every weight, gradient, moment and moving average. No files.

It is torch's own `fully_shard`: Accelerate passes over its plugin for it on a CPU, where all of this is tried, and casts
weights to half precision, so that norms and positions would be computed otherwise than under DDP. Here weights are
gathered in their own precision, and autocast does what it does everywhere. Gradients are reduced after every micro batch,
which keeps whole ones from living longer than a block.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from backbones.errors import UserError
from tasks.recipe import Recipe

ALONE = (
    "train.parallel=fsdp shares a model among processes, and there is one: start several by torchrun "
    "(--launcher torchrun --torchrun nproc_per_node=2), or leave it out"
)


def is_sharded(recipe: Recipe) -> bool:
    """Whether the model is trained in shards; what only evaluates takes whole models in any case."""
    return recipe.train.parallel == "fsdp" and not recipe.evaluate_only


def check_parallel(recipe: Recipe, processes: int) -> None:
    """Refuses what cannot be sharded, before anything is made."""
    train = recipe.train
    if not is_sharded(recipe):
        return
    if processes == 1:
        raise UserError(ALONE)
    if train.precision == "fp16":
        raise UserError(
            "train.parallel=fsdp goes with train.precision=bf16 or fp32: fp16's scaler is not tried in shards"
        )


def names_of(model: nn.Module, modules: Iterable[nn.Module]) -> list[str]:
    """Names of some of `model`'s modules, as `get_submodule` takes them."""
    wanted = {id(module) for module in modules}
    return [name for name, module in model.named_modules() if id(module) in wanted]


def shard(model: nn.Module, blocks: Iterable[str], device: torch.device, *, compiled: bool = False) -> None:
    """Shards `model` over all processes, in place; its parameters are others then.

    Args:
        blocks: names of the modules that are gathered one at a time; what lies in none of them is gathered for the whole pass.
        compiled: compile each block; torch.compile does not see through the gathering of a whole model.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if scalars := [name for name, parameter in model.named_parameters() if parameter.ndim == 0]:
        raise UserError(
            f"train.parallel=fsdp: {scalars[0]} is a single number, which FSDP cannot share: train with ddp"
        )
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for block in map(model.get_submodule, blocks):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
        if compiled:
            block.forward = torch.compile(block.forward)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def outline(model: nn.Module) -> nn.Module:
    """A copy whose parameters have shapes alone; buffers are copied."""
    shapes = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, memo=dict(shapes))


def whole(of: nn.Module, model: nn.Module) -> nn.Module:
    """An `outline` filled with the whole weights of the sharded `model`, with the main process's buffers; a collective call."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    state = {}
    for name, tensor in model.state_dict().items():
        state[name] = full(tensor) if name in parameters else tensor.clone()
        if name not in parameters:
            torch.distributed.broadcast(state[name], 0)
    filled = copy.deepcopy(of)
    filled.load_state_dict(state, assign=True)
    return filled


def full(tensor: Tensor) -> Tensor:
    """The whole tensor of which this process has a shard, or `tensor` itself; a collective call in the first case."""
    gathered: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return gathered


def in_shards(tensor: Tensor, like: Tensor | None) -> Tensor:
    """This process's shard of a whole tensor, where `like` is sharded and of that shape."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or isinstance(tensor, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def state_in_shards(state: dict[str, Any], likes: dict[str, Tensor]) -> dict[str, Any]:
    """A checkpoint's state of whole tensors as this process's shards; `likes` as in `likes_of`."""
    found = dict(state)
    for part in ("model", "ema"):
        if state[part] is not None:
            found[part] = {k: in_shards(v, likes.get(f"{part}.{k}")) for k, v in state[part].items()}
    moments = {
        i: {k: in_shards(v, likes.get(f"optimizer.{i}")) if isinstance(v, Tensor) else v for k, v in each.items()}
        for i, each in state["optimizer"]["state"].items()
    }
    found["optimizer"] = {**state["optimizer"], "state": moments}
    return found


def likes_of(model: nn.Module, ema: nn.Module | None, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What each tensor of a checkpoint is sharded like: ``model.NAME``, ``ema.NAME``, and ``optimizer.I`` of parameter I."""
    likes = {f"model.{k}": v for k, v in model.state_dict().items()}
    if ema is not None:
        likes |= {f"ema.{k}": v for k, v in ema.state_dict().items()}
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return likes | {f"optimizer.{i}": parameter.detach() for i, parameter in enumerate(trained)}
