"""A step that is not finite leaves weights and optimiser as they were, also where no one waits for the device."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mae_bench.engine.finite import FiniteGuard, SkippedSteps

GOOD, BAD = 1.0, float("nan")


def train(values: list[float], *, on_device: bool, fused: bool = True) -> tuple[list[Tensor], FiniteGuard]:
    """Weights and moments after a step for each value, by which the loss is multiplied."""
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    line = nn.Linear(3, 1)
    model, optimizer = accelerator.prepare(line, torch.optim.AdamW(line.parameters(), lr=0.1, fused=fused))
    guard = FiniteGuard(accelerator, optimizer, waits=False)
    guard.on_device = on_device
    for step, value in enumerate(values):
        loss = value * model(torch.full((2, 3), step + 1.0)).square().mean()
        accelerator.backward(loss)
        guard.step(step, guard.check_gradient(guard.check_loss(loss.detach()), None))
        optimizer.zero_grad()
    state = [v for s in optimizer.state_dict()["state"].values() for v in s.values()]
    return [copy.deepcopy(t.detach()) for t in [*line.parameters(), *state]], guard


@pytest.mark.parametrize("on_device", [False, True], ids=["looked at", "in the kernel"])
def test_the_step_is_as_if_it_had_not_been(on_device: bool) -> None:
    before, _ = train([GOOD, GOOD], on_device=on_device)
    after, guard = train([GOOD, GOOD, BAD, BAD], on_device=on_device)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert guard.read() == SkippedSteps(steps=2, in_a_row=2, since=2, by_scaler=0)


def test_both_ways_give_the_same_bits() -> None:
    values = [GOOD, BAD, GOOD, GOOD, BAD, GOOD]
    looked, inside = train(values, on_device=False)[0], train(values, on_device=True)[0]
    assert all(torch.equal(a, b) for a, b in zip(looked, inside, strict=True))


def test_a_row_ends_with_a_good_step() -> None:
    assert train([BAD, GOOD, BAD, BAD, GOOD], on_device=True)[1].read() == SkippedSteps(steps=3, in_a_row=0, since=2)
    assert train([GOOD], on_device=True)[1].read() == SkippedSteps()


def test_a_finite_loss_with_an_infinite_gradient_is_skipped() -> None:
    accelerator = Accelerator(cpu=True)
    weight = nn.Parameter(torch.zeros(1))
    optimizer = accelerator.prepare(torch.optim.AdamW([weight], lr=0.1, fused=True))
    guard = FiniteGuard(accelerator, optimizer, waits=False)
    loss = weight.sqrt().sum()  # 0, and its slope there is infinite
    accelerator.backward(loss)
    assert not guard.step(0, guard.check_gradient(guard.check_loss(loss.detach()), None))
    assert weight.item() == 0.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="a GPU's steps wait for nobody")
def test_on_a_gpu_no_step_waits_for_the_host() -> None:
    accelerator = Accelerator()
    line = nn.Linear(3, 1).cuda()
    model, optimizer = accelerator.prepare(line, torch.optim.AdamW(line.parameters(), lr=0.1, fused=True))
    guard = FiniteGuard(accelerator, optimizer, waits=False)
    batch = torch.ones(2, 3, device="cuda")
    for step in range(3):
        loss = model(batch).square().mean() * (torch.nan if step == 2 else 1.0)
        accelerator.backward(loss)
        before = line.weight.detach().clone()
        torch.cuda.set_sync_debug_mode("error" if step else "default")  # the first step makes what is kept
        try:
            guard.step(step, guard.check_gradient(guard.check_loss(loss.detach()), None))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.equal(before, line.weight) == (step == 2)
        optimizer.zero_grad()
