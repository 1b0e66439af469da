"""A recipe for any encoder: the protocol's values, the nearest size class, and what the encoder's shape asks for."""

from __future__ import annotations

from typing import Any

import pytest

from backbones.errors import UserError
from mae_bench.recipes.any_encoder import EncoderFacts, facts_of, name_for
from mae_bench.recipes.load import find, load_recipe, recipe_for, recipe_hash
from mae_bench.recipes.protocol_files import data_sets, protocols

ROWS = [
    (f"{file.name}/{name}", file.name, row.values["data"], row.values["arch"])
    for file in protocols().values()
    for name, row in file.rows.items()
    if row.values.keys() <= {"arch", "data", "title", "published", "cost"} and not row.values["arch"].endswith("_448")
]


@pytest.mark.parametrize(("name", "protocol", "data", "arch"), ROWS)
def test_a_row_without_values_of_its_own_is_what_any_encoder_gets(
    name: str, protocol: str, data: str, arch: str
) -> None:
    assert recipe_hash(recipe_for(protocol, data, facts_of(arch))) == recipe_hash(load_recipe(name))


def made(protocol: str, data: str, encoder: str | EncoderFacts, *overrides: str) -> Any:
    return recipe_for(protocol, data, facts_of(encoder) if isinstance(encoder, str) else encoder, overrides)


ARCHES = ["vit_micro_patch4", "vit_tiny_patch16", "vit_small_patch14", "vit_base_patch32", "vit_w1408_d40_h16_patch14"]


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("protocol", sorted(protocols()))
def test_every_protocol_is_complete_for_every_encoder(protocol: str, arch: str) -> None:
    for data in protocols()[protocol].data:
        recipe = made(protocol, data, arch)
        assert recipe.protocol == protocol
        assert recipe.encoder.arch == arch
        assert recipe.encoder.img_size % facts_of(arch).patch == 0
        assert (recipe.optimizer.lr is None) != (recipe.optimizer.blr is None)
        assert (recipe.schedule.epochs is None) != (recipe.schedule.iterations is None)
        assert recipe.title
        assert (recipe.published, recipe.cost.gpu_hours) == ("", None)


@pytest.mark.parametrize(
    ("encoder", "like"),
    [
        ("vit_tiny_patch16", "vit_base_patch16"),
        ("vit_small_patch14", "vit_base_patch16"),
        ("vit_w1024_d20_h16_patch14", "vit_large_patch16"),
        ("vit_w1408_d40_h16_patch14", "vit_huge_patch14"),
        (EncoderFacts("convnext_large", 192, 36, 32, parameters=198_000_000, plain=False), "vit_large_patch16"),
    ],
)
def test_an_encoder_takes_the_values_of_the_nearest_size(encoder: str | EncoderFacts, like: str) -> None:
    recipe, row = made("finetune", "imagenet", encoder), load_recipe(f"finetune/{like}_imagenet")
    assert (recipe.optimizer, recipe.schedule) == (row.optimizer, row.schedule)
    assert recipe.encoder.drop_path == row.encoder.drop_path


@pytest.mark.parametrize(
    ("protocol", "data", "arch", "size"),
    [
        ("knn", "imagenet", "vit_small_patch14", 224),
        ("knn", "imagenet", "vit_base_patch32", 224),
        ("segmentation", "ade20k", "vit_small_patch14", 504),  # whole patches, no more than the images are
        ("finetune", "embedded", "vit_small_patch16", 96),  # 6 x 6 patches, as the micro ViT has
        ("finetune", "cifar10", "vit_small_patch16", 128),
        ("segmentation", "embedded", "vit_small_patch16", 64),  # a crop of the scene stays one
    ],
)
def test_images_are_whole_patches(protocol: str, data: str, arch: str, size: int) -> None:
    assert made(protocol, data, arch).encoder.img_size == size


def test_a_size_that_the_encoder_is_known_to_have_counts_on_small_photographs() -> None:
    encoder = EncoderFacts("vit_small_patch16", 384, 12, 16, img_size=224)
    assert made("linear", "cifar10", encoder).encoder.img_size == 224
    assert made("linear", "embedded", encoder).encoder.img_size == 96
    assert made("linear", "imagenet", encoder).encoder.img_size == 224


def test_numbers_of_blocks_follow_the_depth() -> None:
    assert made("segmentation", "ade20k", "vit_w1024_d24_h16_patch14").segmentation.out_blocks == [7, 11, 15, 23]
    assert made("segmentation", "embedded", "vit_small_patch16").segmentation.out_blocks == [2, 5, 8, 11]
    assert made("segmentation_frozen", "ade20k", "vit_w1024_d40_h16_patch14").segmentation.out_blocks == [39]
    assert made("probe", "imagenet", "vit_w1408_d40_h16_patch14").features.layers == [9, 19, 29, 39]
    assert made("knn", "imagenet", "vit_w1408_d40_h16_patch14").features.layers == [-1]


def test_detection_runs_at_the_patch_size_that_its_values_are_for() -> None:
    assert made("detection", "coco", "vit_small_patch14").detection.patch_size == 16
    assert made("detection", "coco", "vit_base_patch32").detection.patch_size == 16
    assert made("detection", "embedded", "vit_small_patch16").detection.patch_size == 8
    assert made("detection", "coco", "vit_small_patch16").detection.patch_size is None
    stages = EncoderFacts("swin_tiny", 96, 12, 32, plain=False)
    assert made("detection", "coco", stages).detection.patch_size is None


def test_a_set_of_the_users_own_takes_the_values_that_the_protocol_has_for_those() -> None:
    recipe = made("finetune", "birds", "vit_base_patch16")
    row = load_recipe("finetune/vit_base_patch16_imagenet")
    assert recipe.data.name == "birds"
    assert (recipe.optimizer, recipe.schedule, recipe.train) == (row.optimizer, row.schedule, row.train)
    assert made("detection", "birds", "vit_base_patch16").data.name == "birds"
    with pytest.raises(UserError, match='unknown data set "birds" in protocol robustness'):
        made("robustness", "birds", "vit_base_patch16")


def test_overrides_come_last_and_are_checked() -> None:
    assert made("finetune", "cifar10", "vit_small_patch16", "encoder.img_size=224").encoder.img_size == 224
    with pytest.raises(UserError, match=r'did you mean "encoder\.img_size"'):
        made("finetune", "cifar10", "vit_small_patch16", "encoder.imgsize=224")


def test_such_a_recipe_has_a_name_that_loads() -> None:
    name = name_for("finetune", "imagenet_1percent", "vit_small_patch14")
    assert name == "finetune/vit_small_patch14_imagenet_1percent"
    recipe = load_recipe(name)
    assert recipe == made("finetune", "imagenet_1percent", "vit_small_patch14")
    assert (recipe.data.name, recipe.data.label_share, recipe.schedule.epochs) == ("imagenet", 0.01, 200)
    assert find("recipe", name).name == "finetune.yaml"


@pytest.mark.parametrize(
    "name",
    [
        "finetune/vit_smal_patch14_imagenet",
        "finetune/vit_small_patch14_imagnet",
        "finetune/imagenet",
        "fine/x_imagenet",
    ],
)
def test_a_name_of_no_architecture_or_data_set_is_unknown(name: str) -> None:
    with pytest.raises(UserError, match=f'unknown recipe "{name}"'):
        load_recipe(name)


def test_data_sets_of_a_protocol_are_those_of_its_base_too() -> None:
    assert {"imagenet", "cifar10", "embedded"} <= set(data_sets("scratch"))
