"""The recipes and suites are those from before configs/ had one file a protocol: `before.json.xz` holds what they were then.

Made of the 231 files of commit 05d674b. Keys that a schema has got since then may be there besides.
"""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from mae_bench.jobs.plan import Request, make_plan
from mae_bench.recipes.load import as_dict, describe, load_recipe, recipe_hash, recipe_names, suite_names
from mae_bench.recipes.options import Options
from mae_bench.recipes.protocol_files import flat

BEFORE: dict[str, Any] = json.loads(lzma.decompress((Path(__file__).parent / "before.json.xz").read_bytes()))
RECIPES: dict[str, Any] = BEFORE["recipes"]


def set_back(name: str) -> list[str]:
    """What has been changed on purpose since: the study runs in bfloat16, embedded scenes are detected one by one."""
    study = "cifar10_study" in name or ("vit_mini_patch4" in name and not name.startswith("knn/"))
    scenes = name in ("detection/vit_micro_patch8_embedded", "detection_fpn/vit_micro_patch8_embedded")
    return [*(["train.precision=fp32"] if study else []), *(["train.eval_batch_size=10"] if scenes else [])]


def test_every_recipe_is_there() -> None:
    assert RECIPES.keys() <= set(recipe_names())
    assert len(RECIPES) == 206


@pytest.mark.parametrize("name", RECIPES)
def test_values_protocol_and_hash_stay(name: str) -> None:
    recipe, before = load_recipe(name, set_back(name)), RECIPES[name]
    wanted = {**BEFORE["common"][before["task"]], **before["values"]}
    values = dict(flat(json.loads(json.dumps(as_dict(recipe)))))
    assert {key: values.get(key) for key in wanted} == wanted
    assert (recipe.protocol, recipe_hash(recipe)) == (before["protocol"], before["hash"])
    said = describe(name)
    told = {"task": "task", "arch": "encoder.arch", "data": "data.name", "title": "title", "published": "published"}
    assert {key: said[key] for key in told} == {key: wanted[dotted] for key, dotted in told.items()}


@pytest.mark.slow
def test_rows_of_ablations_over_another_base_stay() -> None:
    for both, wanted in BEFORE["over"].items():
        name, base = both.split(" over ")
        assert recipe_hash(load_recipe(name, set_back(base), base=base)) == wanted, both


@pytest.mark.slow
@pytest.mark.parametrize("name", BEFORE["suites"])
def test_a_suite_has_the_jobs_that_it_had(name: str) -> None:
    before = BEFORE["suites"][name]
    assert name in suite_names()
    made = make_plan(Request(suite=name, options=Options(overrides=set_back(name))))
    jobs = {
        job.name: [recipe_hash(job.recipe), job.start, job.after, (job.pretraining or {}).get("changed")]
        for job in made.jobs
    }
    assert jobs == before["jobs"]
    assert (made.tables, made.speed) == (before["tables"], before["speed"])
