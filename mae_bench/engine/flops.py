"""Floating-point operations of a pre-training step, counted by torch on the meta device: nothing is computed or allocated."""

from __future__ import annotations

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode


def step_flops_per_image(model: nn.Module, img_size: int) -> int:
    """FLOPs of one image's forward and backward pass through `model`, which maps (N, 3, H, W) to a loss.

    Counted are matrix products (a multiplication and an addition are two), in attention too; not counted is what
    `torch.utils.flop_counter` leaves out: elementwise work, norms, softmax, and the optimiser's step.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    # The model's own tensors stay where they are: their stand-ins on the meta device have a shape and no content.
    meta = {k: t.detach().to("meta").requires_grad_(t.requires_grad) for k, t in tensors.items()}
    image = torch.empty(1, 3, img_size, img_size, device="meta")
    counter = FlopCounterMode(display=False)
    with counter, torch.enable_grad():
        functional_call(model, meta, (image,)).backward()
    return int(counter.get_total_flops())
