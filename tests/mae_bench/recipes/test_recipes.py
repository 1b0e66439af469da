"""Recipes: YAML and ``--set`` checked against the task's schema; a mistake is one line with the nearest name."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from backbones.errors import UserError
from backbones.vit.arch import parse_arch
from mae_bench.engine import optimizer as optim
from mae_bench.recipes.load import (
    as_dict,
    describe,
    explain,
    find,
    from_record,
    load_recipe,
    recipe_hash,
    recipe_names,
    suite_names,
)

FINETUNE = "finetune/vit_micro_patch8_embedded"


def refusal(name: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(name, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_is_complete(name: str) -> None:
    recipe = load_recipe(name)
    optim.check(recipe)
    *_, patch = parse_arch(recipe.encoder.arch)
    assert recipe.encoder.img_size % patch == 0
    assert recipe.title
    assert describe(name)["task"] == recipe.task
    assert recipe.protocol == recipe.implied_protocol() == find("recipe", name).stem == name.split("/")[0]


def test_suites_are_not_recipes() -> None:
    assert "quickstart" in suite_names()
    assert not any(name.startswith("suites/") for name in recipe_names())


def test_values_of_the_file_and_defaults_of_the_schema_come_together() -> None:
    recipe = load_recipe(FINETUNE)
    assert recipe.encoder.arch == "vit_micro_patch8"
    assert recipe.optimizer.layer_decay == 0.75
    assert recipe.train.precision == "fp32"  # nowhere in the file


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("optimizer.lr=2e-3", "optimizer.lr", 2e-3),
        ("optimizer.betas=[0.5,0.6]", "optimizer.betas", [0.5, 0.6]),
        ("optimizer.layer_decay=null", "optimizer.layer_decay", None),
        ("train.cache_images=false", "train.cache_images", False),
        ("schedule.epochs=3", "schedule.epochs", 3.0),
        ("data.root=/some/a=b", "data.root", "/some/a=b"),
        ("data.options.train_count=7", "data.options.train_count", 7),
        ("title=''", "title", ""),
        ("seed=5", "seed", 5),
    ],
)
def test_override_sets_its_key_and_nothing_else(override: str, key: str, value: object) -> None:
    before, after = as_dict(load_recipe(FINETUNE)), as_dict(load_recipe(FINETUNE, [override]))
    assert OmegaConf.select(OmegaConf.create(after), key) == value
    expected = OmegaConf.create(before)
    OmegaConf.update(expected, key, value, force_add=True)
    assert after == OmegaConf.to_container(expected)


def test_later_overrides_win() -> None:
    assert load_recipe(FINETUNE, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("optimizer.blrr=1", ['"optimizer.blrr"', 'did you mean "optimizer.blr"?', "--set optimizer.blrr=1"]),
        ("optimiser.lr=1", ['did you mean "optimizer']),
        ("sede=1", ['did you mean "seed"?']),
        ("segmentation.channels=3", ["unknown key"]),  # another task's section
        ("optimizer.lr=fast", ["optimizer.lr", "fast"]),
        ("train.cache_images=5x", ["train.cache_images"]),
        ("encoder=5", ["encoder", "group of keys"]),
        ("optimizer.betas=0.9", ["takes a list, such as", "optimizer.betas"]),
        ("data.limit_train=1.5", ["takes a whole number, not 1.5"]),
        ("train.compile=maybe", ["takes true or false, not maybe"]),
        ("encoder.img_size.x=5", ["encoder.img_size"]),
        ("optimizer.lr", ["give key=value"]),
        ("=3", ["give key=value"]),
        ("optimizer.betas=[0.9", ["optimizer.betas"]),
        ("data.root=${nowhere}", ["nowhere"]),
        ("a..b=1", ["a..b"]),
    ],
)
def test_bad_override_is_named(override: str, parts: list[str]) -> None:
    message = refusal(FINETUNE, override)
    for part in parts:
        assert part in message


@given(st.text(max_size=20), st.text(max_size=12))
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_any_override_is_taken_or_refused_in_one_line(key: str, value: str) -> None:
    for override in (f"{key}={value}", f"data.root={value}"):
        try:
            load_recipe(FINETUNE, [override])
        except UserError as e:
            message = str(e)
        else:
            message = ""
        assert "\n" not in message


def test_unknown_recipe_is_answered_with_the_nearest() -> None:
    assert f'did you mean "{FINETUNE}"' in refusal("finetune/vit_micro_patch8_embeded")
    assert "no such file" in refusal("/nowhere/recipe.yaml")


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("task: classification\noptimizer: {lrr: 1}\n", 'did you mean "optimizer.lr"?'),
        ("task: classification\nencoder: {img_size: big}\n", "encoder.img_size"),
        ("task: clasification\n", 'did you mean "classification"?'),
        ("title: no task\n", "needs task:"),
        ("task: [1]\n", "needs task:"),
        ("task: classification\nbase: nowhere\n", "nowhere"),
        ("task: classification\nbase: 3\n", "base"),
        ("- a list\n", "mapping"),
        ("", "mapping"),
        ("a: [1\n", "YAML"),
        ("a: !!python/object/apply:os.system ['touch x']\n", "YAML"),
        ("task: classification\nseed: 1\nseed: 2\n", "twice"),
        ("task: classification\ntitle: ${oc.env:HOME}\n", "${oc.env:HOME}"),
        ("rows: {a: {}}\n", "--include"),
        ("task: classification\n3: 4\n", "3"),
    ],
)
def test_bad_recipe_file_is_named(tmp_path: Path, text: str, part: str) -> None:
    path = write(tmp_path / "r.yaml", text)
    message = refusal(path)
    assert path in message or part == "nowhere"
    assert part in message


def test_recipe_extends_one_beside_it_or_a_shipped_one(tmp_path: Path) -> None:
    write(tmp_path / "mine.yaml", f"base: {FINETUNE}\noptimizer: {{lr: 0.5}}\n")
    path = write(tmp_path / "other.yaml", "base: mine\nseed: 4\n")
    recipe = load_recipe(path)
    assert (recipe.optimizer.lr, recipe.seed, recipe.optimizer.layer_decay) == (0.5, 4, 0.75)


def test_a_file_of_ones_own_takes_its_protocol_from_its_base_its_own_key_or_its_values(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.yaml", "task: classification\nhead: {frozen_encoder: true}\noptimizer: {lr: 1}\n")
    based = write(tmp_path / "based.yaml", f"base: {FINETUNE}\nhead: {{label_smoothing: 0}}\n")
    named = write(tmp_path / "named.yaml", f"base: {FINETUNE}\nhead: {{frozen_encoder: true}}\nprotocol: mine\n")
    assert [load_recipe(path).protocol for path in (plain, based, named)] == ["linear", "finetune", "mine"]
    moved = write(tmp_path / "moved.yaml", f"base: {FINETUNE}\nhead: {{frozen_encoder: true}}\n")
    assert "protocol=linear" in refusal(moved)


def test_evaluating_alone_is_a_property() -> None:
    assert not load_recipe(FINETUNE).evaluate_only
    assert load_recipe("knn/vit_base_patch16_imagenet").evaluate_only
    assert load_recipe("segmentation/vit_base_patch16_ade20k_ms").evaluate_only


def test_bases_that_lead_back_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "base: b\n")
    assert "leads back" in refusal(write(tmp_path / "b.yaml", "base: a\n"))


@pytest.mark.parametrize(
    "override",
    ["seed=9", "title=x", "data.root=/x", "train.workers=0", "train.micro_batch_size=8", "train.compile=true"],
)
def test_hash_leaves_out_how_and_where_a_run_is_carried_out(override: str) -> None:
    assert recipe_hash(load_recipe(FINETUNE, [override])) == recipe_hash(load_recipe(FINETUNE))


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.lr=2e-3",
        "train.batch_size=32",
        "train.precision=bf16",
        "data.name=x",
        "data.limit_train=9",
        "augmentation.mixup=0.8",
        "data.options.seed=1",
        "train.ema=0.9",
    ],
)
def test_hash_covers_what_is_learnt(override: str) -> None:
    assert recipe_hash(load_recipe(FINETUNE, [override])) != recipe_hash(load_recipe(FINETUNE))


def test_a_record_reads_no_environment() -> None:
    values = as_dict(load_recipe(FINETUNE)) | {"title": "${oc.env:HOME}"}
    with pytest.raises(UserError, match=r"record\.json: title: .*write the value itself"):
        from_record("classification", values, "finetune", "record.json")


def test_a_record_from_before_the_key_takes_the_records_protocol() -> None:
    recipe = load_recipe("linear/vit_micro_patch8_embedded")
    values = {key: value for key, value in as_dict(recipe).items() if key != "protocol"}
    assert from_record("classification", values, "linear", "record.json") == recipe


def test_written_configuration_gives_the_same_recipe_back(tmp_path: Path) -> None:
    recipe = load_recipe(FINETUNE, ["seed=3", "optimizer.betas=[0.1,0.2]"])
    path = tmp_path / "config.yaml"
    OmegaConf.save(OmegaConf.create(as_dict(recipe)), path)
    assert load_recipe(str(path)) == recipe


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("finetune/vit_base_patch16_imagenet", True),
        ("linear/vit_large_patch16_imagenet", True),
        ("robustness/vit_base_patch16_imagenet_a", True),
        ("pretrain/vit_base_patch16_imagenet", True),
        ("knn/vit_base_patch16_imagenet", False),  # fp32, as the original
        ("detection/vit_base_patch16_coco", False),  # fp16, as the original
        ("finetune/vit_micro_patch8_embedded", False),
    ],
)
def test_the_page_of_a_recipe_says_where_the_original_has_another_precision(name: str, said: bool) -> None:
    (line,) = (line for line in explain(name) if line["key"] == "train.precision")
    assert ("the original: fp16 with a loss scaler" in line["where"]) == said
    if said:
        (other,) = (e for e in explain(name, ["train.precision=fp16"]) if e["key"] == "train.precision")
        assert other["value"] == "fp16"
        assert "original" not in other["where"]
