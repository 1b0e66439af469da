"""Files of protocols: what a row is made of, in which order, and what a folder of the user's adds."""

from __future__ import annotations

from pathlib import Path

import pytest

from backbones.errors import UserError
from mae_bench.recipes import protocol_files
from mae_bench.recipes.load import explain, find, load_recipe, recipe_hash, recipe_names, suite_names
from mae_bench.recipes.protocol_files import config_root, include, matching, protocols

MINE = """
title: mine
defaults: {task: classification, head: {pool: avg}, optimizer: {blr: 1e-3}, schedule: {epochs: 1}, train: {batch_size: 8}}
arch:
  vit_small_patch16: {encoder: {drop_path: 0.1}, schedule: {epochs: 2}, train: {batch_size: 16}}
  vit_small_patch16_long: {base: vit_small_patch16, schedule: {epochs: 9}}
data:
  birds: {encoder: {img_size: 32}, train: {batch_size: 32}}
  rare_birds: {base: birds, data: {name: rare}}
rows:
  a: {arch: vit_small_patch16, data: birds}
  b: {arch: vit_small_patch16_long, data: rare_birds, title: the b}
  c: {base: a, published: mine, head: {label_smoothing: 0.1}}
  d: {base: c, protocol: finetune, seed: 4}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(protocol_files.INCLUDE, "")
    return tmp_path


def write(folder: Path, text: str, name: str = "mine") -> Path:
    (folder / f"{name}.yaml").write_text(text)
    return folder


def test_a_later_layer_wins_defaults_arch_data_row(folder: Path) -> None:
    include([write(folder, MINE)])
    a, b, c = (load_recipe(f"mine/{row}") for row in "abc")
    assert (a.encoder.arch, a.encoder.drop_path, a.encoder.img_size) == ("vit_small_patch16", 0.1, 32)
    assert (a.schedule.epochs, a.train.batch_size, a.data.name, a.protocol) == (2, 32, "birds", "mine")
    assert (b.encoder.arch, b.schedule.epochs, b.data.name, b.title) == ("vit_small_patch16", 9, "rare", "the b")
    assert (c.title, c.published, c.head.label_smoothing) == (a.title, "mine", 0.1)  # type: ignore[attr-defined]


def test_neither_figure_nor_cost_passes_to_what_stands_on_a_recipe(folder: Path) -> None:
    include([write(folder, "base: finetune\nrows:\n  x: {base: finetune/vit_base_patch16_imagenet, seed: 1}\n")])
    recipe, base = load_recipe("mine/x"), load_recipe("finetune/vit_base_patch16_imagenet")
    assert base.published
    assert base.cost.gpu_hours
    assert (recipe.published, recipe.cost.gpu_hours) == ("", None)


def test_a_protocol_of_ones_own_is_part_of_the_identity_and_a_shipped_one_is_not(folder: Path) -> None:
    include([write(folder, MINE)])
    own, shipped = load_recipe("mine/c"), load_recipe("mine/d")
    assert (own.protocol, shipped.protocol) == ("mine", "finetune")
    assert recipe_hash(own) != recipe_hash(shipped)
    assert recipe_hash(load_recipe("mine/c", ["protocol=finetune"])) == recipe_hash(shipped)


def test_a_key_of_the_protocol_that_others_have_does_not_move_a_recipe_to_another_table() -> None:
    assert load_recipe("detection/vit_base_patch16_coco", ["data.name=mine"]).protocol == "detection"
    assert load_recipe("lvis/vit_base_patch16_lvis", ["data.name=half_of_lvis"]).protocol == "lvis"


@pytest.mark.parametrize(
    ("name", "override", "implied"),
    [
        ("finetune/vit_base_patch16_imagenet", "head.frozen_encoder=true", "linear"),
        ("detection/vit_base_patch16_coco", "data.name=lvis", "lvis"),
        ("detection/vit_base_patch16_coco", "detection.pyramid=fpn", "detection_fpn"),
        ("segmentation/vit_base_patch16_ade20k", "segmentation.freeze_encoder=true", "segmentation_frozen"),
        ("knn/vit_base_patch16_imagenet", "method=probe", "probe"),
        ("linear/vit_base_patch16_imagenet", "protocol=finetune", "linear"),
    ],
)
def test_values_of_another_protocol_are_refused_with_the_way_out(name: str, override: str, implied: str) -> None:
    with pytest.raises(UserError, match=f"protocol={implied}, or a protocol name of your own"):
        load_recipe(name, [override])
    assert load_recipe(name, [override, f"protocol={implied}"]).protocol == implied
    assert load_recipe(name, [override, "protocol=mine"]).protocol == "mine"


def test_a_protocol_of_another_task_is_refused() -> None:
    with pytest.raises(UserError, match="protocol knn is of task probing, not of classification"):
        load_recipe("finetune/vit_base_patch16_imagenet", ["protocol=knn"])


@pytest.mark.parametrize("name", ["../x", "a b", "-x", "a/b", "é", "x" * 101])
def test_a_protocol_names_a_folder(name: str) -> None:
    with pytest.raises(UserError, match="letters, digits"):
        load_recipe("finetune/vit_base_patch16_imagenet", [f"protocol={name}"])


def test_an_included_folder_adds_rows_to_a_known_protocol_and_suites(folder: Path) -> None:
    row = "rows:\n  vit_tiny_patch16_imagenet: {arch: vit_base_patch16, data: imagenet, encoder: {arch: vit_tiny_patch16}}\n"
    write(folder, row, "finetune")
    (folder / "suites").mkdir()
    (folder / "suites" / "nightly.yaml").write_text("title: x\n")
    include([folder])
    assert "finetune/vit_tiny_patch16_imagenet" in recipe_names()
    assert find("recipe", "finetune/vit_tiny_patch16_imagenet").parent == config_root()
    assert "nightly" in suite_names()
    assert find("suite", "nightly") == folder / "suites" / "nightly.yaml"
    assert "finetune/vit_tiny_patch16_imagenet" in matching("finetune/*_imagenet")
    assert "finetune/vit_tiny_patch16_imagenet" not in matching("finetune/*_imagenet", included=False)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("finetune", "rows: {vit_base_patch16_imagenet: {base: x}}", "is there already"),
        ("finetune", "defaults: {seed: 1}", "give it another name and base: finetune"),
        ("mine", "rows: {a: {arch: vit_base_patch16}}", "give arch and data"),
        ("mine", "base: finetune\nrows: {a: {arch: vit_base_patch16, data: imagenett}}", 'did you mean "imagenet"'),
        (
            "mine",
            "base: finetune\nrows: {a: {arch: vit_bas_patch16, data: imagenet}}",
            'did you mean "vit_base_patch16"',
        ),
        ("mine", "rows: {a: {base: b}, b: {base: a}}", "leads back"),
        ("mine", "rows: {a: {base: 3}}", "give a recipe's name"),
        (
            "mine",
            "base: finetune\ndata: {x: {base: y}, y: {base: x}}\nrows: {a: {arch: vit_base_patch16, data: x}}",
            "leads",
        ),
        ("mine", "base: finetune\nrows: {a: {arch: vit_base_patch16, data: imagenet, optimiser: {}}}", '"optimizer'),
    ],
)
def test_a_mistake_in_a_file_is_named(folder: Path, name: str, text: str, said: str) -> None:
    def included() -> None:
        include([write(folder, text, name)])
        load_recipe("mine/a")

    with pytest.raises(UserError) as refused:
        included()
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("row: {}", 'did you mean "rows"'),
        ("base: mine", "leads back"),
        ("base: nowhere", "nowhere"),
        ("rows: [a]", "rows: give a mapping"),
        ("data: {x: 3}", "data: give a mapping"),
        ("defaults: 3", "defaults: give a mapping"),
        ("title: [x]", "title: give a text"),
    ],
)
def test_a_file_that_is_none_is_refused_when_it_is_included(folder: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        include([write(folder, text)])


def test_a_folder_that_is_not_there_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no such folder"):
        include([folder / "nowhere"])
    monkeypatch.setenv(protocol_files.INCLUDE, str(folder / "nowhere"))
    with pytest.raises(UserError, match=protocol_files.INCLUDE):
        recipe_names()


def test_every_value_is_explained() -> None:
    found = {item["key"]: item for item in explain("partial/vit_large_patch16_imagenet_half", ["seed=3"])}
    where = {
        "optimizer.betas": "configs/finetune.yaml: defaults",
        "encoder.drop_path": "configs/partial.yaml: arch.vit_large_patch16",
        "augmentation.erasing": "configs/partial.yaml: data.imagenet",
        "head.tune_blocks": "configs/partial.yaml: rows.vit_large_patch16_imagenet_half",
        "seed": "--set seed=3",
        "train.ema": "default of the task",
    }
    assert {key: found[key]["where"] for key in where} == where
    assert (found["head.tune_blocks"]["value"], found["encoder.drop_path"]["value"]) == (0.5, 0.1)


def test_values_that_the_batch_size_scales_say_so() -> None:
    found = {item["key"]: item for item in explain("detection/vit_base_patch16_coco", ["train.batch_size=16"])}
    assert found["optimizer.lr"]["value"] == pytest.approx(2.5e-5)
    assert found["optimizer.lr"]["where"] == "configs/detection.yaml: data.coco, scaled to train.batch_size"


def test_configs_holds_files_of_protocols_and_suites_alone() -> None:
    found = {path.relative_to(config_root()).parts for path in config_root().rglob("*") if path.is_file()}
    assert {parts for parts in found if len(parts) > 1 and parts[0] != "suites"} == set()


def test_files_say_on_top_what_they_are_and_how_to_run_it() -> None:
    for file in protocols().values():
        head = file.path.read_text().partition("\n\n")[0]
        assert head.startswith("#"), file.path
        for word in ("mae", "Reproduces:", "Cost:"):
            assert word in head, (file.path, word)
