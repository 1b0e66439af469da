"""``--data NAME=DIR`` under a name that no recipe has is a user's own data set, for the protocols that can take one."""

from __future__ import annotations

import pytest

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from backbones.errors import UserError
from mae_bench.jobs.from_tasks import from_tasks
from mae_bench.jobs.job import PlannedJob
from mae_bench.recipes.options import Options


def chosen(task: str, data: dict[str, str]) -> PlannedJob:
    (entry,) = from_tasks([task], "vit_micro_patch8", None, Options(data)).jobs
    return entry


def test_own_data_takes_the_recipe_of_coco_and_keeps_its_name() -> None:
    entry = chosen("detection", {"mine": "/mine"})
    assert entry.recipe_name == "detection/vit_micro_patch8_coco256"
    assert (entry.recipe.data.name, entry.recipe.data.root) == ("mine", "/mine")
    assert entry.recipe.protocol == "detection"


def test_names_of_recipes_are_no_own_data() -> None:
    entry = chosen("detection", {"coco": "/coco"})
    assert (entry.recipe.data.name, entry.recipe.data.root) == ("coco", "/coco")
    with pytest.raises(UserError, match="needs data: give --data coco=DIR"):
        from_tasks(["detection"], "vit_micro_patch8", None, Options({"imagenet": "/imagenet"}))


def test_of_two_own_names_each_gets_a_job() -> None:
    jobs = from_tasks(["finetune"], "vit_small_patch14", None, Options({"mine": "/a", "yours": "/b"})).jobs
    assert [(job.recipe_name, job.recipe.data.name, job.recipe.data.root) for job in jobs] == [
        ("finetune/vit_small_patch14_mine", "mine", "/a"),
        ("finetune/vit_small_patch14_yours", "yours", "/b"),
    ]


def test_every_task_takes_own_data_beside_sets_that_others_know() -> None:
    """One rule: a set that the protocol has values for, else the user's own."""
    data = {"imagenet": "/imagenet", "scenes": "/scenes"}
    jobs = from_tasks(["knn", "segmentation", "detection"], "vit_base_patch16", None, Options(data)).jobs
    assert [job.recipe.data.name for job in jobs] == ["imagenet", "scenes", "scenes"]
