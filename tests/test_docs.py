"""Links, paths and imports in README, CONTRIBUTING, docs and docstrings lead somewhere."""

from __future__ import annotations

import ast
import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

from mae_bench.cli.main import app
from mae_bench.recipes.load import suite_names

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
PAGES = [page for page in PAGES if page.name != "CHANGELOG.md"]  # which tells of paths that were
# `tasks/detection/task.py`, `mae_bench/engine/`, `backbones.vit.encoder`
PATH = re.compile(r"`((?:mae_bench|tasks|backbones|configs|tests|benchmarks|docs)/[\w./-]*)`")
MODULE = re.compile(r"(?<!`)`((?:mae_bench|tasks|backbones)\.(?!py`)[a-z_]\w*(?:\.\w+)*)`(?!`)")
PYTHON = re.compile(r"^```python$(.*?)^```$", re.S | re.M)
OURS = ("mae_bench", "tasks", "backbones")
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


NAMED_TEST = re.compile(r"(tests/[\w/]+\.py)::(test_\w+)")


def promises(page: str, begin: str, end: str) -> list[str]:
    """Items of a page's lists and rows of its tables between two headings, each in one line with its comments."""
    text = (ROOT / "docs" / page).read_text("utf-8").partition(f"\n## {begin}")[2].partition(f"\n## {end}")[0]
    text = re.sub(r"\n +", " ", text)
    return [line for line in text.splitlines() if line.startswith(("- ", "| ")) and not line.startswith("| fault |")]


@pytest.mark.parametrize(
    ("page", "begin", "end"),
    [
        ("security.md", "In general", "What is not promised"),
        ("resume.md", "What happens at which fault", "Checkpoints"),
    ],
)
def test_every_promise_has_a_test(page: str, begin: str, end: str) -> None:
    """Named in a comment behind it, which a reader of the page does not see."""
    found = promises(page, begin, end)
    assert len(found) > 15
    assert [line for line in found if not NAMED_TEST.search(line)] == []
    named = [each for line in found for each in NAMED_TEST.findall(line)]
    assert [each for each in named if f"def {each[1]}(" not in (ROOT / each[0]).read_text("utf-8")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_in_python_import_what_is_there(page: Path) -> None:
    for block in PYTHON.findall(page.read_text("utf-8")):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in OURS:
                module = import_module(node.module or "")
                assert [name.name for name in node.names if not hasattr(module, name.name)] == []


BLOCK = re.compile(r"^```(?:sh|bash|console)?$(.*?)^```$", re.S | re.M)
COMMAND = re.compile(r"mae-bench ([^#`\n]+)")


def commands(page: Path) -> list[list[str]]:
    """Arguments of the command lines on a page, in blocks and in the text; not of those with gaps (``…``, ``[--json]``)."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    found = [*map(str.strip, BLOCK.findall(text)), *re.findall(r"`(mae-bench [^`\n]+)`", text)]
    lines = [line for block in found for line in COMMAND.findall(block) if not re.search(r"…|\[-|&&|\|", line)]
    return [words for line in lines if not (words := shlex.split(line))[0].startswith("--")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_have_the_verbs_flags_and_suites_that_the_page_gives_them(page: Path) -> None:
    for words in commands(page):
        command: Any = typer.main.get_command(app)
        context, rest = typer.Context(command, info_name="mae-bench"), words
        while hasattr(command, "resolve_command"):
            name, command, rest = command.resolve_command(context, rest)
            context = typer.Context(command, info_name=name, parent=context)
        try:
            command.parse_args(context, list(rest))
        except Exception as e:  # by name: typer brings a click of its own
            if type(e).__name__ not in ("MissingParameter", "BadOptionUsage"):  # a text may name a verb by itself
                raise
        if "--suite" in rest and not (suite := rest[rest.index("--suite") + 1]).endswith(".yaml"):
            assert suite in suite_names()


def test_modules_that_docstrings_and_comments_name_are_there() -> None:
    missing = {}
    for package in ("mae_bench", "tasks", "backbones"):
        for file in sorted((ROOT / package).rglob("*.py")):
            names = MODULE.findall(file.read_text("utf-8"))
            if gone := [name for name in names if not module_exists(name)]:
                missing[str(file.relative_to(ROOT))] = gone
    assert missing == {}
