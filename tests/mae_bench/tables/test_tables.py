"""Tables put published figures and ours side by side, and never set what cannot be compared against each other."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import os
import random
import statistics
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from backbones.errors import UserError
from mae_bench import tables
from mae_bench.records import record
from mae_bench.records.record import Metrics, Record
from mae_bench.tables.definitions import DEFINITIONS, published
from mae_bench.tables.definitions.ablations import ABLATIONS
from mae_bench.tables.definitions.schema import Published
from mae_bench.tables.fill import notes
from mae_bench.tables.formats.markdown import escape
from mae_bench.tables.formats.text_grid import MISSING, WIDTH
from mae_bench.tables.table import Cell, Measured, Table
from tests.mae_bench.made_records import COCO, IMAGENET, digest, make

ROOT = Path(__file__).resolve().parents[3]
REFERENCE = ROOT.parent / "shared" / "reference" / "published.yaml"
OWN = "vit_micro_patch8, embedded"
percents = st.floats(0, 100, allow_subnormal=False)


def cell(table: Table, method: str, heading: str) -> Cell:
    column = [column.heading for column in table.columns].index(heading)
    return next(row for row in table.rows if row.method == method).cells[column]


def headings(table: Table) -> list[str]:
    return [column.heading for column in table.columns]


def on_imagenet(top1: float | None = 83.0, **changes: Any) -> Record:
    return make(**{"arch": "vit_base_patch16", "img_size": 224, "data": IMAGENET, "metrics": {"top1": top1}, **changes})


# What is printed


def test_table_5_from_records_on_disk(tmp_path: Path) -> None:
    for method, figures in {"scratch": (30.0, 31.0, 32.5), "MAE": (38.04,)}.items():
        for seed, mean_iou in enumerate(figures):
            run = make(method, "segmentation", seed, metrics={"mIoU": mean_iou}, recipe_hash=digest("recipe"))
            folder = tmp_path / run.name
            folder.mkdir()
            record.write(run, folder)
    large = make(
        protocol="segmentation",
        arch="vit_large_patch16",
        img_size=512,
        metrics={"mIoU": 53.25},
        data=replace(IMAGENET, name="ade20k", train_count=20210, val_count=2000, classes=150),
        recipe_name="segmentation/vit_large",
        recipe_hash="0123456789",
    )
    (tmp_path / "large").mkdir()
    record.write(large, tmp_path / "large")
    text = tables.render(tables.build("table5", record.find(tmp_path)), "md")
    assert text == GOLDEN.format(digest=digest("recipe")[:8])


GOLDEN = """\
### Table 5: semantic segmentation, ADE20K, UPerNet, mIoU (%)

| method     | figure     | ViT-B | ViT-L | vit_micro_patch8, embedded |
| ---------- | ---------- | ----: | ----: | -------------------------: |
| scratch    | ours       |     – |     – |           31.2 ± 1.3 (n=3) |
| supervised | published  |  47.4 |  49.9 |                          – |
| MoCo v3    | published  |  47.3 |  49.1 |                          – |
| BEiT       | published  |  47.1 |  53.3 |                          – |
| MAE        | published  |  48.1 |  53.6 |                          – |
| MAE        | ours       |     – |  53.2 |                       38.0 |
| MAE        | difference |     – |  -0.4 |                          – |

- published, supervised: labels of ImageNet-1K
- published, BEiT: tokenizer from DALL-E's data
- ours: metrics after the last epoch; over several seeds mean ± sample standard deviation (n runs)
- our recipes: segmentation/vit_large (01234567), segmentation/vit_micro ({digest})
- vit_micro_patch8, embedded: ours only, no published figure to compare with; 2,000 training and 500 val images, \
10 classes, 48 px, seeds 0, 1, 2; a composite (handwritten digits on photographs), its figures say nothing about ADE20K
- vit_micro_patch8, embedded: MAE against scratch is of one seed, which tells nothing of whether pre-training \
helps: --seeds 0,1,2 gives a spread
- no tolerance published for the differences: their sources give no spread over seeds
- published figures, mae_md: He et al., "Masked Autoencoders Are Scalable Vision Learners", arXiv 2111.06377 v3, \
with appendix (read as a text transcript)
- published figures, mae_pdf: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022 camera-ready, \
pp. 16000-16009 (read as the text of the pdf)
"""


def test_csv_has_a_line_a_cell() -> None:
    table = tables.build("table3", [on_imagenet(83.0, seed=0), on_imagenet(84.0, seed=1)])
    lines = list(csv.DictReader(io.StringIO(tables.render(table, "csv"))))
    ours = next(line for line in lines if (line["method"], line["column"]) == ("MAE", "ViT-B"))
    assert (ours["published"], ours["source"], ours["n"]) == ("83.6", "mae_md mae_pdf mae_finetune", "2")
    assert float(ours["ours_mean"]) == 83.5
    assert float(ours["ours_std"]) == pytest.approx(0.5**0.5)
    assert float(ours["difference"]) == pytest.approx(-0.1)
    assert (float(ours["tolerance"]), ours["within"]) == (0.16, "yes")
    assert len(lines) == 12  # as many figures as the paper's table holds


def test_json_says_which_records_filled_a_cell(tmp_path: Path) -> None:
    for seed in (0, 1):
        (tmp_path / f"seed{seed}").mkdir()
        record.write(on_imagenet(83.0, seed=seed), tmp_path / f"seed{seed}")
    table = tables.build("table3", record.find(tmp_path), runs_dir=tmp_path)
    raw = json.loads(tables.render(table, "json"))
    cells = next(row for row in raw["rows"] if row["method"] == "MAE")["cells"]
    assert cells["ViT-B"] == {
        "published": 83.6,
        "source": ["mae_md", "mae_pdf", "mae_finetune"],
        "ours_mean": 83.0,
        "ours_std": 0.0,
        "n": 2,
        "difference": pytest.approx(-0.6),
        "tolerance": 0.16,
        "within": False,
        "seeds": [0, 1],
        "records": ["seed0/record.json", "seed1/record.json"],
    }
    assert set(raw["sources"]) == {"mae_md", "mae_pdf", "mae_finetune"}


@pytest.mark.parametrize("name", tables.names())
@pytest.mark.parametrize("protocol", ["finetune", "linear", "partial", "detection", "segmentation"])
def test_tables_fit_a_terminal(name: str, protocol: str) -> None:
    lines = tables.render(tables.build(name, [make("scratch", protocol), make(protocol=protocol)])).splitlines()
    assert max(len(line) for line in lines if line.startswith("|")) <= WIDTH


def test_no_records_still_give_the_published_figures() -> None:
    table = tables.build("table4", [])
    assert cell(table, "MAE", "mask AP ViT-L").published == 47.2
    assert not [row for row in table.rows if row.method == "scratch"]  # the paper has none, nor have we
    assert "ours: no finished run fills this table" in table.notes


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UserError, match='unknown table "table33": did you mean "table3"'):
        tables.build("table33", [])
    with pytest.raises(UserError, match='did you mean "json"'):
        tables.render(tables.build("table3", []), "jsn")


# Which record fills which cell


def test_detection_fills_box_and_mask_ap() -> None:
    run = make(protocol="detection_fpn", arch="vit_base_patch16", img_size=1024, data=COCO)
    table = tables.build("table4", [run])
    assert cell(table, "MAE", "box AP ViT-B").difference == pytest.approx(31.5 - 50.3)
    assert cell(table, "MAE", "mask AP ViT-B").difference == pytest.approx(28.25 - 44.9)
    assert len(table.columns) == 4


def test_protocols_keep_to_their_tables() -> None:
    runs = [make(protocol="linear", metrics={"top1": 11.0}), make("scratch", "scratch", metrics={"top1": 22.0})]
    assert cell(tables.build("table12", runs), "MAE", OWN).ours == Measured((11.0,), ("linear-MAE-seed0",), (0,))
    assert cell(tables.build("table3", runs), "MAE", OWN).ours is None
    assert cell(tables.build("table3", runs), "scratch", OWN).ours is not None
    assert headings(tables.build("table5", runs)) == ["ViT-B", "ViT-L"]


@pytest.mark.parametrize(
    ("changes", "heading"),
    [
        ({"data": replace(IMAGENET, val_count=1000)}, "vit_base_patch16, part of imagenet"),
        ({"data": replace(IMAGENET, train_count=12811)}, "vit_base_patch16, part of imagenet"),
        ({"data": replace(IMAGENET, name="cifar10")}, "vit_base_patch16, cifar10"),
        ({"img_size": 384}, "vit_base_patch16, imagenet, 384 px"),
        ({"arch": "vit_small_patch16"}, "vit_small_patch16, imagenet, 224 px"),
    ],
)
def test_what_is_not_the_papers_setting_gets_a_column_without_difference(changes: dict[str, Any], heading: str) -> None:
    table = tables.build("table3", [on_imagenet(**changes)])
    assert headings(table)[4:] == [heading]
    ours = cell(table, "MAE", heading)
    assert (ours.published, ours.difference) == (None, None)
    assert all(c.ours is None for row in table.rows for c in row.cells[:4])
    assert any(note.startswith(f"{heading}: ours only") for note in table.notes)


def test_huge_at_448_pixels_has_its_own_column() -> None:
    table = tables.build("table3", [on_imagenet(arch="vit_huge_patch14", img_size=448)])
    assert cell(table, "MAE", "ViT-H448").ours is not None
    assert cell(table, "MAE", "ViT-H").ours is None


def test_different_data_of_one_name_are_kept_apart() -> None:
    other = replace(make().data, fingerprint="f" * 64)
    table = tables.build("table3", [make(), make(data=other), make(img_size=96)])
    assert headings(table)[4:] == [
        f"{OWN}, 48 px, data eeeeeeee",
        f"{OWN}, 48 px, data ffffffff",
        f"{OWN}, 96 px",
    ]
    assert len(set(headings(table))) == len(headings(table))


def test_methods_match_whatever_their_spelling_and_new_ones_add_rows() -> None:
    table = tables.build("table3", [make("moco_v3"), make("mae"), make("iBOT")])
    assert [row.method for row in table.rows] == ["scratch", "DINO", "MoCo v3", "BEiT", "MAE", "iBOT"]
    assert all(cell(table, method, OWN).ours for method in ("MoCo v3", "MAE", "iBOT"))


def test_runs_that_did_not_finish_fill_nothing_and_are_counted() -> None:
    table = tables.build("table3", [make(status="failed"), make(seed=1, status="interrupted")])
    assert headings(table) == ["ViT-B", "ViT-L", "ViT-H", "ViT-H448"]
    assert table.notes[-1] == "left out: 1 failed, 1 interrupted (finetune-MAE-seed0, finetune-MAE-seed1)"


def test_different_recipes_or_checkpoints_are_never_averaged() -> None:
    runs = [
        make(metrics={"top1": 60.0}, started="2026-01-01T00:00:00"),
        make(metrics={"top1": 70.0}, recipe_hash=digest("other recipe")),
        make(metrics={"top1": 80.0}, sha256=digest("other weights")),
    ]
    table = tables.build("table3", runs)
    found = {m: cell(table, m, OWN).ours for m in ("MAE", "MAE #2", "MAE #3")}
    assert {ours.values for ours in found.values() if ours} == {(60.0,), (70.0,), (80.0,)}
    note = next(note for note in table.notes if "MAE #2 is" in note)
    assert digest("other recipe")[:8] in note
    assert digest("other weights")[:8] in note


def test_a_second_recipe_is_compared_with_the_published_figure_too() -> None:
    table = tables.build("table3", [on_imagenet(80.0), on_imagenet(81.0, recipe_hash="9" * 64, seed=1)])
    assert cell(table, "MAE #2", "ViT-B").difference == pytest.approx(81.0 - 83.6)
    assert cell(table, "MAE #2", "ViT-L") == Cell()


def test_the_same_job_in_two_folders_counts_once() -> None:
    again = make(metrics={"top1": 70.0}, finished="2027-01-01T00:00:00")
    ours = cell(tables.build("table3", [again, make(metrics={"top1": 60.0})]), "MAE", OWN).ours
    assert ours is not None
    assert ours.values == (70.0,)  # the later one


def test_a_metric_that_is_not_a_number_reads_nan_and_a_missing_one_a_dash() -> None:
    table = tables.build("table4", [make(protocol="detection", metrics={"box_ap": None})])
    ours = next(line for line in tables.render(table).splitlines() if "| ours" in line)
    assert [text.strip() for text in ours.split("|")[-3:-1]] == ["nan", MISSING]
    as_json = json.loads(tables.render(table, "json"))["rows"][-1]["cells"][f"box AP {OWN}"]
    assert (as_json["n"], as_json["ours_mean"]) == (1, None)
    assert "nan" in tables.render(table, "csv")


# What is said


def beside_scratch(scratch: list[float], mae: list[float]) -> list[str]:
    """What is said of pre-training, from a figure a seed."""
    runs = [make("scratch", "scratch", seed=seed, metrics={"top1": value}) for seed, value in enumerate(scratch)]
    runs += [make(seed=seed, metrics={"top1": value}) for seed, value in enumerate(mae)]
    return [note for note in tables.build("table3", runs).notes if "pre-training helps" in note or "not help" in note]


@pytest.mark.parametrize(
    ("scratch", "mae"), [([60.0], [59.0]), ([60.0], [90.0]), ([60.0, 61.0], [20.0]), ([60.0], [9, 8])]
)
def test_no_verdict_on_pre_training_is_passed_from_one_seed(scratch: list[float], mae: list[float]) -> None:
    (note,) = beside_scratch(scratch, mae)
    assert note.startswith(
        f"{OWN}: MAE against scratch is of one seed, which tells nothing of whether pre-training helps"
    )


@pytest.mark.parametrize(
    ("scratch", "mae", "says"),
    [
        (
            [60.0, 61.0, 62.0],
            [50.0, 51.0, 52.0],
            "pre-training does not help, MAE 51.0 against scratch 61.0, more than 2",
        ),
        (
            [60.0, 61.0, 62.0],
            [59.5, 60.5, 61.5],
            "no telling whether pre-training helps, MAE 60.5 against scratch 61.0",
        ),
        ([60.0, 61.0, 62.0], [61.5, 62.5, 63.5], "within 2 standard deviations of the difference of the means (0.8)"),
        ([60.0, 60.0], [60.0, 60.0], "no telling"),
    ],
)
def test_it_is_said_where_seeds_show_no_gain(scratch: list[float], mae: list[float], says: str) -> None:
    (note,) = beside_scratch(scratch, mae)
    assert says in note


def test_nothing_is_said_where_the_gain_is_beyond_the_spread() -> None:
    assert beside_scratch([60.0, 61.0, 62.0], [63.0, 64.0, 65.0]) == []


def test_it_is_said_where_scratch_or_mae_is_not_a_number() -> None:
    runs = [make("scratch", "scratch"), make(metrics={"top1": None})]
    assert f"{OWN}: MAE cannot be compared with scratch, a figure is not a number" in tables.build("table3", runs).notes


def test_the_last_epoch_is_shown_and_a_better_best_epoch_is_told() -> None:
    run = make(metrics=Metrics(last={"top1": 60.0}, best={"top1": 62.5}, best_epoch=7))
    table = tables.build("table3", [run])
    ours = cell(table, "MAE", OWN).ours
    assert ours is not None
    assert ours.mean == 60.0
    assert any("the best epoch on the validation set is up to 2.5 higher" in note for note in table.notes)


# Arithmetic and text, of any input


@given(st.lists(percents, min_size=1, max_size=8), percents)
def test_mean_standard_deviation_and_difference(values: list[float], paper: float) -> None:
    ours = Measured(tuple(values), ("",) * len(values), tuple(range(len(values))))
    exact = [Fraction(value) for value in values]
    mean = sum(exact) / len(exact)
    assert ours.mean == pytest.approx(float(mean), abs=1e-9)
    assert Cell(paper, ("mae_md",), ours).difference == pytest.approx(float(mean - Fraction(paper)), abs=1e-9)
    if len(values) == 1:
        assert ours.std is None
    else:
        variance = sum((value - mean) ** 2 for value in exact) / (len(exact) - 1)
        assert ours.std == pytest.approx(math.sqrt(variance), abs=1e-9)


@given(st.lists(percents, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_records_changes_nothing(values: list[float], shuffler: random.Random) -> None:
    runs = [make(seed=seed, metrics={"top1": value}) for seed, value in enumerate(values)]
    runs += [make("scratch", "scratch", seed=seed) for seed in range(3)] + [make("DINO"), make("other")]
    shuffled = list(runs)
    shuffler.shuffle(shuffled)
    table = tables.build("table3", runs)
    assert tables.build("table3", shuffled) == table
    ours = cell(table, "MAE", OWN).ours
    assert ours is not None
    assert ours.mean == pytest.approx(statistics.mean(values))


@given(st.lists(st.one_of(percents, st.none()), min_size=1, max_size=4))
def test_every_format_takes_any_figures(values: list[float | None]) -> None:
    runs = [on_imagenet(value, seed=seed) for seed, value in enumerate(values)]
    table = tables.build("table3", runs)
    assert json.loads(tables.render(table, "json"))["name"] == "table3"
    assert "inf" not in tables.render(table, "md")
    assert "-0.0 " not in tables.render(table, "md")


markdown_text = st.text(
    st.one_of(st.sampled_from("|\\`*_~[]()<>&#\n\r\u2028\x00 ab1"), st.characters(exclude_categories=["Cs"]))
)


@given(markdown_text, markdown_text)
def test_escaped_text_stays_in_its_cell_and_reads_as_it_was(first: str, second: str) -> None:
    """The judge is a CommonMark parser with tables and strikethrough: the text that went in comes out."""
    source = f"| x | {escape(first)} | {escape(second)} |\n| - | - | - |\n"
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tokens = parser.parse(source)
    inline = [token for token in tokens if token.type == "inline"]
    assert len(inline) == 3
    for token, text in zip(inline[1:], (first, second), strict=True):
        visible = "".join(c if c.isprintable() else " " for c in text).split()
        assert {child.type for child in token.children or []} <= {"text", "text_special"}
        assert "".join(child.content for child in token.children or []) == " ".join(visible)


def test_names_from_records_cannot_break_a_table() -> None:
    table = tables.build("table3", [make("evil | method\n| x |", metrics={"top1": 50.0})])
    tokens = MarkdownIt("commonmark").enable("table").parse(tables.render(table))
    texts = ["".join(child.content for child in token.children or []) for token in tokens if token.type == "inline"]
    at = texts.index("evil | method | x |")
    assert texts[at + 1 : at + 3] == ["ours", "50.0"]


# Published figures


ANOTHER_BENCHMARKS = {"linear_top1", "linear_top5", "ft_top1", "ft_top5", "knn_top5"}  # columns of no table of ours


def figures_of(where: Published) -> dict[tuple[str, str], published.PublishedValue]:
    raw = published.load()["tables"][where.table]
    found = published.long(raw, *where.long) if where.long else published.wide(raw)
    return {(row, column): figure for (row, column), figure in found.items() if column not in ANOTHER_BENCHMARKS}


def every_published_figure() -> dict[str, list[published.PublishedValue]]:
    return {d.name: [f for where in d.published for f in figures_of(where).values()] for d in DEFINITIONS}


def test_every_published_figure_of_a_table_is_shown() -> None:
    for name, figures in every_published_figure().items():
        shown = [c.published for row in tables.build(name, []).rows for c in row.cells if c.published is not None]
        assert sorted(shown) == sorted(figure.value for figure in figures)


def test_definitions_name_rows_and_columns_that_exist() -> None:
    for definition in (d for d in DEFINITIONS if not any(where.cells for where in d.published)):
        asked: dict[str, set[str]] = {"subject": set(), "method": set(), "column": set()}
        asked["subject"] = {s.published for s in definition.subjects.known if s.published}
        asked["method"] = {m.published for m in definition.methods if m.published}
        asked["column"] = {c.published for c in definition.columns if c.published}
        there: dict[str, set[str]] = {"subject": set(), "method": set(), "column": set()}
        for where in definition.published:
            there[where.row] |= {row for row, _ in figures_of(where)}
            there[where.column] |= {column for _, column in figures_of(where)}
        for axis in {where.row for where in definition.published} | {where.column for where in definition.published}:
            assert asked[axis] == there[axis], definition.name
        assert {column.metric for column in definition.columns} <= {metric.key for metric in definition.metrics}


def test_cells_that_are_named_one_by_one_exist_on_both_sides() -> None:
    for definition in DEFINITIONS:
        subjects = {s.label for s in definition.subjects.known}
        methods = {m.label for m in definition.methods}
        headings = {column.heading for column in definition.columns}
        for where in definition.published:
            for (subject, method, heading), place in (where.cells or {}).items():
                assert (subject in subjects, method in methods, heading in headings) == (True, True, True)
                assert place in figures_of(where)


def test_every_figure_names_a_source_that_is_described() -> None:
    for figures in every_published_figure().values():
        for figure in figures:
            assert figure.sources
            assert set(figure.sources) <= set(published.load()["sources"])


@pytest.mark.skipif(not REFERENCE.is_file(), reason=f"{os.path.relpath(REFERENCE, ROOT)} is not on this machine")
def test_published_figures_equal_the_collected_ones() -> None:
    reference = yaml.safe_load(REFERENCE.read_text("utf-8"))["tables"]
    printed = (
        {where.table for d in DEFINITIONS for where in d.published} | {a.published for a in ABLATIONS} | {"mae_t2"}
    )
    assert printed <= reference.keys()
    for key in printed:
        table = published.load()["tables"][key]
        fields = ("row", "source", "verified")
        collected = [row for row in reference[key]["rows"] if row["verified"] is True]
        assert [[row[f] for f in fields] for row in table["rows"]] == [[row[f] for f in fields] for row in collected]
        assert set(table["columns"]) <= set(
            reference[key]["columns"]
        )  # ids and costs that no table prints are left out
        for row, theirs in zip(table["rows"], collected, strict=True):
            assert row["values"] == {column: theirs["values"][column] for column in row["values"]}
            assert {c for c, v in row["values"].items() if v is not None} == {
                c for c in table["columns"] if theirs["values"].get(c) is not None
            }


@given(st.data())
def test_no_unverified_figure_can_be_printed(data: st.DataObject) -> None:
    raw = copy.deepcopy(published.load())
    allowed = set()
    count = 0
    rows = [row for table in raw["tables"].values() for row in table["rows"]]
    verdicts = st.sampled_from([True, False, None, "true", "false", 1])
    for row, verdict in zip(rows, data.draw(st.lists(verdicts, min_size=len(rows), max_size=len(rows))), strict=True):
        row["verified"] = verdict
        for key, value in row["values"].items():
            if isinstance(value, float) or str(value).endswith("x"):
                count += 1
                # Unlike any other, exact in decimals.
                row["values"][key] = count / 16 if isinstance(value, float) else f"{count / 16}x"
                if verdict is True:
                    allowed.add(count / 16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "load", lambda: raw)
        for name in tables.names():
            table = tables.build(name, [make(), make(protocol="linear"), make(protocol="segmentation")])
            shown = {c.published for t in table.parts or (table,) for row in t.rows for c in row.cells} - {None}
            assert shown <= allowed
            lines = csv.DictReader(io.StringIO(tables.render(table, "csv")))
            assert {float(line["published"]) for line in lines if line["published"]} == shown


def test_classes_that_nothing_is_labelled_with_are_noted() -> None:
    def books(count: int) -> dict[str, Any]:
        left_out = {"absent": {"count": count, "examples": ["zebra"]}} if count else {}
        return {"classes": {"found": 150, "used": 150 - count, "left_out": left_out}}

    whole = make(data=replace(IMAGENET, name="mine", classes=150, account={"train": books(0), "val": books(0)}))
    assert list(notes.absent_classes([whole])) == []
    run = make(data=replace(whole.data, account={"train": books(2), "val": books(6)}))
    assert list(notes.absent_classes([whole, run])) == [
        "mine: of 150 classes 6 are in no validation label (AP leaves them out, mIoU too unless they are predicted), "
        "2 are in no training label"
    ]
    assert set(notes.absent_classes([run])) <= set(tables.build("table3", [run]).notes)


@pytest.mark.parametrize(("left_out", "noted"), [(10, False), (11, True)])
def test_data_of_which_more_than_a_hundredth_was_left_out_are_noted(left_out: int, noted: bool) -> None:
    reasons = {"unreadable": {"count": left_out, "examples": ["a.jpg"]}, "hidden": {"count": 500, "examples": [".a"]}}
    books = {"files": {"found": 1000, "used": 500 - left_out, "left_out": reasons}}
    run = make(data=replace(IMAGENET, name="mine", account={"train": books}))
    notes = " ".join(tables.build("table3", [run]).notes)
    assert ("mine: up to 1.1% of its images or labels were left out" in notes) == noted
