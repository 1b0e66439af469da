"""Figures that recipes cite by key stand in published.yaml alone."""

from __future__ import annotations

import pytest

from backbones.errors import UserError
from mae_bench.recipes.load import describe, recipe_names
from mae_bench.recipes.protocol_files import protocols
from mae_bench.recipes.published import cite


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mae_t6/iNat 2018/ViT-B", "top-1 75.4 (Table 6)"),
        ("mae_t13/IN-Corruption mCE (lower better)/ViT-L", "mCE 41.8 (Table 13)"),
        ("mae_t1c/encoder w/ [M]", "84.2 fine-tuned top-1, 59.6 linear probe (Table 1c)"),  # a name with a slash
        ("mae_t1f/block/50", "83.9 fine-tuned top-1, 72.3 linear probe (Table 1f)"),  # one of two rows of that name
        ("acc {mae_t12/MAE/ViT-L/acc}, B {mae_t12/MAE/ViT-B/acc}", "acc 75.8, B 68.0"),
        ("12.3 (my own)", "12.3 (my own)"),
        ("a {b} c/d", "a {b} c/d"),
        ("", ""),
    ],
)
def test_keys_become_figures_and_other_text_stays(text: str, said: str) -> None:
    assert cite(text) == said


@pytest.mark.parametrize(
    "text",
    ["mae_t6/iNat 2020/ViT-B", "x {mae_t3/MAE}", "x {mae_t3/DINO/ViT-L}", "mae_t1f/block", "mae_t5/MAE (IN1K)/ViT-B"],
)
def test_a_key_that_names_no_figure_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"published\.yaml"):
        cite(text)


def test_no_recipe_writes_a_figure_itself() -> None:
    for file in protocols().values():
        for row in file.rows.values():
            text = row.values.get("published", "")
            assert cite(text) != text or not text, row.where
    assert sum(bool(describe(name)["published"]) for name in recipe_names()) == 121
