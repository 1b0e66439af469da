"""Layer-wise learning-rate decay and weight decay are the official rules, and timm's on the same model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from backbones.errors import UserError
from backbones.mae.model import MaskedAutoencoder
from backbones.vit.encoder import create_encoder
from backbones.vit.param_groups import freeze_below, layer_id, no_decay_pretraining, param_groups
from tests.golden.figures import figures


def by_name(model: nn.Module, groups: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    names = {id(p): n for n, p in model.named_parameters()}
    return {names[id(p)]: (g.get("lr_scale", 1.0), g["weight_decay"]) for g in groups for p in g["params"]}


def test_layer_decay_of_vit_base_equals_official() -> None:
    with torch.device("meta"):
        model = create_encoder("vit_base_patch16")
        model.norm, model.fc_norm, model.head = nn.Identity(), nn.LayerNorm(768), nn.Linear(768, 1000)
    ours = by_name(model, param_groups(model, weight_decay=0.05, depth=12, layer_decay=0.65))
    official = {name: tuple(values) for name, values in figures("layer_decay_vit_base").items()}
    assert ours.keys() == official.keys()
    for name, values in official.items():
        assert ours[name] == pytest.approx(values, rel=1e-12), name


@pytest.mark.parametrize("layer_decay", [0.65, 0.75, 1.0])
def test_layer_decay_equals_timm(layer_decay: float) -> None:
    model = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=64, depth=5, num_heads=2, num_classes=7, global_pool="avg"
    )
    ours = param_groups(model, weight_decay=0.05, depth=5, layer_decay=layer_decay)
    theirs = param_groups_layer_decay(
        model, weight_decay=0.05, layer_decay=layer_decay, no_weight_decay_list=model.no_weight_decay()
    )
    left, right = by_name(model, ours), by_name(model, theirs)
    assert left.keys() == right.keys()
    for name, values in right.items():
        assert left[name] == pytest.approx(values, rel=1e-12), name


def test_last_norm_learns_at_the_full_rate_as_in_the_official_code() -> None:
    # timm puts it with the last block; util/lr_decay.py with the head. It matters with class-token pooling only.
    model = create_encoder("vit_micro_patch8", img_size=32)
    groups = param_groups(model, weight_decay=0.05, depth=4, layer_decay=0.5)
    assert by_name(model, groups)["norm.weight"] == (1.0, 0.0)


def test_pretraining_decays_what_the_official_script_decays() -> None:
    mae = MaskedAutoencoder(
        create_encoder("vit_micro_patch8", img_size=32), decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=2
    )
    ours = by_name(mae, param_groups(mae, weight_decay=0.05, depth=4, no_decay=no_decay_pretraining))
    # main_pretrain.py calls timm's function (then named add_weight_decay) on the model.
    assert ours == by_name(mae, param_groups_weight_decay(mae, 0.05))
    assert ours["mask_token"] == ours["encoder.cls_token"] == (1.0, 0.05)
    assert "decoder_pos_embed" not in ours
    assert "encoder.pos_embed" not in ours


def test_pretraining_weight_decay_equals_official() -> None:
    official = figures("pretraining_weight_decay")
    depth = {
        key: len({n.split(".")[1] for n in official if n.startswith(f"{key}.")}) for key in ("blocks", "decoder_blocks")
    }
    encoder = VisionTransformer(patch_size=16, embed_dim=768, depth=depth["blocks"], num_heads=12, num_classes=0)
    mae = MaskedAutoencoder(encoder, decoder_depth=depth["decoder_blocks"])
    groups = by_name(mae, param_groups(mae, weight_decay=0.05, depth=depth["blocks"], no_decay=no_decay_pretraining))
    assert {name.removeprefix("encoder."): decay for name, (_, decay) in groups.items()} == official


def test_what_lies_outside_the_encoder_learns_at_the_full_rate() -> None:
    model = nn.ModuleDict({"net": create_encoder("vit_micro_patch8", img_size=32), "blocks": nn.Linear(2, 2)})
    scales = by_name(model, param_groups(model, weight_decay=0.1, depth=4, layer_decay=0.5, encoder_prefix="net."))
    assert scales["blocks.weight"] == (1.0, 0.1)
    assert scales["blocks.bias"] == (1.0, 0.0)
    assert scales["net.norm.weight"] == (1.0, 0.0)
    assert scales["net.blocks.3.mlp.fc1.weight"] == (0.5, 0.1)
    assert scales["net.patch_embed.proj.weight"] == (0.5**5, 0.1)
    assert scales["net.pos_embed"] == (0.5**5, 0.0)


def test_every_trainable_parameter_is_in_one_group_and_frozen_ones_in_none() -> None:
    model = create_encoder("vit_micro_patch8", img_size=32)
    model.patch_embed.requires_grad_(False)
    groups = param_groups(model, weight_decay=0.05, depth=4, layer_decay=0.75)
    listed = [id(p) for g in groups for p in g["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_without_layer_decay_there_are_two_groups() -> None:
    model = create_encoder("vit_micro_patch8", img_size=32)
    groups = param_groups(model, weight_decay=0.05, depth=4)
    assert [(g["lr_scale"], g["weight_decay"]) for g in groups] == [(1.0, 0.0), (1.0, 0.05)]


def test_layers_are_counted_from_the_embeddings_to_the_head() -> None:
    names = ["cls_token", "pos_embed", "patch_embed.proj.bias", "blocks.0.norm1.weight", "blocks.11.attn.qkv.weight"]
    assert [layer_id(n, 12) for n in [*names, "norm.weight", "fc_norm.bias", "head.weight"]] == [
        0,
        0,
        0,
        1,
        12,
        13,
        13,
        13,
    ]


DEPTH = 4


def trainable(tune_blocks: float) -> set[str]:
    encoder = create_encoder("vit_micro_patch8", img_size=16)
    freeze_below(encoder, tune_blocks)
    return {name for name, p in encoder.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("blocks", range(DEPTH))
def test_last_blocks_and_the_last_norm_train_and_nothing_below(blocks: int) -> None:
    names = trainable(blocks)
    assert {n.split(".")[1] for n in names if n.startswith("blocks.")} == {str(b) for b in range(DEPTH - blocks, DEPTH)}
    assert {n for n in names if not n.startswith("blocks.")} == {"norm.weight", "norm.bias"}


def test_half_a_block_is_its_mlp_with_the_norm_before_it() -> None:
    in_block = {n.removeprefix("blocks.3.") for n in trainable(0.5) if n.startswith("blocks.")}
    assert in_block == {f"{m}.{k}" for m in ("norm2", "mlp.fc1", "mlp.fc2") for k in ("weight", "bias")}


def test_all_blocks_is_full_fine_tuning() -> None:
    assert trainable(DEPTH) == {n for n, _ in create_encoder("vit_micro_patch8", img_size=16).named_parameters()}


@pytest.mark.parametrize("blocks", [5, -1, 1.5, 0.25])
def test_blocks_that_are_not_there_are_named(blocks: float) -> None:
    with pytest.raises(UserError, match=rf"tune_blocks={blocks:g}: the encoder has 4 blocks: give 0, 0\.5 or 1 to 4"):
        trainable(blocks)


def test_a_frozen_part_keeps_its_layer_numbers() -> None:
    """The last block learns at the same share of the rate whether or not the others train."""
    encoder = create_encoder("vit_micro_patch8", img_size=16)
    freeze_below(encoder, 2)
    groups = param_groups(encoder, weight_decay=0.05, depth=DEPTH, layer_decay=0.5)
    assert {g["lr_scale"] for g in groups} == {1.0, 0.5, 0.25}
