"""Transfer, robustness, partial fine-tuning, k-NN and few labels: which run fills which cell of their tables."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from typing import Any

import pytest

from mae_bench import tables
from mae_bench.recipes.load import as_dict, load_recipe
from mae_bench.records.record import Data, Init, Record
from mae_bench.tables.definitions import DEFINITIONS, data_sets
from mae_bench.tables.definitions.schema import Definition
from mae_bench.tables.of_recipe import table_of
from mae_bench.tables.table import Cell, Table
from tests.mae_bench.made_records import EMBEDDED, IMAGENET, digest, make


def data_set(name: str, train: int, val: int, classes: int) -> Data:
    return Data(
        name=name, root=f"/data/{name}", train_count=train, val_count=val, classes=classes, fingerprint=digest(name)
    )


CIFAR = replace(EMBEDDED, name="cifar10", train_count=50_000, val_count=10_000, fingerprint="a" * 64 + "+" + "b" * 64)
INAT2018 = data_set("inat2018", 437_513, 24_426, 8142)
BASE: dict[str, Any] = {"arch": "vit_base_patch16", "img_size": 224}
LARGE: dict[str, Any] = {"arch": "vit_large_patch16", "img_size": 224, "data": IMAGENET}
SMALL: dict[str, Any] = {"arch": "vit_micro_patch4", "img_size": 32, "data": CIFAR}
OURS = "vit_micro_patch4, cifar10"


def cell(table: Table, method: str, heading: str, subject: str = "") -> Cell:
    column = [column.heading for column in table.columns].index(heading)
    return next(row for row in table.rows if (row.method, row.subject) == (method, subject)).cells[column]


def ours(cell: Cell) -> float | None:
    return cell.ours.mean if cell.ours else None


def partial(blocks: float, top1: float, **changes: Any) -> Record:
    changes = {"recipe_hash": digest("partial", blocks), "recipe": {"head": {"tune_blocks": blocks}}, **changes}
    return make(protocol="partial", metrics={"top1": top1}, **changes)


def robustness(test_set: str, images: int, metrics: dict[str, Any], **changes: Any) -> Record:
    data = data_set(test_set, 0, images, 1000)
    recipe = {"recipe": {"test_set": test_set}, "recipe_hash": digest(test_set)}
    return make(protocol="robustness", data=data, metrics=metrics, **{**BASE, **recipe, **changes})


# Table 6


def test_table_6_sets_a_data_set_beside_its_own_published_figure() -> None:
    table = tables.build("table6", [make(metrics={"top1": 76.0}, data=INAT2018, **BASE)])
    assert cell(table, "MAE", "ViT-B", "iNat 2018").difference == pytest.approx(76.0 - 75.4)
    assert cell(table, "MAE", "ViT-B", "iNat 2017") == Cell(70.5, ("mae_md", "mae_pdf", "mae_readme"))
    assert cell(table, "MAE", "previous best", "iNat 2018").published == 81.2
    text = tables.render(table)
    assert [line.split("|")[1:4] for line in text.splitlines() if "| ours" in line] == [
        [" iNat 2018 ", " MAE    ", " ours       "]
    ]


def test_table_6_takes_no_part_of_a_data_set_for_the_whole() -> None:
    part = make(metrics={"top1": 76.0}, data=replace(INAT2018, train_count=4_000), **BASE)
    table = tables.build("table6", [part])
    assert cell(table, "MAE", "ViT-B", "iNat 2018").ours is None
    assert ours(cell(table, "MAE", "vit_base_patch16, 224 px, part of the data", "iNat 2018")) == 76.0


def test_different_parts_of_a_data_set_are_not_averaged() -> None:
    parts = [replace(INAT2018, train_count=4_000, fingerprint=digest(i)) for i in range(2)]
    table = tables.build(
        "table6", [make(metrics={"top1": 10.0 * i}, data=part, **BASE) for i, part in enumerate(parts)]
    )
    heading = "vit_base_patch16, 224 px, part of the data"
    assert {ours(cell(table, method, heading, "iNat 2018")) for method in ("MAE", "MAE #2")} == {0.0, 10.0}


def test_one_model_on_several_data_sets_is_one_column() -> None:
    small = {"arch": "vit_micro_patch4", "img_size": 32}
    places = data_set("places365", 1_803_460, 36_500, 365)
    runs = [make(metrics={"top1": 10.0}, data=INAT2018, **small), make(metrics={"top1": 20.0}, data=places, **small)]
    table = tables.build("table6", runs)
    assert [c.heading for c in table.columns if not c.in_paper] == ["vit_micro_patch4, 32 px"]
    assert ours(cell(table, "MAE", "vit_micro_patch4, 32 px", "Places365")) == 20.0
    assert any("inat2018: 437,513 training and 24,426 val images, 8142 classes; places365" in n for n in table.notes)


def test_a_run_is_in_table_3_or_in_table_6() -> None:
    run = make(data=replace(INAT2018, name="iNat-2018"), **BASE)  # names are compared by letters and figures
    assert not [c for c in tables.build("table3", [run]).columns if not c.in_paper]
    assert not [c for row in tables.build("table6", [make()]).rows for c in row.cells if c.ours]


# Table 13


def test_table_13_sets_mce_against_mce_and_the_plain_error_against_nothing() -> None:
    metrics = {"top1": 62.0, "inc_error": 38.0, "inc_mce": 52.0}
    table = tables.build("table13", [robustness("imagenet_c", 3_750_000, metrics)])
    mce = cell(table, "MAE", "ViT-B", "IN-C, mCE")
    assert (mce.published, ours(mce), mce.difference) == (51.7, 52.0, pytest.approx(0.3))
    error = cell(table, "MAE", "ViT-B", "IN-C, error")
    assert (error.published, ours(error)) == (None, 38.0)
    assert any("mCE is the mean over 15 corruptions" in note and "lower is better" in note for note in table.notes)


def test_each_test_set_fills_its_row_and_its_recipe_makes_no_second_variant() -> None:
    sets = {"imagenet_a": 7_500, "imagenet_r": 30_000, "imagenet_sketch": 50_889, "imagenet_v2": 10_000}
    runs = [robustness(name, images, {"top1": 30.0 + i}) for i, (name, images) in enumerate(sets.items())]
    table = tables.build("table13", runs)
    found = {row.subject: row.cells[0].ours for row in table.rows if row.cells[0].ours}
    assert {k: v.mean for k, v in found.items()} == {"IN-A": 30.0, "IN-R": 31.0, "IN-Sketch": 32.0, "IN-V2": 33.0}
    assert not [row.method for row in table.rows if "#" in row.method]
    assert cell(table, "supervised", "ViT-B", "IN-A").published == 27.2


def test_a_part_of_a_test_set_is_not_compared() -> None:
    table = tables.build("table13", [robustness("imagenet_a", 750, {"top1": 30.0})])
    assert cell(table, "MAE", "ViT-B", "IN-A").ours is None
    assert ours(cell(table, "MAE", "vit_base_patch16, 224 px, part of the data", "IN-A")) == 30.0


def test_where_lower_is_better_scratch_wins_with_the_lower_figure() -> None:
    def said(scratch: float, mae: float) -> bool:
        runs = [
            robustness(
                "imagenet_c",
                3_750_000,
                {"top1": 1.0, "inc_error": 1.0, "inc_mce": mce + seed},
                init=start.init,
                seed=seed,
            )
            for start, mce in ((make("scratch"), scratch), (make(), mae))
            for seed in (0, 1)
        ]
        for run, name in zip(runs, "abcd", strict=True):
            run.job_id = digest(name)
        return any("IN-C, mCE, ViT-B: pre-training does not help" in n for n in tables.build("table13", runs).notes)

    assert not said(60.0, 50.0)
    assert said(50.0, 60.0)


# Figure 9


def test_figure_9_has_a_row_for_each_number_of_blocks() -> None:
    runs = [partial(0.5, 79.0, **LARGE), partial(3, 83.5, **LARGE), partial(1, 80.0, seed=0, **LARGE)]
    table = tables.build("fig9", [*runs, partial(1, 82.0, seed=1, **LARGE)])
    assert [row.method for row in table.rows] == ["0", "0.5", "1", "2", "3", "4", "6", "12", "18", "24"]
    assert cell(table, "0.5", "MAE, ViT-L").difference == pytest.approx(-0.1)
    assert cell(table, "3", "MAE, ViT-L") == Cell(ours=cell(table, "3", "MAE, ViT-L").ours)
    measured = cell(table, "1", "MAE, ViT-L").ours
    assert measured is not None
    assert (measured.mean, measured.std, measured.n) == (81.0, pytest.approx(2**0.5), 2)
    assert cell(table, "1", "MoCo v3, ViT-L").published == 79.9
    assert "81.0 / ours 81.0 ± 1.4 (n=2) (0.0)" in tables.render(table)


def test_linear_probe_and_fine_tuning_are_the_ends_of_the_curve() -> None:
    runs = [make(protocol="linear", metrics={"top1": 30.0}, **SMALL), partial(1, 50.0, **SMALL)]
    table = tables.build("fig9", [*runs, make(metrics={"top1": 70.0}, **SMALL)])
    curve = {row.x: ours(cell(table, row.method, f"MAE, {OURS}")) for row in table.rows}
    assert {x: y for x, y in curve.items() if y} == {0.0: 30.0, 1.0: 50.0, 4.0: 70.0}


def test_a_partial_run_of_none_or_all_blocks_goes_before_them() -> None:
    runs = [make(protocol="linear", metrics={"top1": 30.0}, **SMALL), partial(0, 35.0, **SMALL)]
    table = tables.build("fig9", [*runs, make(metrics={"top1": 70.0}, **SMALL), partial(4, 65.0, **SMALL)])
    curve = {row.x: ours(cell(table, row.method, f"MAE, {OURS}")) for row in table.rows}
    assert {x: y for x, y in curve.items() if y} == {0.0: 35.0, 4.0: 65.0}


def test_a_checkpoint_is_one_curve_whatever_rows_it_fills() -> None:
    second = {"sha256": digest("second"), "started": "2026-12-01T00:00:00"}
    table = tables.build(
        "fig9", [partial(1, 50.0, **SMALL), partial(1, 60.0, **SMALL, **second), partial(2, 61.0, **SMALL, **second)]
    )
    assert ours(cell(table, "2", f"MAE #2, {OURS}")) == 61.0
    assert cell(table, "2", f"MAE, {OURS}") == Cell()
    assert any("MAE #2 is" in note for note in table.notes)


def test_names_of_architectures_that_are_not_ours_have_no_known_depth() -> None:
    odd = make(metrics={"top1": 70.0}, **{**SMALL, "arch": "swin_tiny"})
    assert not [c for row in tables.build("fig9", [odd]).rows for c in row.cells if c.ours]


# k-NN and few labels


def test_knn_has_a_row_for_each_k_and_another_benchmarks_figure_apart() -> None:
    metrics = {f"knn{k}_top1": 50.0 + k / 100 for k in (10, 20, 100, 200)}
    untrained = {"recipe": {"schedule": {"iterations": 0}}}
    table = tables.build(
        "knn", [make(protocol="knn", task="probing", metrics=metrics, data=IMAGENET, **BASE, **untrained)]
    )
    assert any("models as they are, nothing is trained" in note for note in table.notes)
    assert [ours(cell(table, "MAE", "ViT-B", k)) for k in ("10", "20", "100", "200")] == [50.1, 50.2, 51.0, 52.0]
    assert cell(table, "MAE, 100 epochs", "ViT-B", "200").published == 11.2
    assert cell(table, "MAE", "ViT-B", "200").difference is None


def test_few_labels_stand_in_one_column_and_in_no_other_table() -> None:
    def run(share: float | None, top1: float, method: str = "MAE", seed: int = 0) -> Record:
        count = int(50_000 * (share or 1))
        data = replace(CIFAR, train_count=count, fingerprint=digest(share, seed) + "+" + "b" * 64)
        recipe = {"recipe": {"data": {"label_share": share}}, "recipe_hash": digest(share, method)}
        return make(method, seed=seed, metrics={"top1": top1}, **{**SMALL, **recipe, "data": data})

    runs = [run(0.01, 30.0), run(0.01, 32.0, seed=1), run(0.1, 50.0), run(None, 80.0), run(0.1, 40.0, "scratch")]
    table = tables.build("lowshot", runs)
    assert [c.heading for c in table.columns] == [OURS]
    assert ours(cell(table, "MAE", OURS, "1 %")) == 31.0
    assert ours(cell(table, "MAE", OURS, "10 %")) == 50.0
    assert ours(cell(table, "MAE", OURS, "100 %")) == 80.0
    assert ours(cell(table, "scratch", OURS, "10 %")) == 40.0
    assert not [row.method for row in table.rows if "#" in row.method]
    full = tables.build("table3", runs)
    assert {c.ours.values for row in full.rows for c in row.cells if c.ours} == {(80.0,)}


def test_a_list_of_labels_goes_by_its_share_of_imagenet() -> None:
    listed = {"recipe": {"data": {"label_list": "1percent.txt"}}, "metrics": {"top1": 40.0}}
    table = tables.build("lowshot", [make(data=replace(IMAGENET, train_count=12_811), **BASE, **listed)])
    assert ours(cell(table, "MAE", "vit_base_patch16, imagenet, 224 px", "1 %")) == 40.0
    assert not tables.build("lowshot", [make(data=CIFAR, **listed)]).rows  # of how many is not known


def test_labels_that_were_cut_short_are_no_share_of_the_data_set() -> None:
    data = replace(CIFAR, train_count=6_000)
    cut = {"protocol": "finetune", "recipe": {"data": {"limit_train": 6_000}}}
    assert not tables.build("lowshot", [make(data=data, **cut)]).rows
    assert tables.build("lowshot", [make(data=replace(CIFAR, train_count=5_000), **cut)]).rows  # the limit cut nothing


def test_published_counts_are_those_of_the_data_sets_readers() -> None:
    counted = pytest.importorskip("tasks.datasets.verify").PUBLISHED
    ours = {d.name: d for d in vars(data_sets).values() if isinstance(d, data_sets.DataSet) and d.name in counted}
    assert set(ours) == set(counted)
    for name, data in ours.items():
        each = 75 if name == "imagenet_c" else 1
        assert (data.train_count, data.val_count) == (counted[name].train or 0, each * counted[name].val)


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: d.name)
def test_seeds_make_mean_and_sample_deviation_in_every_table(definition: Definition) -> None:
    subject = definition.subjects.known[0]
    metric = subject.metric or definition.metrics[0].key
    data = data_set(str(subject.key) if definition.name == "table6" else "some", 10, 10, 10)
    recipe = {
        "head": {"tune_blocks": 1.0},
        "test_set": subject.key,
        "data": {"label_share": subject.key if definition.name == "lowshot" else None},
        "schedule": {"epochs": 25},
    }
    init = Init(method="MAE", sha256="5" * 64, pretraining={"settings": {"mae.target": "pixels"}, "changed": []})
    runs = [
        make(protocol=definition.protocols[0], seed=seed, metrics={metric: value}, recipe=recipe, data=data, init=init)
        for seed, value in enumerate((1.0, 2.0, 6.0))
    ]
    (found,) = [c.ours for row in tables.build(definition.name, runs).rows for c in row.cells if c.ours]
    assert (found.mean, found.n, found.seeds) == (3.0, 3, (0, 1, 2))
    assert found.std == pytest.approx(7**0.5)


@pytest.mark.parametrize(
    ("recipe", "overrides", "table"),
    [
        ("finetune/vit_base_patch16_imagenet", [], "table3"),
        ("finetune/vit_base_patch16_imagenet", ["data.name=inat2018"], "table6"),
        ("finetune/vit_base_patch16_imagenet", ["data.label_share=0.01"], "lowshot"),
        ("linear/vit_base_patch16_imagenet", ["data.name=inat2018"], "table12"),
        ("partial/vit_large_patch16_imagenet_half", [], "fig9"),
        ("knn/vit_micro_patch8_embedded", [], "knn"),
        ("robustness/vit_base_patch16_imagenet_a", [], "table13"),
        ("attentive/vit_base_patch16_imagenet", [], None),
        ("detection/vit_base_patch16_coco", [], "vitdet_coco"),
        ("detection/vit_base_patch16_coco", ["detection.pyramid=fpn", "protocol=detection_fpn"], "table4"),
        ("detection/vit_micro_patch8_embedded", [], "vitdet_coco"),
    ],
)
def test_a_run_prints_the_table_that_it_fills(recipe: str, overrides: list[str], table: str | None) -> None:
    resolved = load_recipe(recipe, overrides)
    assert table_of(resolved) == table
    if table is None:
        return
    metrics = {"top1": 50.0, "knn10_top1": 50.0, "box_ap": 50.0}
    data = data_set(resolved.data.name, 10, 10, 10)
    run = make(protocol=resolved.protocol, task=resolved.task, metrics=metrics, recipe=as_dict(resolved), data=data)
    assert [c for row in tables.build(table, [run]).rows for c in row.cells if c.ours]


def test_subjects_are_in_csv_and_json() -> None:
    table = tables.build("table13", [robustness("imagenet_a", 7_500, {"top1": 30.0})])
    lines = list(csv.DictReader(io.StringIO(tables.render(table, "csv"))))
    mine = [line for line in lines if line["ours_mean"]]
    assert [(x["subject"], x["method"], x["column"]) for x in mine] == [("IN-A", "MAE", "ViT-B")]
    assert {row["subject"] for row in json.loads(tables.render(table, "json"))["rows"]} >= {"IN-A", "IN-C, mCE"}


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda d: d.name)
def test_tables_show_figures_that_their_tasks_declare(definition: Definition) -> None:
    keys = {metric.key for metric in definition.metrics} | {column.metric for column in definition.columns}
    own = {subject.metric for subject in definition.subjects.known if subject.metric}
    shown = own if own and len(own) == len(definition.subjects.known) else keys | own
    assert {key: definition.declared(key).decimals for key in shown} == dict.fromkeys(shown, 1)
