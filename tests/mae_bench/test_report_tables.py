"""Which tables a report shows, and the bars of own results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mae_bench.records.record import Metrics, Record
from mae_bench.report.bars import bar_groups, colours_of
from mae_bench.report.own_tables import is_earnest, own_tables
from mae_bench.tables.own import own_figures
from tests.mae_bench.made_records import make
from tests.mae_bench.tables.test_ablation_tables import run as ablated


def placed(runs: list[Record], folder: Path) -> list[Record]:
    return [replace(run, path=folder / str(number) / "record.json") for number, run in enumerate(runs)]


def test_a_run_stands_in_the_table_of_its_recipe_alone(tmp_path: Path) -> None:
    runs = [make(), make("scratch", metrics={"top1": 58.0}), make(protocol="linear")]
    tables = own_tables(placed(runs, tmp_path), tmp_path)
    assert [table.name for table in tables] == ["table3", "table12"]  # not in Tables 1a to 1f, Figures 5, 8 and 9
    assert [is_earnest(table) for table in tables] == [True, False]


def test_a_sweep_stands_in_its_ablation(tmp_path: Path) -> None:
    runs = [ablated(70.0), ablated(75.0, mask_ratio=0.5)]
    assert own_tables(placed(runs, tmp_path), tmp_path)[0].name == "fig5"


def test_bars_of_percentages_share_a_scale_and_starts_keep_their_colour() -> None:
    runs = [make(metrics={"top1": 80.0}), make("scratch", metrics={"top1": 60.0}), make("DINO", protocol="linear")]
    rows = own_figures(runs)
    colours = colours_of(start for row in rows for start in row.figures)
    assert colours == {"scratch": 6, "MAE": 0, "DINO": 1}
    finetune = bar_groups(rows, colours)[0]
    assert [(bar.start, bar.end, bar.text, bar.gain) for bar in finetune.bars] == [
        ("scratch", 60.0, "60.0", ""),
        ("MAE", 80.0, "80.0", "+20.0"),
    ]


def test_the_deviation_over_seeds_is_drawn_and_what_is_no_number_has_no_length() -> None:
    rows = own_figures([make(seed=seed, metrics={"top1": top1}) for seed, top1 in enumerate((70.0, 80.0, 90.0))])
    (bar,) = bar_groups(rows, {"MAE": 0})[0].bars
    assert (bar.low, bar.end, bar.high) == (70.0, 80.0, 90.0)
    rows = own_figures([make(metrics={"top1": None})])
    (bar,) = bar_groups(rows, {"MAE": 0})[0].bars
    assert (bar.end, bar.text) == (0.0, "nan")


def test_without_a_metric_there_is_no_bar() -> None:
    assert own_figures([make(protocol="pretrain", metrics=Metrics(last={}), primary_metric="")]) == []
