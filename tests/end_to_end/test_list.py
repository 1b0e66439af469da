"""`mae-bench list recipes NAME`: every value of a recipe, and the place that it comes from."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mae_bench.recipes.load import recipe_names
from mae_bench.recipes.protocol_files import INCLUDE
from tests.conftest import REPO, Result

Cli = Callable[..., Result]
NAME = "finetune/vit_base_patch16_inat2018"
MINE = """
base: linear
defaults: {optimizer: {weight_decay: 0.1}}
rows: {tiny: {arch: vit_micro_patch8, data: embedded}}
"""


def test_a_recipe_is_printed_with_the_place_of_each_value(cli: Cli) -> None:
    rows = cli("list", "recipes", NAME, "--set", "train.batch_size=64").out.splitlines()
    found = {row.split()[0]: row for row in rows}
    assert rows[0].split() == ["key", "value", "where"]
    assert found["optimizer.layer_decay"].split(maxsplit=2)[1:] == [
        "0.65",
        "configs/finetune.yaml: arch.vit_base_patch16",
    ]
    assert found["train.batch_size"].split(maxsplit=2)[1:] == ["64", "--set train.batch_size=64"]
    assert "top-1 75.4 (Table 6)" in found["published"]
    items = json.loads(cli("list", "recipes", NAME, "--json").out)
    values = {item["key"]: (item["value"], item["where"]) for item in items}
    assert values["data.name"] == ("inat2018", "configs/finetune.yaml: data.inat2018")
    assert values["train.ema"] == (None, "default of the task")


def test_patterns_and_encoders_without_a_row_are_listed(cli: Cli) -> None:
    names = [row["name"] for row in json.loads(cli("list", "recipes", "robustness/*_448", "--json").out)]
    assert len(names) == 6
    assert all(name.startswith("robustness/vit_huge_") for name in names)
    assert "fitted to vit_small_patch14" in cli("list", "recipes", "knn/vit_small_patch14_imagenet").out


def test_a_folder_of_ones_own_is_listed(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INCLUDE, "")
    (tmp_path / "mine.yaml").write_text(MINE)
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "nightly.yaml").write_text("title: by night\njobs: [{recipe: mine/*, init: [scratch]}]\n")
    assert "mine/tiny" in cli("list", "recipes", "--include", tmp_path).out
    assert "by night" in cli("list", "suites", "--include", tmp_path).out
    shown = cli("list", "recipes", "mine/tiny", "--include", tmp_path).out
    assert f"{tmp_path}/mine.yaml: defaults" in shown
    plan = cli("run", "--suite", "nightly", "--include", tmp_path, "--out", tmp_path / "o", "--dry-run", "--json")
    assert "mine/tiny-scratch-s0" in plan.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tasks", NAME], "list tasks takes no name"),
        (["recipes", "finetune/vit_bas_patch16_inat2018"], f'did you mean "{NAME}"'),
        (["recipes", "--set", "seed=1"], "list recipes NAME --set"),
        (["recipes", NAME, "--set", "sede=1"], 'did you mean "seed"'),
        (["recipes", "--include", "/nowhere"], "no such folder"),
    ],
)
def test_a_mistake_is_one_line(cli: Cli, arguments: list[str], said: str) -> None:
    result = cli("list", *arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert result.err.count("\n") == 1


def test_listing_recipes_imports_neither_torch_nor_omegaconf() -> None:
    code = (
        "import sys; from mae_bench.cli import main; sys.argv = ['mae-bench', 'list', 'recipes']\n"
        "try: main.main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'timm', 'omegaconf', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    *rows, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    assert {row.split()[0] for row in rows[1:]} == set(recipe_names())
