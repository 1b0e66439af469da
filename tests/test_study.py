"""docs/study.md says what the records beside it say."""

from __future__ import annotations

from pathlib import Path

from mae_bench import tables
from mae_bench.records.record import find

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_the_figures_of_the_page_are_those_of_its_records() -> None:
    records = find(DOCS / "study")
    assert records
    assert {record.status for record in records} == {"done"}
    page = (DOCS / "study.md").read_text("utf-8")
    shown = [
        value
        for name in ("table3", "table12")
        for row in tables.build(name, records).rows
        for cell in row.cells
        if cell.ours
        for value in cell.ours.values
    ]
    assert len(shown) == sum(record.protocol in ("finetune", "linear") for record in records)
    assert [value for value in shown if f"{value:.1f}" not in page] == []
