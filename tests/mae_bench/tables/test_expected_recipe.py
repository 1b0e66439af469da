"""A cell beside a published figure is filled by runs of the recipe that the figure is of; other recipes stand apart."""

from __future__ import annotations

from typing import Any

import pytest

from mae_bench import tables
from mae_bench.recipes.load import as_dict, load_recipe, recipe_hash
from mae_bench.records.record import Init, Record
from mae_bench.tables.definitions.ablations import PAPER
from tasks.recipe import Recipe
from tests.mae_bench.made_records import COCO, IMAGENET, digest, make

TABLE9, FINETUNE = "finetune/vit_large_patch16_imagenet_table9", "finetune/vit_large_patch16_imagenet"


def of_recipe(name: str, loaded: Recipe) -> dict[str, Any]:
    """What a record holds of its recipe."""
    return {"recipe": as_dict(loaded), "recipe_name": name, "recipe_hash": recipe_hash(loaded)}


def run(top1: float, recipe: str, *, overrides: tuple[str, ...] = (), **changed: Any) -> Record:
    """A made-up run of a shipped recipe, on weights of an ablation that changes `changed` (``target="pixels_norm"``)."""
    loaded = load_recipe(recipe, list(overrides))
    changes = {f"mae.{key}": value for key, value in changed.items()}
    said = {"settings": {**PAPER, **changes}, "changed": sorted(changes), "images": 1_281_167}
    return make(
        protocol=loaded.protocol,
        metrics={"top1": top1},
        init=Init(method="MAE", checkpoint="x", sha256=digest(said), layout="mae_bench", pretraining=said),
        arch="vit_large_patch16",
        img_size=224,
        data=IMAGENET,
        **of_recipe(recipe, loaded),
        job_id=digest(recipe, overrides, said, top1),
    )


def shown(name: str, records: list[Record], row: str) -> dict[str, float]:
    """Our figures in a row, by heading of their columns, hashes of recipes left out."""
    table = tables.build(name, records)
    part = next(each for each in (table.parts or (table,)) if any(r.method == row for r in each.rows))
    cells = next(r for r in part.rows if r.method == row).cells
    return {c.heading.split(" (")[0]: cell.ours.mean for c, cell in zip(part.columns, cells, strict=True) if cell.ours}


@pytest.mark.parametrize(
    ("name", "row", "changed"),
    [("table1", "8", {}), ("fig5", "75", {}), ("fig5", "50", {"mask_ratio": 0.5}), ("fig7", "800", {})],
)
@pytest.mark.parametrize("first", [TABLE9, FINETUNE])
def test_ablations_show_table_9s_recipe_and_others_apart(
    name: str, row: str, changed: dict[str, Any], first: str
) -> None:
    figures = {TABLE9: 84.9, FINETUNE: 85.6}
    order = [first, *(set(figures) - {first})]
    records = [run(figures[recipe], recipe, **changed) for recipe in order]
    found = shown(name, [*records, run(73.5, "linear/vit_large_patch16_imagenet", **changed)], row)
    assert found == {
        "fine-tuning": 84.9,
        "linear": 73.5,
        "our fine-tuning, recipe vit_large_patch16_imagenet": 85.6,
    }


def test_the_row_of_which_the_paper_says_no_recipe_has_a_note() -> None:
    records = [run(85.4, TABLE9, target="pixels_norm"), run(85.9, FINETUNE, target="pixels_norm")]
    assert shown("table1d", records, "pixel (w/ norm)")["fine-tuning"] == 85.4
    notes = tables.build("table1d", records).notes
    assert any("pixel (w/ norm): the paper does not say by which recipe" in note for note in notes)
    assert not any("does not say" in note for note in tables.build("table1d", [run(84.9, TABLE9)]).notes)


def test_the_notes_say_which_recipe_fills_the_cells_and_in_what_others_differ() -> None:
    notes = tables.build("table1a", [run(84.9, TABLE9), run(85.6, FINETUNE)]).notes
    assert f"the paper's columns hold runs of {TABLE9} alone" in notes
    (apart,) = (note for note in notes if "not the recipe of the paper's column" in note)
    assert "encoder.drop_path 0.2 (0.1)" in apart
    assert "augmentation.erasing 0.25 (0)" in apart


def test_table_7_has_table_9s_recipe_for_pixels_and_finetune_mds_for_normalised_ones() -> None:
    pixels = [run(85.1, TABLE9), run(84.8, FINETUNE)]
    normalised = [run(85.3, TABLE9, target="pixels_norm"), run(85.9, FINETUNE, target="pixels_norm")]
    records = [*pixels, *normalised]
    table = tables.build("table7", records)
    column = [c.heading for c in table.columns].index("IN1K ViT-L")
    cells = {row.method: row.cells[column] for row in table.rows}
    assert cells["pixel (w/o norm)"].ours is not None
    assert cells["pixel (w/o norm)"].ours.values == (85.1,)
    assert cells["pixel (w/ norm)"].ours is not None
    assert cells["pixel (w/ norm)"].ours.values == (85.9,)
    apart = [shown("table7", records, row) for row in ("pixel (w/o norm)", "pixel (w/ norm)")]
    assert sorted(value for each in apart for value in each.values()) == [84.8, 85.1, 85.3, 85.9]


@pytest.mark.parametrize(
    ("name", "recipe", "override"),
    [
        ("table3", FINETUNE, "optimizer.weight_decay=0.1"),
        ("table3", FINETUNE, "schedule.epochs=25"),
        ("table12", "linear/vit_large_patch16_imagenet", "head.pool=avg"),
        ("fig8", FINETUNE, "augmentation.mixup=0"),
        ("table1a", TABLE9, "optimizer.layer_decay=0.65"),
    ],
)
def test_a_changed_value_is_another_recipe_whatever_the_name(name: str, recipe: str, override: str) -> None:
    table = tables.build(name, [run(80.0, recipe, overrides=(override,))])
    filled = [c for row in table.rows for c, cell in zip(table.columns, row.cells, strict=True) if cell.ours]
    assert filled, table.notes
    assert not any(column.in_paper for column in filled)
    assert any(override.partition("=")[0] in note for note in table.notes)


@pytest.mark.parametrize("override", ["train.micro_batch_size=8", "train.workers=2", "schedule.iterations=0"])
def test_what_is_not_learnt_by_changes_no_cell(override: str) -> None:
    table = tables.build("table3", [run(85.9, FINETUNE, overrides=(override,))])
    assert any(cell.ours and cell.published for row in table.rows for cell in row.cells)


def test_table_4_asks_for_moco_v3s_own_learning_rate_and_leaves_the_length_open() -> None:
    def detector(recipe: str, method: str, box_ap: float, *overrides: str) -> Record:
        loaded = load_recipe(recipe, list(overrides))
        return make(
            method,
            "detection_fpn",
            metrics={"box_ap": box_ap},
            arch="vit_base_patch16",
            img_size=1024,
            data=COCO,
            **of_recipe(recipe, loaded),
        )

    name = "detection_fpn/vit_base_patch16_coco"
    records = [
        detector(f"{name}_moco_v3", "MoCo v3", 47.9),
        detector(name, "MoCo v3", 47.0),
        detector(f"{name}_50ep", "BEiT", 49.8),
        detector(name, "MAE", 50.3, "optimizer.lr=1.6e-4"),
    ]
    assert shown("table4", records, "MoCo v3")["box AP ViT-B"] == 47.9
    assert shown("table4", records, "BEiT")["box AP ViT-B"] == 49.8
    assert "box AP ViT-B" not in shown("table4", records, "MAE")
    assert any("optimizer.lr 8e-05 (0.00016)" in note for note in tables.build("table4", records).notes)


def test_a_table_says_that_its_runs_were_in_bf16_and_the_originals_in_fp16() -> None:
    run_of = {precision: make(precision=precision) for precision in ("bf16", "fp16", "fp32")}
    said = {
        p: any("bf16, the originals in fp16" in n for n in tables.build("table3", [r]).notes) for p, r in run_of.items()
    }
    assert said == {"bf16": True, "fp16": False, "fp32": False}
    knn = make(protocol="knn", precision="bf16", metrics={"knn_top1": 50.0})
    assert not any("fp16" in note for note in tables.build("knn", [knn]).notes)
