"""Every number of a recipe has a range in the schema, and what lies outside is refused in a line when a recipe is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_type_hints

import pytest

from backbones.errors import UserError
from mae_bench.recipes.load import load_recipe
from tasks import recipe_schema, registry
from tasks.recipe import Range


def numeric_keys(schema: Any) -> Iterator[tuple[Any, str]]:
    hints = get_type_hints(schema)
    for entry in fields(schema):
        hint = re.findall(r"\w+", str(hints[entry.name]))
        default = entry.default_factory() if entry.default_factory is not MISSING else entry.default
        if is_dataclass(default):
            yield from numeric_keys(type(default))
        elif "dict" not in hint and ("int" in hint or "float" in hint):
            yield schema, entry.name


@pytest.mark.parametrize("task", registry())
def test_every_number_of_a_schema_has_a_range(task: str) -> None:
    found = list(numeric_keys(recipe_schema(task)))
    assert len(found) > 25
    assert [f"{schema.__name__}.{name}" for schema, name in found if name not in schema.RANGES] == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.batch_size=0", "train.batch_size=0: give a number from 1"),
        (
            "train.batch_size=99999999999999999999",
            "train.batch_size=99999999999999999999: give a number from 1 to 1e+06",
        ),
        ("train.micro_batch_size=0", "train.micro_batch_size=0"),
        ("train.eval_batch_size=0", "train.eval_batch_size=0"),
        ("data.limit_val=0", "data.limit_val=0: give a number from 1"),
        ("data.limit_train=-3", "data.limit_train=-3"),
        ("data.label_share=0", "data.label_share=0.0: give a number above 0 to 1"),
        ("train.workers=-1", "train.workers=-1: give a number from 0 to 256"),
        ("train.workers=99999", "train.workers=99999: give a number from 0 to 256"),
        ("optimizer.weight_decay=-0.1", "optimizer.weight_decay=-0.1"),
        ("optimizer.betas=[0.9,1.0]", "optimizer.betas=[0.9, 1.0]: give numbers, each from 0 to 0.999999"),
        ("optimizer.blr=.nan", "optimizer.blr=nan: give a number from 0"),
        ("optimizer.blr=.inf", "optimizer.blr=inf"),
        ("optimizer.blr=-1", "optimizer.blr=-1.0: give a number from 0"),
        ("schedule.epochs=0", "schedule.epochs=0.0: give a number above 0"),
        ("encoder.img_size=0", "encoder.img_size=0"),
        ("augmentation.scale=[0.0,1.0]", "augmentation.scale=[0.0, 1.0]"),
        ("train.ema=1", "train.ema=1.0"),
        ("train.log_every_steps=0", "train.log_every_steps=0"),
    ],
)
def test_a_number_outside_its_range_is_refused(override: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe("finetune/vit_micro_patch8_embedded", [override])
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_ranges_as_people_read_them() -> None:
    assert str(Range(1)) == "a number from 1"
    assert str(Range(0, 1, above=True)) == "a number above 0 to 1"
    assert str(Range()) == "a finite number"
    assert 0 not in Range(0, above=True)
    assert float("nan") not in Range()
