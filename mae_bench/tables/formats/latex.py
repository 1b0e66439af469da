"""Built tables as LaTeX with booktabs: a fragment to ``\\input`` (`latex`), or a document of its own (`document`)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from mae_bench.common.text import plain
from mae_bench.tables.formats.text_grid import Grid, blocks, grid, notes, sources, stubs
from mae_bench.tables.table import Table
from tasks import registry

PACKAGES = ("booktabs", "graphicx")
_BEST = "\ue000"  # before a figure that is printed in bold
_FIGURE = re.compile(r"-?\d+(\.\d+)?")
_SIGNS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    '"': "{''}",
    "'": "'{}",  # two of them are a quotation mark
    "`": "`{}",
    "-": r"{-}",  # two of them are no dash
    "\N{MINUS SIGN}": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "½": r"$\frac12$",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "†": r"\dag{}",
    "…": r"\ldots{}",
    "’": r"\textquoteright{}",
    "‘": r"\textquoteleft{}",
    "“": r"\textquotedblleft{}",
    "”": r"\textquotedblright{}",
    "?": "?{}",  # ?` and !` are Spanish
    "!": "!{}",
}
_ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0308": '"',
    "\u030a": "r",
    "\u030c": "v",
    "\u0327": "c",
}


def latex(table: Table) -> str:
    """A ``table`` environment a part; blocks of columns below each other where one would be too wide."""
    needs = "".join(rf"\usepackage{{{package}}}" for package in PACKAGES)
    lines = [rf"% needs {needs}"]
    for part in table.parts or (table,):
        lines += _float(part, last=part is (table.parts or (table,))[-1], table=table)
    return "\n".join(lines) + "\n"


def document(table: Table) -> str:
    """The fragment as a document that pdflatex compiles."""
    packages = "\n".join(rf"\usepackage{{{package}}}" for package in PACKAGES)
    return (
        "\\documentclass[a4paper]{article}\n\\usepackage[margin=2cm]{geometry}\n"
        f"{packages}\n\\begin{{document}}\n{latex(table)}\\end{{document}}\n"
    )


def _float(part: Table, *, last: bool, table: Table) -> list[str]:
    title = re.sub(r"^(Table|Figure) ", r"the paper's \1 ", part.title)  # LaTeX numbers it anew
    if own := _own_data(part):
        title += f"; columns of ours: {', '.join(own)}"
    lines = [
        r"\begin{table}[htbp]",
        r"\centering\footnotesize",
        rf"\caption{{{escape(title)}}}",
        rf"\label{{tab:{part.name}}}",
    ]
    for block in blocks(part, _with_best(part, grid(part))):
        lines += [
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            *_tabular(block, stubs(part)),
            r"}\par\smallskip",
        ]
    if last:
        said = [*notes(table), *(f"published figures, {key}: {text}" for key, text in sources(table).items())]
        lines += [r"\begin{minipage}{\linewidth}\raggedright"]
        lines += [rf"{escape(text)}\par" for text in said]
        lines += [r"\end{minipage}"]
    return [*lines, r"\end{table}"]


def _tabular(block: Sequence[Sequence[str]], stubs: int) -> list[str]:
    header, *body = block
    columns = "l" * stubs + "r" * (len(header) - stubs)
    rows = [rf"{' & '.join(map(_cell, line))} \\" for line in [header, *body]]
    return [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        rows[0],
        r"\midrule",
        *rows[1:],
        r"\bottomrule",
        r"\end{tabular}",
    ]


def _own_data(part: Table) -> list[str]:
    """Data sets of the columns that hold figures of ours alone: the title names the paper's."""
    columns = [column for column in part.columns if not column.in_paper and _direction(column.metric)]
    return list(dict.fromkeys((column.setting or column.heading).split(", ")[-1].split(" ")[-1] for column in columns))


def _with_best(part: Table, lines: Grid) -> Grid:
    """The lines, with a mark before each column's best published figure, and before its best figure of ours."""
    marked = [list(line) for line in lines]
    left = stubs(part)
    for i, column in enumerate(part.columns, start=left):
        sign = _direction(column.metric)
        for kind in {"" if part.factor else line[left - 1] for line in lines[1:]} & {"", "published", "ours"}:
            rows = [k for k, line in enumerate(lines) if k and (part.factor or line[left - 1] == kind)]
            figures = {k: sign * float(found[0]) for k in rows if sign and (found := _FIGURE.match(lines[k][i]))}
            if len(figures) > 1:
                for k in (k for k, figure in figures.items() if figure == max(figures.values())):
                    marked[k][i] = _BEST + lines[k][i]
    return marked


def _direction(metric: str) -> int:
    """1 where higher is better, -1 where lower is, 0 of what no task declares as a metric, such as hours."""
    found = next((known for spec in registry().values() if (known := spec.declared(metric))), None)
    return 0 if found is None else -1 if found.better == "lower" else 1


def _cell(text: str) -> str:
    if not text.startswith(_BEST):
        return escape(text)
    figure, rest = text[1:].partition(" ")[0], text[1:].partition(" ")[2]
    return rf"\textbf{{{escape(figure)}}}" + (f" {escape(rest)}" if rest else "")


def escape(text: str) -> str:
    """Text of a record as LaTeX that prints as that text; signs that pdflatex has no letter for as their number, ``U+4E2D``."""
    text = re.sub(r"(^|\()-(?=\d)", "\\1\N{MINUS SIGN}", plain(text))
    return "".join(map(_sign, re.sub(r'(^|[\s(\[])"(?=\S)', "\\1\N{LEFT DOUBLE QUOTATION MARK}", text)))


def _sign(char: str) -> str:
    if char in _SIGNS:
        return _SIGNS[char]
    if char.isascii():
        return char
    parts = unicodedata.normalize("NFD", char)
    letter, accent = parts[0], parts[1:]
    if accent in _ACCENTS and letter.isascii() and letter.isalpha():
        return rf"\{_ACCENTS[accent]}{{{letter}}}"
    return f"U+{ord(char):04X}"
