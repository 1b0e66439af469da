"""``table encoders``: a row an encoder, a column a protocol and metric on the same images, and what differs is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mae_bench.records.record import Metrics, Record
from mae_bench.tables import build, render
from mae_bench.tables.formats.text_grid import grid
from tests.mae_bench.made_records import EMBEDDED, make

SIGLIP, CONVNEXT = "timm:vit_base_patch16_siglip_224", "timm:convnext_atto"


def run(method: str, arch: str, protocol: str, value: float, **changes: Any) -> Record:
    key = {"detection": "box_ap", "segmentation": "mIoU", "knn": "knn20_top1"}.get(protocol, "top1")
    recipe_hash = changes.pop("recipe_hash", f"{arch} {protocol}".encode().hex()[:64].ljust(64, "0"))
    return make(method, protocol, arch=arch, metrics={key: value}, recipe_hash=recipe_hash, **changes)


def test_encoders_stand_side_by_side_over_protocols() -> None:
    runs = [
        run("siglip", SIGLIP, "knn", 61.0),
        run("siglip", SIGLIP, "segmentation", 44.0),
        run("convnext_atto.d2", CONVNEXT, "knn", 57.5),
        run("convnext_atto.d2", CONVNEXT, "knn", 58.5, seed=1),
    ]
    table = build("encoders", runs)
    assert [column.heading for column in table.columns] == [
        "knn: knn20_top1, embedded",
        "segmentation: mIoU, embedded",
    ]
    assert [row.method for row in table.rows] == ["convnext_atto.d2", f"siglip ({SIGLIP})"]
    convnext, siglip = table.rows
    assert convnext.cells[0].ours is not None
    assert (convnext.cells[0].ours.mean, convnext.cells[0].ours.n) == (58.0, 2)
    assert convnext.cells[1].ours is None
    assert siglip.cells[1].ours is not None
    for fmt in ("md", "csv", "json", "latex", "html"):
        assert render(table, fmt)
    assert grid(table)


def test_other_images_are_another_column() -> None:
    part = replace(EMBEDDED, train_count=10, fingerprint="f" * 64)
    table = build("encoders", [run("a", SIGLIP, "knn", 1.0), run("b", CONVNEXT, "knn", 2.0, data=part)])
    assert len(table.columns) == 2
    assert all("images, data" in column.heading for column in table.columns)
    assert all(sum(cell.ours is not None for cell in row.cells) == 1 for row in table.rows)


def test_what_nothing_told_of_an_encoder_is_said() -> None:
    told, default = {"net": "its fixed positions"}, {"heads": "family default: the standard size (small)"}
    runs = [run("a", SIGLIP, "knn", 1.0), run("b", CONVNEXT, "knn", 2.0), run("c", CONVNEXT, "knn", 2.0)]
    for record, sources in zip(runs, (told, default, default), strict=True):
        record.init.sources = sources
    table = build("encoders", runs)
    assert [n for n in table.notes if "family default" in n] == [
        "attention heads of b, c: family default: the standard size (small)"
    ]


def test_what_is_not_alike_is_said() -> None:
    short = run("a", SIGLIP, "finetune", 1.0, recipe={"schedule": {"epochs": 5}})
    long = run("b", CONVNEXT, "finetune", 2.0, recipe={"schedule": {"epochs": 100}})
    chosen = Metrics(
        last={"top1_best_on_train_split": 3.0}, selection="last epoch; the best of 9 heads by top-1 on held-out images"
    )
    probe = run("a", SIGLIP, "probe", 0.0)
    probe.metrics, probe.primary_metric = chosen, "top1_best_on_train_split"
    table = build("encoders", [short, long, probe])
    assert "finetune, embedded: schedule.epochs differs (100: b; 5: a)" in table.notes
    assert any("best of 9 heads by top-1 on held-out images" in note for note in table.notes)
    assert "probe: top1_best_on_train_split, embedded" in [column.heading for column in table.columns]


def test_several_recipes_of_one_encoder_are_not_averaged() -> None:
    runs = [run("a", SIGLIP, "knn", 1.0), run("a", SIGLIP, "knn", 3.0, recipe_hash="e" * 64)]
    assert [row.method for row in build("encoders", runs).rows] == [f"a ({SIGLIP})", f"a ({SIGLIP}) #2"]


def test_without_runs_it_says_so() -> None:
    assert build("encoders", []).notes == ("ours: no finished run fills this table",)
