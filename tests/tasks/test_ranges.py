"""Every number and word of a recipe is declared in the schema; what is not meant is refused in a line before any job."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_type_hints

import pytest

from backbones.encoders import features, preprocessing
from backbones.errors import UserError
from backbones.mae import masking, targets
from mae_bench.engine import loop
from mae_bench.engine.optimizer import check
from mae_bench.recipes.load import _build, layers_of, load_recipe
from mae_bench.recipes.protocol_files import Layer, merged
from tasks import check_recipe, recipe_schema, registry
from tasks.classification import robustness
from tasks.classification.config import TEST_SETS
from tasks.pretraining.config import SAMPLINGS, TARGETS
from tasks.probing import kept
from tasks.probing import task as probing
from tasks.probing.config import NORMS, POOLS, STORES
from tasks.recipe import INTERPOLATIONS, PRECISIONS, Range


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


ROW = "vit_micro_patch8_embedded"
RECIPES = [f"{each}/{ROW}" for each in ("pretrain", "finetune", "probe", "detection", "segmentation")]
WRONG: dict[str, tuple[Any, ...]] = {
    "any": ({"x": 1}, [], [[1]], [None], [math.nan], b"x", {1, 2}, datetime.date(2026, 11, 28)),
    "text": (5, -1, 2.5, math.nan, True, ["x"], "\0"),
    "bool": (5, 0, -1, math.nan, "zzz", ["x"]),
    "number": ("zzz", "", True, math.nan, math.inf, -1, 10**30, ["x"], [1]),
    "list": ("zzz", 5, True, math.nan, [True], [[1, 2], 3]),
}
# Where one of those is a value after all.
TAKEN = {
    "data.allow": ([],),
    "schedule.milestones": ([],),
    "detection.global_blocks": ([],),
    "features.layers": (),
    "data.options": (),
}


def all_keys(schema: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, kind of its value) of a schema."""
    hints = get_type_hints(schema)
    for entry in fields(schema):
        default = entry.default_factory() if entry.default_factory is not MISSING else entry.default
        words = re.findall(r"\w+", str(hints[entry.name]))
        if is_dataclass(default):
            yield from all_keys(type(default), f"{prefix}{entry.name}.")
        elif entry.name != "task":  # another schema
            kinds = {
                "dict": "options",
                "list": "list",
                "bool": "bool",
                "str": "text",
                "int": "number",
                "float": "number",
            }
            yield f"{prefix}{entry.name}", next(kind for name, kind in kinds.items() if name in words)


def refusal(name: str, layers: list[Layer], key: str, value: Any) -> str | None:
    """What a plan says of a recipe with that value; None where it takes it."""
    content = value
    for part in reversed(key.split(".")):
        content = {part: content}
    try:
        recipe = _build([*layers, Layer(content, f"--set {key}={value}")], name)
        check(recipe)
        check_recipe(recipe)
    except UserError as e:
        return str(e)
    return None


def test_no_key_takes_a_value_of_another_kind() -> None:
    """Every key of every task once, with each value that is none of its kind."""
    seen: set[tuple[str, str]] = set()
    took, long = [], []
    for name in RECIPES:
        layers = [Layer(merged(layers_of(name)), name)]
        keys = set(all_keys(recipe_schema(load_recipe(name).task)))
        for key, kind in sorted(keys - seen):
            for value in (*WRONG["any"], *WRONG.get(kind, (5, "x", [1], True))):
                if value in TAKEN.get(key, ()):
                    continue
                said = refusal(name, layers, key, value)
                if said is None:
                    took.append(f"{key}={value!r}")
                elif "\n" in said or len(said) > 400 or "Config" in said:
                    long.append(f"{key}={value!r}: {said}")
        seen |= keys
    assert len(seen) > 100
    assert took == []
    assert long == []


def test_words_of_schemas_are_those_that_are_understood() -> None:
    assert set(SAMPLINGS) == set(masking.SAMPLINGS)
    assert set(TARGETS) == set(targets.TARGETS)
    assert set(INTERPOLATIONS) == set(preprocessing.INTERPOLATIONS)
    assert set(NORMS) == set(features.NORMS)
    assert set(STORES) == set(kept.STORES)
    assert set(POOLS) == set(probing.POOLS)
    assert set(PRECISIONS) == set(loop.PRECISIONS)
    assert set(TEST_SETS) == set(robustness.KINDS)


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
        ("optimizer.betas=[0.9]", "optimizer.betas=[0.9]: a list of 1: give 2 of them"),
        ("augmentation.scale=[0.2]", "augmentation.scale=[0.2]: a list of 1: give 2 of them"),
        ("head.pool=avgg", 'unknown word "avgg" in head.pool: did you mean "avg"?'),
        ("augmentation.crop=tff", 'unknown word "tff" in augmentation.crop: did you mean "tf"?'),
        ("data.decoder=fats", 'unknown word "fats" in data.decoder: did you mean "fast"?'),
        ("train.precision=fp8", 'unknown word "fp8" in train.precision'),
        ("title=5", "--set title=5: takes a text, not 5: write it in quotes (title)"),
        ("data.root=5", "--set data.root=5: takes a text, not 5: write it in quotes (data.root)"),
        ('data.root=""', "data.root: an empty text: give one, or null"),
        ("train.compile=1", "--set train.compile=1: takes true or false, not 1 (train.compile)"),
        (
            "optimizer.betas=[[0.9],0.9]",
            "--set optimizer.betas=[[0.9],0.9]: takes a list of which each is a number, not [0.9]",
        ),
        ("optimizer.blr='1e-3'", "--set optimizer.blr='1e-3': takes a number, not 1e-3: write it without quotes"),
        ("optimizer.name=null", "--set optimizer.name=null: takes a text, not null (optimizer.name)"),
        ("seed=-1", "seed=-1: give a number from 0"),
        ("train.ema=1", "train.ema=1.0"),
        ("train.log_every_steps=0", "train.log_every_steps=0"),
    ],
)
def test_a_number_outside_its_range_is_refused(override: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe("finetune/vit_micro_patch8_embedded", [override])
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.options.train_count=-4", "embedded data set: train_count must lie in 1..999999, not -4"),
        (
            "data.options.train_count=.nan",
            "data.options of the embedded set: takes a whole number, not nan (train_count)",
        ),
        ("data.options.digit_size=[34]", "embedded data set: digit_size must be [smallest, largest]"),
        ("data.options.trian_count=4", 'unknown option "trian_count" in data.options: did you mean "train_count"?'),
        ("data.allow=[nonsense]", 'unknown reason "nonsense" in data.allow'),
        ("augmentation.auto_augment=rand-q9", "augmentation.auto_augment=rand-q9: give timm's RandAugment"),
        ("augmentation.scale=[1.0,0.5]", "augmentation.scale=[1.0, 0.5]: give [smallest, largest]"),
    ],
)
def test_values_that_no_job_can_take_are_refused_by_the_plan(override: str, said: str) -> None:
    recipe = load_recipe("finetune/vit_micro_patch8_embedded", [override])
    with pytest.raises(UserError) as caught:
        check_recipe(recipe)
    assert str(caught.value).startswith(said)


def test_ranges_as_people_read_them() -> None:
    assert str(Range(1)) == "a number from 1"
    assert str(Range(0, 1, above=True)) == "a number above 0 to 1"
    assert str(Range()) == "a finite number"
    assert 0 not in Range(0, above=True)
    assert float("nan") not in Range()
