"""docs/study.md says what the records beside it say."""

from __future__ import annotations

from pathlib import Path

from mae_bench.records.record import find
from mae_bench.tables.formats.text_grid import measured
from mae_bench.tables.own import own_figures

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_the_figures_of_the_page_are_those_of_its_records() -> None:
    records = find(DOCS / "study")
    assert {record.status for record in records} == {"done"}
    lines = [line.split() for line in (DOCS / "study.md").read_text("utf-8").splitlines()]
    figures = own_figures(records)
    assert len(figures) == 7  # k-NN, two ways of classification, two of segmentation, boxes and masks
    for row in figures:
        cells = [measured(figure, row.metric.decimals).split() for figure in row.figures.values()]
        gain = row.gains["MAE, shipped"].split()[0]
        assert [row.task, row.metric.key, *(word for cell in cells for word in cell), f"({gain})"] in lines
