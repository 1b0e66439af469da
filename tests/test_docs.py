"""Links and paths in README, CONTRIBUTING, docs and docstrings lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
PAGES = [page for page in PAGES if page.name != "CHANGELOG.md"]  # which tells of paths that were
# `tasks/detection/task.py`, `mae_bench/engine/`, `backbones.vit.encoder`
PATH = re.compile(r"`((?:mae_bench|tasks|backbones|configs|tests|benchmarks|docs)/[\w./-]*)`")
MODULE = re.compile(r"(?<!`)`((?:mae_bench|tasks|backbones)\.(?!py`)[a-z_]\w*(?:\.\w+)*)`(?!`)")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def words(text: str) -> str:
    """A page without its blocks of code, in which paths are examples."""
    return re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)


def module_exists(name: str) -> bool:
    """Whether a dotted name is a module, or something that a module's text defines."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        base = ROOT.joinpath(*parts[:length])
        file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        if file.is_file():
            rest = parts[length:]
            return not rest or bool(re.search(rf"\b{re.escape(rest[0])}\b", file.read_text("utf-8")))
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    links = [link for link in LINK.findall(text) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [path for path in PATH.findall(words(text)) if not (ROOT / path).exists()]
    missing += [name for name in MODULE.findall(words(text)) if not module_exists(name)]
    assert missing == []


def test_modules_that_docstrings_and_comments_name_are_there() -> None:
    missing = {}
    for package in ("mae_bench", "tasks", "backbones"):
        for file in sorted((ROOT / package).rglob("*.py")):
            names = MODULE.findall(file.read_text("utf-8"))
            if gone := [name for name in names if not module_exists(name)]:
                missing[str(file.relative_to(ROOT))] = gone
    assert missing == {}
