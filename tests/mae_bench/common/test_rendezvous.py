"""Variables that name several processes by halves are one line, whoever starts them; all of them together are taken."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from backbones.errors import UserError
from mae_bench.common import rendezvous
from mae_bench.common.rendezvous import several_processes
from mae_bench.recipes.load import load_recipe, recipe_hash

RECIPE = "scratch/vit_micro_patch8_embedded"

NAMES = [
    *("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "PMI_SIZE", "PMI_RANK"),
    *("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"WORLD_SIZE": "2"}, "RANK is not"),
        ({"RANK": "0"}, "WORLD_SIZE is not"),
        ({"LOCAL_RANK": "0"}, "WORLD_SIZE is not"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_RANK is not"),
        ({"PMI_RANK": "1"}, "PMI_SIZE is not"),
        ({"WORLD_SIZE": "x", "RANK": "0"}, "WORLD_SIZE=x is no whole number"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "a"}, "RANK=2 is beyond"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR is not set"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "p"}, "MASTER_PORT=p"),
    ],
)
def test_half_set_variables_are_one_line(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], named: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=named):
        several_processes()


@pytest.mark.parametrize(
    ("variables", "several"),
    [
        ({}, False),
        ({"WORLD_SIZE": "1"}, False),
        ({"WORLD_SIZE": "1", "RANK": "0"}, False),
        ({"LOCAL_RANK": "-1"}, False),
        ({"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "29500"}, True),
    ],
)
def test_whole_ones_are_taken(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], several: bool) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert several_processes() is several


def test_the_recipe_says_how_long_the_others_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class State:
        _shared_state: ClassVar[dict[str, Any]] = {}
        device = torch.device("cpu")

        def __init__(self, **options: Any) -> None:
            seen.update(options)

    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rendezvous, "PartialState", State)
    monkeypatch.setattr(rendezvous, "_limit_seconds", [1800.0])
    rendezvous.wait_at_most(load_recipe(RECIPE, ["train.rendezvous_timeout=7"]).train.rendezvous_timeout)
    rendezvous.join()
    assert seen["timeout"].total_seconds() == 7


def test_waiting_is_no_part_of_what_is_learnt() -> None:
    assert recipe_hash(load_recipe(RECIPE, ["train.rendezvous_timeout=7"])) == recipe_hash(load_recipe(RECIPE))
    with pytest.raises(UserError, match=r"train\.rendezvous_timeout=0"):
        load_recipe(RECIPE, ["train.rendezvous_timeout=0"])
