"""What `docs/data.md` shows of accounts is what `mae-bench data verify` prints."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.datasets.account import REASONS
from tests.conftest import REPO
from tests.tasks.datasets import everything

DOCS = (REPO / "docs/data.md").read_text("utf-8")
SHARED = REPO.parent / "shared/data"
Cli = Callable[..., Any]


def shown(command: str) -> list[str]:
    """The lines below a command in the docs' code blocks."""
    block = next(block for block in re.findall(r"```\n(.*?)```", DOCS, re.DOTALL) if f"$ {command}\n" in block)
    lines = block.split(f"$ {command}\n")[1].split("\n$ ")[0]
    return lines.rstrip("\n").split("\n")


def test_the_account_of_a_folder_with_one_of_everything(tmp_path: Path, cli: Cli) -> None:
    root = everything.make(tmp_path / "all")
    printed = cli("data", "verify", "mine", root).out.replace(str(tmp_path), "DIR")
    assert printed.splitlines() == shown("mae-bench data verify mine DIR/all")


def test_the_account_of_a_broken_tar(tmp_path: Path, cli: Cli) -> None:
    root = everything.make_broken_tar(tmp_path / "broken")
    printed = cli("data", "verify", "mine", root, "--sample", 0).out.replace(str(tmp_path), "DIR")
    assert printed.splitlines() == shown("mae-bench data verify mine DIR/broken --sample 0")


REFERENCE = [
    "cifar10 ../shared/data/cifar10",
    "imagenet ../shared/data/imagenet-sample",
    "ade20k ../shared/data/ade20k-sample",
]


@pytest.mark.slow
@pytest.mark.parametrize("command", REFERENCE)
def test_the_accounts_of_the_reference_data(command: str, cli: Cli) -> None:
    name, folder = command.split()
    if not (REPO / folder).is_dir():
        pytest.skip("the reference data are not beside this checkout")
    there = (REPO / folder).resolve()
    printed = cli("data", "verify", name, there).out.replace(str(there), folder)
    assert printed.splitlines() == shown(f"mae-bench data verify {command}")


def test_every_reason_is_explained() -> None:
    assert [name for name in REASONS if f"`{name}`" not in DOCS] == []
