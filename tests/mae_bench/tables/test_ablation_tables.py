"""An ablation's cell is filled by pre-trainings that have its value and change nothing else, beside the paper's figure."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_bench import tables
from mae_bench.records import record
from mae_bench.records.record import Init, Record
from mae_bench.tables.definitions import published
from mae_bench.tables.definitions.ablations import ABLATIONS, PAPER, Ablation
from mae_bench.tables.table import Cell, Table
from tests.mae_bench.made_records import IMAGENET, digest, make

MICRO = {
    **PAPER,
    "encoder.arch": "vit_micro_patch8",
    "data.name": "embedded",
    "schedule.epochs": 1,
    "mae.decoder_depth": 2,
    "mae.decoder_embed_dim": 128,
}


def run(
    top1: float, protocol: str = "finetune", *, default: dict[str, Any] = MICRO, also: Any = None, **changes: Any
) -> Record:
    """A run from a pre-training whose recipe changes `changes` (``decoder_depth=1``) of `default`."""
    changed = {f"mae.{key}": value for key, value in changes.items()}
    said = {
        "settings": {**default, **changed},
        "changed": sorted(changed),
        "images": 1_281_167 if default is PAPER else 400,
        **(also or {}),
    }
    init = Init(method="MAE", checkpoint="x", sha256=digest("weights", said), layout="mae_bench", pretraining=said)
    large: dict[str, Any] = {}
    if default is PAPER:
        large = {"arch": "vit_large_patch16", "img_size": 224, "data": IMAGENET}
    return make(protocol=protocol, metrics={"top1": top1}, init=init, job_id=digest(protocol, said, top1), **large)


def cell(table: Table, row: str, heading: str) -> Cell:
    column = [column.heading for column in table.columns].index(heading)
    return next(r for r in table.rows if r.method == row).cells[column]


def ours(table: Table, row: str, heading: str = "our fine-tuning") -> float | None:
    measured = cell(table, row, heading).ours
    return measured.mean if measured else None


# What is printed


def test_table_1a_in_the_papers_layout(tmp_path: Path) -> None:
    for i, r in enumerate(
        [
            run(40.0),
            run(30.04, "linear"),
            run(41.25, decoder_depth=8),
            run(85.0, default=PAPER),
            run(20.0, mask_ratio=0.5),
        ]
    ):
        (tmp_path / str(i)).mkdir()
        record.write(r, tmp_path / str(i))
    text = tables.render(tables.build("table1a", record.find(tmp_path)))
    assert text.startswith(GOLDEN)
    assert (
        "ours: pre-trained on 400 images; default, the paper's in brackets: encoder.arch vit_micro_patch8 (vit_lar"
        in text
    )
    assert "its figures say nothing about ImageNet-1K" in text


GOLDEN = """\
### Table 1a: decoder depth (blocks)

| blocks |             fine-tuning | linear | our fine-tuning | our linear |
| ------ | ----------------------: | -----: | --------------: | ---------: |
| 1      |                    84.8 |   65.5 |               – |          – |
| 2      |                    84.9 |   70.0 |            40.0 |       30.0 |
| 4      |                    84.9 |   71.9 |               – |          – |
| 8 †    | 84.9 / ours 85.0 (+0.1) |   73.5 |            41.2 |          – |
| 12     |                    84.4 |   73.3 |               – |          – |

- † the paper's default
"""


def test_table_1_has_six_parts_in_every_format() -> None:
    table = tables.build("table1", [run(40.0), run(41.0, target="pca")])
    parts = [f"table1{letter}" for letter in "abcdef"]
    assert [part.name for part in table.parts] == parts
    text = tables.render(table)
    assert [line[2:10] for line in text.splitlines() if line.startswith("**Table")] == [f"Table 1{x}" for x in "abcdef"]
    assert [part["name"] for part in json.loads(tables.render(table, "json"))["parts"]] == parts
    lines = list(csv.DictReader(io.StringIO(tables.render(table, "csv"))))
    assert {line["table"] for line in lines} == set(parts)
    assert {(x["table"], x["method"]) for x in lines if x["ours_mean"] == "41.0"} == {("table1d", "PCA")}


def test_notes_that_parts_share_are_printed_once() -> None:
    lines = tables.render(tables.build("table1", [run(40.0)])).splitlines()
    notes = [line for line in lines if line.startswith("- ")]
    assert len(notes) == len(set(notes))
    assert sum("a composite (handwritten digits on photographs)" in note for note in notes) == 1


@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda a: a.name)
def test_every_published_figure_is_shown_in_its_row(ablation: Ablation) -> None:
    raw = published.load()["tables"][ablation.published]
    table = tables.build(ablation.name, [])
    wheres = [key for row in ablation.rows for key in row.where]
    shown = [[c.published for c in row.cells] for row in table.rows]
    columns = [c for c in raw["columns"] if c not in wheres]
    assert shown == [[float(str(row["values"][c]).removesuffix("x")) for c in columns] for row in raw["rows"]]
    assert [row.default for row in ablation.rows] == [row.get("note") == "default" for row in raw["rows"]] or (
        "default" not in {row.get("note") for row in raw["rows"]}
    )
    assert "ours: no finished run fills this table" in table.notes


def test_flops_are_a_multiple_of_the_default_rows() -> None:
    with_tokens = run(40.0, also={"flops_per_image": 330}, encoder_mask_tokens=True)
    table = tables.build("table1c", [with_tokens, run(41.0, also={"flops_per_image": 100})])
    assert ours(table, "encoder w/ [M]", "our FLOPs") == pytest.approx(3.3)
    assert ours(table, "encoder w/o [M]", "our FLOPs") == 1.0
    line = next(line for line in tables.render(table).splitlines() if "w/ \\[M\\]" in line)
    assert [text.strip() for text in line.split("|")[1:-1]] == [
        "encoder w/ \\[M\\]",
        "84.2",
        "59.6",
        "3.3x",
        "40.0",
        "–",
        "3.3x",
    ]
    alone = tables.build("table1c", [with_tokens])
    assert cell(alone, "encoder w/ [M]", "our FLOPs").ours is None  # nothing to be a multiple of


# Which run fills which cell


def test_the_default_fills_every_row_of_its_own_value() -> None:
    default = run(40.0)
    rows = {"table1a": "2", "table1b": "128", "table1c": "encoder w/o [M]", "table1d": "pixel (w/o norm)"}
    rows |= {"table1e": "crop, rand size", "table1f": "random 75", "fig5": "75"}
    for name, row in rows.items():
        table = tables.build(name, [default])
        assert {r.method for r in table.rows if r.cells[-len(r.cells) // 2].ours} == {row}, name


def test_a_run_that_changes_something_else_too_fills_nothing() -> None:
    table = tables.build("fig5", [run(40.0, mask_ratio=0.5, decoder_depth=4)])
    assert [c.heading for c in table.columns] == ["fine-tuning", "linear"]
    # Sampling and ratio are one factor of Table 1f, and the ratio alone is Figure 5's.
    block = run(40.0, mask_sampling="block", mask_ratio=0.5)
    assert ours(tables.build("table1f", [block]), "block 50") == 40.0
    assert all(c.ours is None for row in tables.build("fig5", [block]).rows for c in row.cells)


def test_runs_without_known_pretraining_fill_nothing() -> None:
    table = tables.build("fig5", [make(), make("scratch", "finetune")])
    assert all(c.ours is None for row in table.rows for c in row.cells)


@pytest.mark.parametrize(
    "differing",
    [
        {"schedule.epochs": 400},
        {"mae.target": "pixels_norm"},
        {"augmentation.scale": [0.5, 1.0]},
        {"data.name": "cifar10"},
    ],
)
def test_only_the_papers_own_default_stands_beside_its_figures(differing: dict[str, Any]) -> None:
    same, other = run(84.0, default=PAPER), run(83.0, default=PAPER)
    assert other.init.pretraining is not None
    other.init.pretraining["settings"] = {**PAPER, **differing}
    assert cell(tables.build("fig5", [same]), "75", "fine-tuning").difference == pytest.approx(-0.9)
    table = tables.build("fig5", [other])
    assert cell(table, "75", "fine-tuning").ours is None
    assert ours(table, "75") == 83.0


def test_a_pretraining_on_a_part_of_imagenet_is_not_the_papers() -> None:
    unknown, few = run(84.0, default=PAPER), run(84.0, default=PAPER, also={"images": 12_811})
    assert unknown.init.pretraining is not None
    del unknown.init.pretraining["images"]
    for one in (unknown, few):
        assert cell(tables.build("fig5", [one]), "75", "fine-tuning").ours is None
    part = run(84.0, default=PAPER)
    part.data = replace(IMAGENET, val_count=1000)
    assert cell(tables.build("fig5", [part]), "75", "fine-tuning").ours is None


def test_other_tokens_than_dalles_are_not_set_against_its_row() -> None:
    table = tables.build("table1d", [run(84.0, default=PAPER, target="tokens")])
    assert cell(table, "dVAE token", "fine-tuning") == Cell(85.3, ("mae_md", "mae_pdf"))
    assert ours(table, "dVAE token") == 84.0
    assert "dVAE token, ours: ids of a tokenizer trained here, not of DALL-E's dVAE" in table.notes


def test_different_defaults_are_columns_of_their_own() -> None:
    longer = {**MICRO, "schedule.epochs": 50}
    table = tables.build("fig5", [run(40.0), run(60.0, default=longer), run(61.0, default=longer, mask_ratio=0.5)])
    own = [c.heading for c in table.columns if c.metric == "top1" and not c.in_paper]
    assert own == ["our fine-tuning 1", "our linear 1", "our fine-tuning 2", "our linear 2"]
    columns = {ours(table, "75", "our fine-tuning 1"): 1, ours(table, "75", "our fine-tuning 2"): 2}
    assert set(columns) == {40.0, 60.0}
    assert ours(table, "50", f"our fine-tuning {columns[60.0]}") == 61.0


def test_two_checkpoints_of_a_row_are_not_averaged() -> None:
    again = run(50.0, also={"images": 5})
    table = tables.build("fig5", [run(40.0), again])
    assert {ours(table, "75"), ours(table, "75 #2")} == {40.0, 50.0}
    assert any("75 #2 is" in note for note in table.notes)


def test_seeds_of_fine_tuning_make_a_mean() -> None:
    first, second = run(40.0), run(42.0)
    second.seed = 1
    measured = cell(tables.build("fig5", [first, second]), "75", "our fine-tuning").ours
    assert measured is not None
    assert (measured.mean, measured.n) == (41.0, 2)


def test_records_from_before_pretraining_was_noted_are_read(tmp_path: Path) -> None:
    record.write(make(), tmp_path)
    raw = json.loads((tmp_path / "record.json").read_text())
    del raw["init"]["pretraining"]
    (tmp_path / "record.json").write_text(json.dumps(raw))
    assert record.read(tmp_path).init.pretraining is None


ratios = st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.55])


@settings(max_examples=25)
@given(st.dictionaries(ratios, st.floats(0, 100), min_size=1))
def test_each_ratio_goes_to_its_row_of_figure_5(figures: dict[float, float]) -> None:
    table = tables.build("fig5", [run(top1, mask_ratio=ratio) for ratio, top1 in figures.items()])
    shown = {r.method: c.ours.mean for r in table.rows for c in r.cells if c.ours}
    assert shown == {f"{ratio * 100:g}": top1 for ratio, top1 in figures.items() if ratio != 0.55}


def schedule(top1: float, epochs: float, default: dict[str, Any] = MICRO) -> Record:
    made = run(top1, default=default | {"schedule.epochs": epochs})
    said = {**(made.init.pretraining or {}), "changed": ["schedule.epochs"]}
    return replace(made, init=replace(made.init, pretraining=said), job_id=digest(top1, epochs))


def test_schedules_that_the_paper_has_not_get_rows_of_figure_7_in_their_place() -> None:
    table = tables.build("fig7", [schedule(40.0, 12), schedule(50.0, 100), schedule(45.0, 25)])
    assert [row.method for row in table.rows] == ["12", "25", "100", "200", "400", "800", "1600"]
    assert [ours(table, row.method) for row in table.rows[:4]] == [40.0, 45.0, 50.0, None]
    assert [row.x for row in table.rows[:3]] == [12, 25, 100]
    assert cell(table, "100", "fine-tuning").published == 82.3
    assert cell(table, "25", "fine-tuning").published is None


def test_one_schedule_alone_says_nothing_of_figure_7() -> None:
    table = tables.build("fig7", [schedule(40.0, 12), run(50.0, decoder_depth=1)])
    assert [row.method for row in table.rows] == ["100", "200", "400", "800", "1600"]
    assert len(table.columns) == 2
