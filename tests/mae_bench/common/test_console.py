"""Accelerate's variables do not change what a recipe says: they are ignored, with a line."""

from __future__ import annotations

import os

import pytest

from mae_bench.engine.loop import create_accelerator
from mae_bench.recipes.load import load_recipe


def test_accelerates_variables_are_ignored_with_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
        "ACCELERATE_DYNAMO_BACKEND": "inductor",
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_USE_FSDP": "true",
        "ACCELERATE_MIXED_PRECISION": "bf16",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    accelerator = create_accelerator(load_recipe("finetune/vit_micro_patch8_embedded"))
    assert (accelerator.gradient_accumulation_steps, accelerator.mixed_precision) == (1, "no")
    assert not given.keys() & os.environ.keys()
    told = capsys.readouterr().err
    assert all(name in told for name in given)
    create_accelerator(load_recipe("finetune/vit_micro_patch8_embedded"))
    assert not capsys.readouterr().err
