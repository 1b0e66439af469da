"""docs/study.md says what the records beside it say."""

from __future__ import annotations

from pathlib import Path

import pytest

from mae_bench.records.record import find
from mae_bench.tables.formats.text_grid import measured
from mae_bench.tables.own import own_figures

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.mark.parametrize(
    ("data", "count"),
    [
        ("embedded", 7),  # k-NN, two ways of classification, two of segmentation, boxes and masks
        ("cifar10/default", 4),  # from scratch, fine-tuned, linear probe, k-NN
    ],
)
def test_the_figures_of_the_page_are_those_of_its_records(data: str, count: int) -> None:
    records = find(DOCS / "study" / data)
    assert {record.status for record in records} == {"done"}
    lines = [line.split() for line in (DOCS / "study.md").read_text("utf-8").splitlines()]
    figures = own_figures(records)
    assert len(figures) == count
    for row in figures:
        cells = [measured(figure, row.metric.decimals).split() for figure in row.figures.values() if figure]
        gains = [f"({gain.split()[0]})" for gain in row.gains.values()]
        assert [row.task, row.metric.key, *(word for cell in cells for word in cell), *gains] in lines
