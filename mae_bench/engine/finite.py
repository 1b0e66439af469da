"""Steps whose loss or gradient is not finite: skipped on the device, counted there, judged at logging steps.

On a GPU no step waits for the host where the optimiser's fused kernel takes torch's ``found_inf``; other optimisers, a
moving average of the weights, a sharded model, and the CPU look at the flag at every step. In fp16 torch's GradScaler
skips steps by itself, as part of finding its scale: those are counted apart and are no fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor

from mae_bench.engine.sharding import full


@dataclass(frozen=True)
class SkippedSteps:
    """Skipped steps since the last start or roll-back: all, the consecutive ones, their first, GradScaler's own."""

    steps: int = 0
    in_a_row: int = 0
    since: int = 0
    by_scaler: int = 0


class FiniteGuard:
    """Decides on the device whether a step may change weights."""

    def __init__(self, accelerator: Accelerator, optimizer: AcceleratedOptimizer, *, waits: bool) -> None:
        self.accelerator, self.optimizer = accelerator, optimizer
        self.scaler = accelerator.scaler
        group = optimizer.param_groups[0]
        self.on_device = accelerator.device.type != "cpu" and bool(group.get("fused")) and not waits
        self.reset()

    def reset(self) -> None:
        """Resets the counts."""
        zero = torch.zeros((), dtype=torch.long, device=self.accelerator.device)
        self._steps, self._row, self._since, self._by_scaler = zero, zero.clone(), zero.clone(), zero.clone()

    def check_loss(self, loss: Tensor) -> Tensor:
        """Scalar bool, the same on all processes: the loss is not finite."""
        bad = ~torch.isfinite(loss)
        if self.accelerator.num_processes > 1:
            bad = self.accelerator.reduce(bad.float(), "sum") > 0
        if self.scaler is not None:
            # The scaler looks at gradients only, and these may be finite though the loss is not.
            gradient = next(p.grad for g in self.optimizer.param_groups for p in g["params"] if p.grad is not None)
            gradient.add_(torch.where(bad, torch.nan, 0.0).to(gradient.dtype))
        return bad

    def check_gradient(self, bad: Tensor, norm: Tensor | None) -> Tensor:
        """Whether the loss is `bad`, or the gradient's norm is not finite; GradScaler decides in fp16."""
        if self.scaler is not None:
            return bad
        if norm is None:
            gradients = [p.grad for g in self.optimizer.param_groups for p in g["params"] if p.grad is not None]
            norm = full(torch.nn.utils.get_total_norm(gradients))
        return bad | ~torch.isfinite(norm)

    def step(self, step: int, bad: Tensor) -> bool:
        """Takes the optimiser's step unless `bad`; whether weights changed, as far as the host knows."""
        self._steps = self._steps + bad
        self._since = torch.where(bad & (self._row == 0), step, self._since)
        self._row = (self._row + 1) * bad
        if self.scaler is not None:
            return self._step_with_scaler(bad)
        if not self.on_device:
            if bad.item():
                return False
            self.optimizer.step()
            return True
        fused: Any = self.optimizer.optimizer
        fused.found_inf, fused.grad_scale = bad.float(), None
        try:
            self.optimizer.step()
        finally:
            del fused.found_inf, fused.grad_scale
        return True

    def _step_with_scaler(self, bad: Tensor) -> bool:
        before = self._scale()
        self.optimizer.step()
        if before is not None and (after := self._scale()) is not None:
            self._by_scaler = self._by_scaler + ((after < before) & ~bad)
        return not self.optimizer.step_was_skipped

    def _scale(self) -> Tensor | None:
        """The scale on the device; `GradScaler.get_scale` would wait for it."""
        scale: Tensor | None = getattr(self.scaler, "_scale", None)
        return None if scale is None else scale.clone()

    def read(self) -> SkippedSteps:
        """Reads the counts; synchronises with the device."""
        return SkippedSteps(*torch.stack([self._steps, self._row, self._since, self._by_scaler]).tolist())
