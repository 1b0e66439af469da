"""One peer in a process of its own: builds it, then takes a step whenever `pretrain_step.py` asks for one.

A process each keeps peers apart that cannot share one (two releases of timm, another interpreter) and makes peak memory a
figure of one peer. Requests and answers are lines of JSON on stdin and stdout.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any

import torch
from peers import ARCHS, PEERS, Sizes, create_optimizer
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CUDA_STEPS = 10  # of one reading on a GPU, so that launches may run ahead, as in training


class Worker:
    """A peer's model, optimiser and batch."""

    def __init__(self, peer: str, arch: str, batch_size: int, **options: Any) -> None:
        torch.manual_seed(0)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        sizes = ARCHS[arch]
        self.images = torch.randn(batch_size, 3, sizes.img_size, sizes.img_size).to(self.device)
        self.peer = PEERS[peer](sizes, self.device, **options)
        self.peer.model.train()
        self.optimizer = create_optimizer(self.peer)

    def describe(self) -> dict[str, Any]:
        trained = sum(p.numel() for p in self.peer.model.parameters() if p.requires_grad)
        device = torch.cuda.get_device_name() if self.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        return {"note": self.peer.note, "parameters": trained, "device": device, "torch": torch.__version__}

    def _prepare(self, precision: str) -> None:
        if self.peer.prepare is not None:
            self.peer.prepare(precision)

    def _step(self, precision: str) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=precision == "bf16"):
            loss = self.peer.loss(self.images)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def step(self, precision: str) -> dict[str, float]:
        """Seconds of one whole optimiser step, and the loss before it."""
        self._prepare(precision)
        if self.device == "cpu":
            begin = time.perf_counter()
            loss = self._step(precision)
            return {"seconds": time.perf_counter() - begin, "loss": loss.item()}
        self._step(precision)  # compiles, or fills the allocator again
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(CUDA_STEPS):
            loss = self._step(precision)
        torch.cuda.synchronize()
        seconds = (time.perf_counter() - begin) / CUDA_STEPS
        torch.cuda.empty_cache()  # the next peer's turn on the same GPU
        return {"seconds": seconds, "loss": loss.item()}

    def memory(self, precision: str) -> dict[str, int]:
        """Peak bytes after two steps: of tensors on a GPU, of the whole process on a CPU."""
        self._prepare(precision)
        for _ in range(2):
            self._step(precision)
        if self.device == "cuda":
            return {"bytes": torch.cuda.max_memory_allocated()}
        unit = 1 if sys.platform == "darwin" else 1024
        return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def matmul_peak(precision: str) -> dict[str, float]:
    """Operations a second of a large square matrix product, the best of 10."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    n = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device, dtype=DTYPES[precision]) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        begin = time.perf_counter()
        torch.mm(a, b)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return {"flops": 2 * n**3 / best}


def step_flops(arch: str) -> dict[str, int]:
    """Operations that one image needs, forward and backward, with only the visible patches in the encoder; by counting ours."""
    from torch.utils.flop_counter import FlopCounterMode

    sizes: Sizes = ARCHS[arch]
    model = PEERS["ours"](sizes, "cpu").model.to("meta")
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # as two matrix products, which the counter knows on every device
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 3, sizes.img_size, sizes.img_size, device="meta")).backward()
    return {"flops": counter.get_total_flops()}


def main() -> None:
    """Answers requests until stdin ends; whatever libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker: Worker | None = None
    for line in sys.stdin:
        request = json.loads(line)
        what = request.pop("do")
        try:
            if what == "open":
                worker = Worker(**request)
                answer: dict[str, Any] = worker.describe()
            elif what in ("matmul_peak", "step_flops"):
                answer = globals()[what](**request)
            else:
                answer = getattr(worker, what)(**request)
        except Exception as error:  # told to the one who asked, who names the peer
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
