"""Figures show every point of their table, published and ours, with the deviation over seeds."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from backbones.atomic import write_bytes
from backbones.errors import UserError
from mae_bench import tables
from mae_bench.cli.main import app
from mae_bench.records import record
from mae_bench.tables.formats import charts as figures
from mae_bench.tables.formats.charts import Point, curves
from mae_bench.tables.formats.files import choose_format
from mae_bench.tables.table import Table
from tests.mae_bench.made_records import IMAGENET, make
from tests.mae_bench.tables.test_ablation_tables import run as pretrained
from tests.mae_bench.tables.test_tables_protocols import LARGE, SMALL, partial

SVG = "{http://www.w3.org/2000/svg}"


def example() -> Table:
    runs = [partial(b, 40.0 + 10 * b + s, seed=s, **SMALL) for b in (0, 0.5, 1, 2) for s in (0, 2)]
    return tables.build("fig9", [*runs, partial(1, 80.5, **LARGE)])


def texts(svg: bytes) -> list[str]:
    return ["".join(e.itertext()) for e in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_curves_hold_all_points_with_the_deviation_over_seeds() -> None:
    table = example()
    found = {
        (c.label, column.in_paper): c for i, column in enumerate(table.columns) for c in curves(table, [(i, column)])
    }
    assert [p.y for p in found["MAE, published", True].points] == [73.5, 79.1, 81.0, 83.1, 84.2, 84.4, 84.6, 84.7, 84.9]
    assert found["MAE, ours", True].points == (Point(1.0, 80.5),)
    assert found["MAE, ours", False].points == tuple(
        Point(float(b), 41.0 + 10 * b, pytest.approx(2**0.5)) for b in (0, 0.5, 1, 2)
    )


@pytest.mark.parametrize("name", ["fig5", "fig7", "fig8", "fig9", "table4_schedule"])
def test_figures_are_drawn_with_published_figures_alone(name: str) -> None:
    table = tables.build(name, [])
    shown = texts(figures.draw(table, "svg"))
    for row in table.rows:
        for cell in row.cells:
            assert cell.published is None or f"{cell.published:.1f}" in shown
    assert table.title in shown


def test_model_sizes_are_the_x_axis_of_figure_8_and_ours_have_their_own() -> None:
    runs = [make("MAE", metrics={"top1": 60.0}), make("scratch", "scratch", metrics={"top1": 55.0})]
    runs += [make("MAE", arch="vit_large_patch16", img_size=224, data=IMAGENET, metrics={"top1": 85.7})]
    table = tables.build("fig8", runs)
    shown = texts(figures.draw(table, "svg"))
    assert {"86", "304", "632", "0.82", "embedded", "85.7", "82.3"} <= set(shown)
    (mine,) = [c for c in curves(table, [(0, table.columns[0])]) if c.ours]
    assert mine.points == (Point(304.0, 85.7),)


def test_a_png_is_large_enough_and_not_blank() -> None:
    with Image.open(io.BytesIO(figures.draw(example(), "png"))) as image:
        assert image.width >= 1000
        assert len(np.unique(np.asarray(image.convert("L")))) > 50


def test_only_points_of_several_seeds_have_error_bars() -> None:
    bars = b"LineCollection"  # how matplotlib's SVG names them
    assert bars in figures.draw(example(), "svg")
    assert bars not in figures.draw(tables.build("fig9", [partial(1, 50.0, **SMALL)]), "svg")


def test_our_own_setting_has_a_field_of_its_own() -> None:
    shown = texts(figures.draw(example(), "svg"))
    assert {"ViT-L, ImageNet-1K", "vit_micro_patch4, cifar10"} <= set(shown)
    assert sum(text == "top-1 accuracy (%)" for text in shown) == 2


def test_the_same_table_gives_the_same_bytes() -> None:
    for fmt in figures.FORMATS:
        assert figures.draw(example(), fmt) == figures.draw(example(), fmt)


def test_another_checkpoint_of_a_value_is_a_point_off_the_curve() -> None:
    table = tables.build(
        "fig5", [pretrained(40.0), pretrained(50.0, also={"images": 5}), pretrained(45.0, mask_ratio=0.5)]
    )
    (curve,) = curves(table, [(2, table.columns[2])])
    assert [p.x for p in curve.points] == [50.0, 75.0]
    rows = {row.method: row.cells[2].ours for row in table.rows if row.cells[2].ours}
    assert curve.points[1].y == rows["75"].mean
    assert [p.y for p in curve.others] == [rows["75 #2"].mean]


def test_a_table_without_chart_is_no_figure() -> None:
    with pytest.raises(UserError, match=r"table3 is no figure: .* fig9"):
        figures.draw(tables.build("table3", []), "png")


names = st.text(
    st.one_of(st.sampled_from("$_<&#\n\x00\\{}^ ab1"), st.characters(exclude_categories=["Cs"])), min_size=1
)


@settings(max_examples=4, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(names.filter(str.strip))
@pytest.mark.filterwarnings("ignore:Glyph")
def test_names_from_records_are_drawn_as_they_are(name: str) -> None:
    run = partial(1, 50.0, **SMALL)
    run.init.method = name
    label = " ".join("".join(c if c.isprintable() else " " for c in f"{name}, ours").split())
    shown = [text.strip() for text in texts(figures.draw(tables.build("fig9", [run]), "svg"))]
    assert label in shown


# Files


def test_a_figure_is_written_by_its_ending(tmp_path: Path) -> None:
    record.write(partial(1, 50.0, **SMALL), tmp_path)
    out = tmp_path / "fig9.png"
    done = CliRunner().invoke(app, ["table", "fig9", "--runs", str(tmp_path), "--out", str(out)])
    assert (done.exit_code, done.output.strip()) == (0, str(out))
    assert out.read_bytes() == figures.draw(tables.build("fig9", record.find(tmp_path), runs_dir=tmp_path), "png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fig9.png", "record.json"]


def test_a_table_is_written_as_it_is_printed(tmp_path: Path) -> None:
    record.write(partial(1, 50.0, **SMALL), tmp_path)
    asked = ["table", "fig9", "--runs", str(tmp_path), "--format", "csv"]
    printed = CliRunner().invoke(app, asked).output
    CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "fig9.txt")])
    assert (tmp_path / "fig9.txt").read_text() == printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "png"], "--format png is a picture: give --out FILE.png"),
        (["--format", "pngg"], 'unknown table format "pngg" in --format: did you mean "png"?'),
        (["--out", "{}/none/fig9.png"], "make it first"),
        (["--out", "{}/fig9.jpg"], "unknown table format"),
        (["--out", "{}"], "is a folder"),
    ],
)
def test_what_cannot_be_written_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    texts = [text.format(tmp_path) for text in arguments]
    done = CliRunner().invoke(app, ["table", "fig9", "--runs", str(tmp_path), *texts])
    assert isinstance(done.exception, UserError)
    assert message in str(done.exception)
    assert "\n" not in str(done.exception)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "a.md"
    out.write_text("old")
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_bytes(out, b"new")
    assert (out.read_text(), len(list(tmp_path.iterdir()))) == ("old", 1)


def test_the_format_is_the_one_asked_for_else_the_files() -> None:
    assert choose_format(None, None) == "md"
    assert choose_format(None, Path("a.SVG")) == "svg"
    assert choose_format("csv", Path("a.txt")) == "csv"
