"""Rows of the ablations as recipes: one thing changed, the one that the name says, over the paper's default or another base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mae_bench.recipes.load import as_dict, load_recipe
from mae_bench.recipes.protocol_files import find_row, matching
from tasks.pretraining.config import PretrainingRecipe
from tasks.pretraining.task import PretrainingTask
from tests.tasks.pictures import make_folders

# What each row says, over `base: ablations/default`.
ROWS: dict[str, dict[str, Any]] = {
    **{f"decoder_depth_{n}": {"mae.decoder_depth": n} for n in (1, 2, 4, 8, 12)},
    **{f"decoder_width_{n}": {"mae.decoder_embed_dim": n} for n in (128, 256, 512, 768, 1024)},
    "mask_tokens_in_encoder": {"mae.encoder_mask_tokens": True},
    "mask_tokens_in_decoder": {"mae.encoder_mask_tokens": False},
    "target_pixels": {"mae.target": "pixels"},
    "target_pixels_norm": {"mae.target": "pixels_norm"},
    "target_pca": {"mae.target": "pca", "mae.pca_components": 96},
    "target_tokens": {"mae.target": "tokens"},
    "augmentation_none": {"augmentation.crop": "none", "augmentation.color_jitter": 0.0},
    "augmentation_fixed": {"augmentation.crop": "fixed", "augmentation.color_jitter": 0.0},
    "augmentation_random": {"augmentation.crop": "random", "augmentation.color_jitter": 0.0},
    "augmentation_color_jitter": {"augmentation.crop": "random", "augmentation.color_jitter": 0.4},
    "sampling_random_75": {"mae.mask_sampling": "random", "mae.mask_ratio": 0.75},
    "sampling_block_50": {"mae.mask_sampling": "block", "mae.mask_ratio": 0.5},
    "sampling_block_75": {"mae.mask_sampling": "block", "mae.mask_ratio": 0.75},
    "sampling_grid_75": {"mae.mask_sampling": "grid", "mae.mask_ratio": 0.75},
    **{f"mask_ratio_{n}": {"mae.mask_ratio": n / 100} for n in (10, 20, 30, 40, 50, 60, 70, 75, 80, 90)},
    **{f"epochs_{n}": {"schedule.epochs": n} for n in (100, 200, 400, 800, 1600)},
}
# Rows whose value is the paper's own.
SAME = {
    *("decoder_depth_8", "decoder_width_512", "mask_tokens_in_decoder", "target_pixels", "augmentation_random"),
    *("sampling_random_75", "mask_ratio_75", "epochs_800"),
}


def flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for key, value in content.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def learnt(recipe: Any) -> dict[str, Any]:
    return {
        k: v for k, v in flat(as_dict(recipe)).items() if k not in ("title", "published") and not k.startswith("cost.")
    }


def test_there_is_a_recipe_for_every_row_and_no_other() -> None:
    assert {name.rpartition("/")[2] for name in matching("pretrain/ablations/*")} == {*ROWS, "default"}


def test_default_is_the_papers() -> None:
    recipe = load_recipe("pretrain/ablations/default")
    assert isinstance(recipe, PretrainingRecipe)
    assert (recipe.encoder.arch, recipe.schedule.epochs, recipe.schedule.warmup_epochs) == (
        "vit_large_patch16",
        800,
        40,
    )
    mae = recipe.mae
    assert (mae.decoder_depth, mae.decoder_embed_dim, mae.encoder_mask_tokens) == (8, 512, False)
    assert (mae.target, mae.mask_sampling, mae.mask_ratio) == ("pixels", "random", 0.75)
    assert (recipe.augmentation.crop, recipe.augmentation.color_jitter) == ("random", 0.0)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_changes_what_its_name_says_and_nothing_else(name: str) -> None:
    row = find_row(f"pretrain/ablations/{name}")
    assert row is not None
    assert row.values["base"] == "ablations/default"
    assert row.values["title"]
    assert row.values["published"]
    own = {k: v for k, v in row.values.items() if k not in ("base", "title", "published", "cost")}
    assert flat(own) == ROWS[name]


@pytest.fixture(scope="module")
def default() -> dict[str, Any]:
    return learnt(load_recipe("pretrain/ablations/default"))


@pytest.mark.parametrize("name", ROWS)
def test_over_the_papers_default_a_row_is_that_default_with_its_values(name: str, default: dict[str, Any]) -> None:
    row = learnt(load_recipe(f"pretrain/ablations/{name}"))
    assert row == default | ROWS[name]
    assert (row == default) == (name in SAME)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folders(tmp_path_factory.mktemp("rows") / "data")


@pytest.mark.parametrize("name", [n for n in ROWS if not n.startswith("epochs_")])
def test_every_row_trains_a_step_over_a_micro_model(name: str, root: Path) -> None:
    small = ["data.name=mine", f"data.root={root}", "train.cache_images=false", "mae.vocabulary=32"]
    recipe = load_recipe(f"pretrain/ablations/{name}", small, base="pretrain/vit_micro_patch8_embedded")
    task = PretrainingTask(recipe)  # type: ignore[arg-type]
    dataset = task.train_dataset()
    images = torch.stack([dataset[i][0] for i in (0, 5)])
    loss = task.model.train()(task.prepare_batch([images]))
    loss.backward()
    assert torch.isfinite(loss)
    for parameter, gradient in ((n, p.grad) for n, p in task.model.named_parameters() if p.requires_grad):
        assert gradient is not None, parameter
        assert torch.isfinite(gradient).all(), parameter
