"""What a pre-training says of itself: its settings, and which of them its recipe changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from backbones.errors import UserError
from mae_bench.recipes.load import load_recipe, recipe_hash, recipe_names
from mae_bench.recipes.pretraining import default_recipe_name, describe_pretraining, pretraining_from_metadata, settings
from mae_bench.tables.definitions.ablations import ABLATIONS, PAPER

ROWS = [name for name in recipe_names() if name.startswith("pretrain/ablations/")]
MICRO = "pretrain/vit_micro_patch8_embedded_ablations"


def changed(name: str, *overrides: str, base: str | None = None) -> list[str]:
    recipe = load_recipe(name, overrides, base=base)
    keys: list[str] = describe_pretraining(recipe, load_recipe(default_recipe_name(name, base), overrides))["changed"]
    return keys


def test_the_default_is_the_papers() -> None:
    default = settings(load_recipe("pretrain/ablations/default"))
    assert {key: default[key] for key in PAPER} == PAPER


@pytest.mark.parametrize("name", ROWS)
def test_a_row_changes_what_its_table_varies_and_nothing_else(name: str) -> None:
    keys = changed(name)
    assert any(set(keys) <= set(ablation.keys) for ablation in ABLATIONS)


def test_every_row_of_the_tables_has_a_recipe() -> None:
    made = [settings(load_recipe(name)) for name in ROWS]
    for ablation in ABLATIONS:
        for row in ablation.rows:
            fitting = [s for s in made if all(s[k] == pytest.approx(v) for k, v in row.settings.items())]
            assert fitting, f"{ablation.name}: {row.label}"


def test_only_values_that_differ_are_changed() -> None:
    assert changed("pretrain/ablations/default") == []
    assert changed("pretrain/ablations/decoder_depth_8") == []
    assert changed("pretrain/ablations/decoder_depth_1") == ["mae.decoder_depth"]
    assert changed("pretrain/ablations/sampling_block_50") == ["mae.mask_ratio", "mae.mask_sampling"]


def test_a_recipe_outside_an_ablation_is_a_default_itself() -> None:
    assert changed("pretrain/vit_base_patch16_imagenet") == []


def test_overrides_change_the_default_too() -> None:
    assert changed("pretrain/ablations/decoder_depth_1", "mae.mask_ratio=0.5") == ["mae.decoder_depth"]


def test_another_base_goes_under_a_row() -> None:
    row = load_recipe("pretrain/ablations/decoder_depth_1", base=MICRO)
    assert row.encoder.arch == "vit_micro_patch8"
    assert settings(row) == {**settings(load_recipe(MICRO)), "mae.decoder_depth": 1}
    assert changed("pretrain/ablations/decoder_depth_1", base=MICRO) == ["mae.decoder_depth"]
    # Its own depth is that of the row: nothing is changed, and it is the same run.
    same = load_recipe("pretrain/ablations/decoder_depth_2", base=MICRO)
    assert changed("pretrain/ablations/decoder_depth_2", base=MICRO) == []
    assert recipe_hash(same) == recipe_hash(load_recipe(MICRO))


def test_a_base_may_be_put_under_itself(tmp_path: Path) -> None:
    file = tmp_path / "row.yaml"
    file.write_text(f"base: {MICRO}\nmae: {{mask_ratio: 0.5}}\n")
    assert load_recipe(str(file), base=str(file)) == load_recipe(str(file))


def test_an_unknown_base_is_named() -> None:
    with pytest.raises(UserError, match="vit_micro_patch8_embeded"):
        load_recipe("pretrain/ablations/default", base="pretrain/vit_micro_patch8_embeded")


@pytest.mark.parametrize(
    "metadata",
    [{}, {"pretraining": 3}, {"pretraining": {"settings": {}}}, {"pretraining": {"settings": {}, "changed": [1]}}],
)
def test_metadata_that_cannot_be_used_is_no_pretraining(metadata: dict[str, object]) -> None:
    assert pretraining_from_metadata(metadata) is None


def test_metadata_is_cut_to_what_records_hold() -> None:
    said = {"settings": {"mae.mask_ratio": 0.5}, "changed": [], "images": 7, "flops_per_image": "many", "x": 1}
    assert pretraining_from_metadata({"pretraining": said}) == {
        "settings": {"mae.mask_ratio": 0.5},
        "changed": [],
        "images": 7,
    }
