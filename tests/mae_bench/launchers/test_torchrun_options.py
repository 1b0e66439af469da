"""What torchrun is told so that nodes meet, and what is said when they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from mae_bench.jobs.job import PlannedJob
from mae_bench.launchers.last_words import last_words
from mae_bench.launchers.torchrun import _flags
from mae_bench.recipes.load import load_recipe

RECIPE = "finetune/vit_micro_patch8_embedded"


def flags(**given: str) -> list[str]:
    return _flags(PlannedJob(RECIPE, load_recipe(RECIPE, ["train.rendezvous_timeout=7"])), given)


def test_nodes_meet_once_a_job_and_wait_as_long_as_the_recipe_says() -> None:
    told = flags(nnodes="2", rdzv_endpoint="a:29500")
    assert "--rdzv_backend=c10d" in told
    assert f"--rdzv_id={RECIPE.replace('/', '-')}-scratch-s0" in told
    assert "--rdzv_conf=join_timeout=7,timeout=7" in told
    assert "--standalone" not in told
    assert "--rdzv_conf=join_timeout=7,timeout=7,join_timeout=3" in flags(nnodes="2", rdzv_conf="join_timeout=3")


def test_one_node_needs_no_place_to_meet() -> None:
    assert {"--standalone", "--nproc_per_node=2"} <= set(flags(nproc_per_node="2"))


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("error: a\nerror: data/x.jpg: cannot be read\ntorch …\n", "data/x.jpg: cannot be read"),
        ("  raise X\ntorch.distributed.elastic.rendezvous.api.RendezvousTimeoutError\n", "did not come in time"),
        ("torch.distributed.DistNetworkError: The client socket has timed out after 6000ms", "nobody is where"),
        (
            "torch.distributed.elastic.rendezvous.api.RendezvousConnectionError: The connection to",
            "is gone or was never",
        ),
        ("Killed\n", None),
    ],
)
def test_a_log_tells_why_its_process_ended(tmp_path: Path, log: str, said: str | None) -> None:
    (tmp_path / "x.log").write_text(f"error: of an earlier start\n{log}")
    found = last_words(tmp_path / "x.log", begins=len("error: of an earlier start\n"))
    assert found == said if said is None else said in str(found)
    assert last_words(tmp_path / "none.log") is None
