"""LaTeX compiles, HTML parses, and whatever a record holds reads as that text in both."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_bench import tables
from mae_bench.common.text import plain
from mae_bench.records import record
from mae_bench.records.record import Record
from mae_bench.tables.formats import text_grid as grid
from mae_bench.tables.formats.files import choose_format, contents
from mae_bench.tables.formats.html import page
from mae_bench.tables.formats.latex import document, escape
from mae_bench.tables.table import Table
from tests.conftest import Result
from tests.mae_bench.made_records import COCO, IMAGENET, make

EVIL = "a<b>&\"'`\\{}$_^~#%|,, -- ?` é ř 中 ½ ± \u202e </table><script>alert(1)</script>\n\\input{/etc/passwd}"
needs_pdflatex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")


def runs() -> list[Record]:
    on_imagenet: dict[str, Any] = {"arch": "vit_base_patch16", "img_size": 224, "data": IMAGENET}
    found = [make(seed=s, metrics={"top1": top1}, **on_imagenet) for s, top1 in enumerate((83.5, 83.6, 83.65))]
    found.append(make(metrics={"top1": 85.0}, **{**on_imagenet, "arch": "vit_large_patch16"}))
    found.append(make(metrics={"top1": 87.0}, **{**on_imagenet, "arch": "vit_huge_patch14"}))
    return [*found, make("scratch", "scratch"), make(EVIL)]


# HTML


class Page(HTMLParser):
    """Tags, and of each cell of a table its classes, the text and what it sorts by."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.cells: list[dict[str, str]] = []
        self.spans: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = {key: value or "" for key, value in attrs}
        if tag not in ("meta",):
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append({"class": found.get("class", ""), "sort": found.get("data-sort", ""), "text": ""})
        if tag == "span" and "caption" not in self.open:
            self.spans.append((found["class"], ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.cells[-1]["text"] += data
        if "span" in self.open and "caption" not in self.open:
            name, text = self.spans[-1]
            self.spans[-1] = (name, text + data)


def test_html_marks_published_ours_difference_and_tolerance() -> None:
    parsed = Page(tables.render(tables.build("table3", runs()), "html"))
    assert not parsed.open
    assert ("published", "83.6") in parsed.spans
    assert ("ours", "83.6 ± 0.08 (n=3)") in parsed.spans
    assert ("difference within", "0.0") in parsed.spans
    assert ("difference outside", "-0.9") in parsed.spans
    assert ("difference", "+0.1") in parsed.spans  # no tolerance is published for ViT-H
    mine = next(cell for cell in parsed.cells if "83.6 ±" in cell["text"])
    assert float(mine["sort"]) == pytest.approx(83.5833, abs=1e-4)
    assert {cell["text"] for cell in parsed.cells if cell["class"] == "missing"} == {grid.MISSING}


def test_html_holds_every_cell_of_the_table() -> None:
    table = tables.build("table3", runs())
    parsed = Page(tables.render(table, "html"))
    assert len(parsed.cells) == (1 + len(table.rows)) * (1 + len(table.columns))


def test_the_page_is_a_whole_document_and_runs_no_script() -> None:
    parsed = Page(page(tables.build("table1", runs())))
    assert parsed.tags[0] == "html"
    assert parsed.tags.count("table") == 6
    assert "script" not in parsed.tags


texts = st.text(
    st.one_of(st.sampled_from("<>&\"'\n\x00\\ ab1;="), st.characters(exclude_categories=["Cs"])), min_size=1
)


@settings(max_examples=25)
@given(texts.filter(lambda text: bool(plain(text))))
def test_text_from_records_is_text_in_html(text: str) -> None:
    parsed = Page(tables.render(tables.build("table3", [make(text)]), "html"))
    assert set(parsed.tags) == {
        "section",
        "div",
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "span",
        "ul",
        "li",
    }
    assert plain(text) in [cell["text"] for cell in parsed.cells]


# LaTeX


@needs_pdflatex
def test_every_table_compiles(tmp_path: Path) -> None:
    """One document of all tables, those that records with hostile names fill among them."""
    detection = [make(EVIL, "detection", recipe_name=EVIL), make("MAE", "detection", data=COCO, img_size=1024)]
    built = [tables.build(name, [*runs(), *detection]) for name in tables.names()]
    head, tail = document(built[0]).split("\\begin{document}")
    assert tail
    body = "\\clearpage\n".join(tables.render(table, "latex") for table in built)
    (tmp_path / "all.tex").write_text(f"{head}\\begin{{document}}\n{body}\\end{{document}}\n", "utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull \\hbox" not in done.stdout  # wide blocks are scaled to the line
    assert (tmp_path / "all.pdf").read_bytes().startswith(b"%PDF")


@needs_pdflatex
@settings(max_examples=3)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=40, max_size=40))
def test_any_text_compiles(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("any")
    ascii_pairs = ["".join((a, b)) for a in map(chr, range(33, 127)) for b in "-`',<>?!{}\\ "]
    lines = "\n\n".join(f"x{escape(text)}" for text in [*texts, *ascii_pairs])
    (folder / "a.tex").write_text(
        f"\\documentclass{{article}}\\begin{{document}}\n{lines}\n\\end{{document}}\n", "utf-8"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]


def test_latex_has_booktabs_rules_and_a_minus_sign() -> None:
    text = tables.render(tables.build("table3", runs()), "latex")
    assert text.startswith("% needs \\usepackage{booktabs}\\usepackage{graphicx}\n")
    assert text.count("\\toprule") == text.count("\\midrule") == text.count("\\bottomrule") > 0
    assert "$-$0.9" in text
    assert "83.6 $\\pm$ 0.08 (n=3)" in text
    assert "\\caption{the paper'{}s Table 3: image classification" in text


def test_latex_prints_the_best_of_a_column_in_bold_the_published_and_ours() -> None:
    micro = [make(metrics={"top1": 70.0}), make("scratch", metrics={"top1": 60.0})]
    text = tables.render(tables.build("table3", micro), "latex")
    assert "\\textbf{86.9}" in text
    assert "\\textbf{70.0}" in text
    assert "\\textbf{60.0}" not in text
    assert "; columns of ours: embedded}" in text


def test_latex_opens_quotations() -> None:
    assert escape('a "word" and ("two")') == ("a \\textquotedblleft{}word{''} and (\\textquotedblleft{}two{''})")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_latex_commands_come_from_us_alone(text: str) -> None:
    escaped = escape(text)
    assert escaped.isascii()
    assert "\\input" not in escaped
    assert not re.search(r"(?<!\\)[%#&_]", escaped)
    assert escaped.count("{") - escaped.count("\\{") == escaped.count("}") - escaped.count("\\}")


# Formats tell the same


@pytest.mark.parametrize("name", tables.names())
def test_csv_json_and_html_hold_the_same_figures(name: str) -> None:
    table = tables.build(name, runs())
    lines = list(csv.DictReader(io.StringIO(tables.render(table, "csv"))))
    raw = json.loads(tables.render(table, "json"))
    cells = [
        cell for part in raw.get("parts", [raw]) for row in part["rows"] for cell in row["cells"].values()
        if cell["published"] is not None or cell["n"]
    ]  # fmt: skip
    assert len(lines) == len(cells)
    assert sorted(line["within"] for line in lines) == sorted(
        {True: "yes", False: "no", None: ""}[c["within"]] for c in cells
    )
    spans = Page(tables.render(table, "html")).spans
    assert sum(kind == "published" for kind, _text in spans) == sum(c["published"] is not None for c in cells)
    assert sum(kind == "ours" for kind, _text in spans) == sum(c["n"] > 0 for c in cells)


# Files


def test_tex_and_html_files_are_known_by_their_endings(cli: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    record.write(runs()[0], tmp_path / "run")
    for ending, start in (("tex", "% needs"), ("html", "<!DOCTYPE html>")):
        out = tmp_path / f"table3.{ending}"
        cli("table", "table3", "--runs", tmp_path, "--out", out)
        assert out.read_text("utf-8").startswith(start)
    assert choose_format(None, Path("a.htm")) == "html"
    printed = cli("table", "table3", "--runs", tmp_path, "--format", "latex").out
    assert printed == (tmp_path / "table3.tex").read_text("utf-8")


def test_an_empty_table_is_a_table_in_every_format() -> None:
    for fmt in tables.FORMATS:
        assert contents(Table("x", "nothing"), fmt)
