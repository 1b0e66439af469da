"""Built tables as LaTeX with booktabs: a fragment to ``\\input`` (`latex`), or a document of its own (`document`)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from mae_bench.common.text import plain
from mae_bench.tables.formats.text_grid import blocks, grid, notes, sources, stubs
from mae_bench.tables.table import Table

PACKAGES = ("booktabs", "graphicx")
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
    lines = [
        r"\begin{table}[htbp]",
        r"\centering\footnotesize",
        rf"\caption{{{escape(title)}}}",
        rf"\label{{tab:{part.name}}}",
    ]
    for block in blocks(part, grid(part)):
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
    rows = [rf"{' & '.join(map(escape, line))} \\" for line in [header, *body]]
    return [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        rows[0],
        r"\midrule",
        *rows[1:],
        r"\bottomrule",
        r"\end{tabular}",
    ]


def escape(text: str) -> str:
    """Text of a record as LaTeX that prints as that text; signs that pdflatex has no letter for as their number, ``U+4E2D``."""
    return "".join(map(_sign, re.sub(r"(^|\()-(?=\d)", "\\1\N{MINUS SIGN}", plain(text))))


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
