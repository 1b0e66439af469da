"""`mae-bench speed`: Table 2 measured with a micro model; arithmetic and layout, not how fast a machine is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backbones.errors import UserError
from mae_bench.speed import Speed, measure
from mae_bench.tables import render
from mae_bench.tables.fill.wall_clock import table2_of
from tests.conftest import Result


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> tuple[Speed, Path]:
    out = tmp_path_factory.mktemp("speed")
    return measure("vit_micro_patch8", batch_size=4, steps=1, epochs=10, out=out), out


def test_three_cases_as_in_the_paper(micro: tuple[Speed, Path]) -> None:
    rows = micro[0].rows
    assert [(r.encoder_mask_tokens, r.decoder_depth) for r in rows] == [(True, 8), (False, 8), (False, 1)]
    assert rows[0].flops_per_image > rows[1].flops_per_image > rows[2].flops_per_image > 0
    for row in rows:
        assert row.hours * 3600 * row.images_per_s == pytest.approx(1_281_167 * 10)
        assert row.speedup == pytest.approx(row.images_per_s / rows[0].images_per_s)


def test_the_json_holds_what_was_measured_and_on_what(micro: tuple[Speed, Path]) -> None:
    speed, out = micro
    raw = json.loads((out / "speed.json").read_text())
    assert raw["rows"][2]["images_per_s"] == speed.rows[2].images_per_s
    assert (raw["arch"], raw["precision"], raw["compiled"], raw["batch_size"]) == ("vit_micro_patch8", "fp32", False, 4)
    assert raw["software"]["torch"]
    assert [p.name for p in out.iterdir()] == ["speed.json"]


def test_table_2_of_another_model_has_no_published_figures(micro: tuple[Speed, Path]) -> None:
    table = table2_of(replace(micro[0], rows=tuple(replace(row, images_per_s=99.0) for row in micro[0].rows)))
    assert [c.heading for c in table.columns] == [
        *("hours, computed", "speed-up, measured", "images/s, measured", "MFLOPs/image")
    ]
    assert [row.method for row in table.rows] == [
        *("vit_micro_patch8, w/ [M], 8", "vit_micro_patch8, 8", "vit_micro_patch8, 1")
    ]
    assert not table.sources


@pytest.mark.parametrize(
    ("arch", "hours", "speedups"),
    [
        ("vit_large_patch16", [42.4, 15.4, 11.6], [None, 2.8, 3.7]),
        ("vit_huge_patch14", [119.6, 34.5, 29.3], [None, 3.5, 4.1]),
    ],
)
def test_published_figures_stand_beside(
    micro: tuple[Speed, Path], arch: str, hours: list[float], speedups: list[float | None]
) -> None:
    table = table2_of(replace(micro[0], arch=arch))
    assert [row.cells[1].published for row in table.rows] == hours
    assert [row.cells[2].published for row in table.rows] == speedups
    assert all(row.cells[3].ours for row in table.rows)
    # Hours of other machines are no difference that means anything.
    assert all(cell.difference is None for row in table.rows for cell in row.cells)
    assert "w/ \\[M\\], 8" in render(table)


def test_the_command_prints_the_table_or_json(
    cli: Callable[..., Result], micro: tuple[Speed, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mae_bench.speed.measure", lambda *_, **__: micro[0])
    assert cli("speed", "--arch", "vit_micro_patch8").out == render(table2_of(micro[0]))
    assert json.loads(cli("speed", "--json").out)["rows"][1]["decoder_depth"] == 8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"arch": "vit_larg_patch16"}, 'did you mean "vit_large_patch16"'),
        ({"arch": "vit_small_patch16"}, "--arch vit_small_patch16: no shipped pre-training recipe: give one of"),
        ({"arch": "vit_micro_patch8", "batch_size": 0}, "--batch-size 0: give a positive number"),
        ({"arch": "vit_micro_patch8", "steps": -1}, "--steps -1: give a positive number"),
        ({"arch": "vit_micro_patch8", "epochs": float("nan")}, "--epochs nan: give a positive number"),
    ],
)
def test_a_mistake_is_named(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        measure(**arguments)  # type: ignore[arg-type]


def test_a_slow_machine_gets_images_a_minute(micro: tuple[Speed, Path]) -> None:
    slow = replace(micro[0], rows=tuple(replace(row, images_per_s=0.25) for row in micro[0].rows))
    table = table2_of(slow)
    assert table.columns[2].heading == "images/min, measured"
    assert [row.cells[2].ours.mean for row in table.rows if row.cells[2].ours] == [15.0] * 3
