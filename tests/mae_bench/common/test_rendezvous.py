"""Variables that name several processes by halves are one line, whoever starts them; all of them together are taken."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest
import torch

from backbones.errors import Interrupted, UserError
from mae_bench.common import rendezvous
from mae_bench.common.rendezvous import lost_companions_explained, said_by_all, several_processes
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


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:4: Connection reset by peer. This is"),
        RuntimeError("[../gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation"),
        torch.distributed.DistBackendError("NCCL communicator was aborted on rank 1."),
    ],
)
def test_a_process_that_is_gone_is_one_line(error: Exception) -> None:
    with pytest.raises(Interrupted, match="another process of this run is gone") as said, lost_companions_explained():
        raise error
    assert "\n" not in str(said.value)


def test_other_errors_stay_what_they_are() -> None:
    for error in (RuntimeError("shapes differ"), RuntimeError("gloo: invalid size"), ValueError("timed out")):
        with pytest.raises(type(error), match=str(error)), lost_companions_explained():
            raise error


def test_a_job_has_failed_where_all_processes_say_so() -> None:
    store = torch.distributed.HashStore()
    assert not said_by_all(store, "a failed", 1, 2, 0.05)
    with ThreadPoolExecutor() as pool:
        said = [pool.submit(said_by_all, store, "b failed", rank, 2, 5.0) for rank in (0, 1)]
    assert all(each.result() for each in said)
