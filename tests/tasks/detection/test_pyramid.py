"""The detector of the MAE paper's Table 4 (Li et al. 2021): four stages, FPN, BatchNorm, position biases that are shared."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.layers.batch_norm import NaiveSyncBatchNorm
from torch import nn

from backbones.errors import UserError
from backbones.vit.dense import DenseEncoder
from backbones.vit.encoder import create_encoder
from backbones.vit.patch_size import set_patch_size
from mae_bench.recipes.load import load_recipe
from tasks.detection.config import DetectionConfig
from tasks.detection.model import FPN_ENCODER_PREFIX, Detector, build_detector
from tests.encoders import scratch

from .conftest import small_config
from .test_model import CLASSES, sample


def detector(arch: str = "vit_micro_patch8", **changes: Any) -> Detector:
    torch.manual_seed(0)
    return build_detector(scratch(arch, img_size=48), small_config(pyramid="fpn", **changes), CLASSES)


@pytest.mark.parametrize(("patch", "levels"), [(16, "p2 p3 p4 p5 p6"), (8, "p1 p2 p3 p4 p5")])
def test_levels_follow_the_patch_size(patch: int, levels: str) -> None:
    model = detector(f"vit_micro_patch{patch}")
    shapes = model.backbone.output_shape()
    assert list(shapes) == levels.split()
    assert [shape.stride for shape in shapes.values()] == [patch // 4, patch // 2, patch, 2 * patch, 4 * patch]
    features = model.backbone(torch.zeros(1, 3, 64, 64))
    for name, shape in shapes.items():
        side = -(-64 // shape.stride)
        assert features[name].shape == (1, 16, side, side)


def test_stages_are_the_maps_after_every_quarter_of_the_blocks() -> None:
    """Only the third stage passes on what the encoder gives."""
    backbone = detector().backbone.bottom_up.eval()
    assert backbone.dense.out_blocks == [0, 1, 2, 3]
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps, stages = backbone.dense(images), backbone(images)
    assert torch.equal(stages["stage3"], maps[2])
    assert torch.equal(stages["stage4"], torch.nn.functional.max_pool2d(maps[3], 2))
    assert stages["stage1"].shape == (1, 128, 32, 32)
    assert stages["stage2"].shape == (1, 128, 16, 16)


def test_vit_base_is_split_after_blocks_3_6_9_12_with_global_attention_there() -> None:
    with torch.device("meta"):
        recipe: Any = load_recipe("detection_fpn/vit_base_patch16_coco")
        model = build_detector(scratch("vit_base_patch16"), recipe.detection, 80)
    dense = model.backbone.bottom_up.dense
    assert dense.out_blocks == [2, 5, 8, 11]
    assert dense.windows == [14, 14, 0] * 4
    assert dense.bias_tables["window"].shape == (12, 27, 27)
    assert dense.bias_tables["global"].shape == (12, 127, 127)


def test_norms_of_pyramid_and_heads_are_batch_norm_over_processes_but_the_proposals_have_none() -> None:
    model = detector()
    normed = {name for name, m in model.named_modules() if isinstance(m, NaiveSyncBatchNorm)}
    assert {name.split(".")[0] for name in normed} == {"backbone", "roi_heads"}
    assert {f"roi_heads.box_head.conv{i}.norm" for i in (1, 4)} < normed
    assert "roi_heads.mask_head.mask_fcn4.norm" in normed
    assert {"backbone.fpn_lateral1.norm", "backbone.fpn_output4.norm"} < normed
    others = [m for n, m in model.named_modules() if isinstance(m, (nn.GroupNorm, nn.LayerNorm)) and "encoder" not in n]
    assert len(others) == 1  # GroupNorm between the two transposed convolutions of the finest stage


def test_parameters_are_as_many_as_in_the_public_reproduction() -> None:
    """hustvl/MIMDet counts 118.67 M for its ViT-B; its windows are of 16 patches, and its positions lie on the 64 x 64 grid of
    the input, where ours are those of pre-training, resampled at every step as detectron2's ViT does.
    """
    with torch.device("meta"):
        model = build_detector(scratch("vit_base_patch16"), DetectionConfig(pyramid="fpn"), 80)
    positions, tables = (64 * 64 - 14 * 14) * 768, (31 * 31 - 27 * 27) * 12
    count = sum(p.numel() for p in model.parameters()) + positions + tables
    assert round(count / 1e6, 2) == 118.67


@pytest.mark.parametrize("objects", [(2, 1), (2, 0), (0, 0)])
def test_training_gives_finite_losses_and_a_gradient_to_every_parameter(objects: tuple[int, ...]) -> None:
    """Also when no head gets an object: BatchNorm neither fails nor spoils its statistics."""
    model = detector().train()
    losses = model([sample(n) for n in objects])
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(torch.isfinite(buffer).all() for buffer in model.buffers())


def test_window_blocks_share_a_table_and_so_do_global_blocks() -> None:
    """Zero tables change nothing; one that is set has the effect of the same table in each of its blocks."""
    images = torch.randn(1, 3, 64, 64)

    def dense(shared: bool) -> DenseEncoder:
        torch.manual_seed(0)
        encoder = create_encoder("vit_micro_patch8", img_size=48)
        return DenseEncoder(encoder, img_size=64, window_size=4, global_blocks=[1, 3], shared_bias=shared).eval()

    plain, shared = dense(False), dense(True)
    with torch.no_grad():
        before = plain(images)[-1]
        torch.testing.assert_close(shared(images)[-1], before, atol=1e-5, rtol=1e-5)
        for name, blocks in (("window", (0, 2)), ("global", (1, 3))):
            table = shared.bias_tables[name]
            table.normal_()
            for block in blocks:
                plain.encoder.blocks[block].attn.rel_bias = nn.Parameter(table.clone())
        after = shared(images)[-1]
        torch.testing.assert_close(after, plain(images)[-1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(after, before, atol=1e-2)


def test_without_relative_positions_there_are_no_tables() -> None:
    assert not [name for name, _ in detector(rel_pos=False).named_parameters() if "bias_tables" in name]


def test_the_encoder_is_found_under_its_prefix() -> None:
    names = [name for name, _ in detector().named_parameters()]
    assert f"{FPN_ENCODER_PREFIX}blocks.0.attn.qkv.weight" in names


def test_depths_that_four_does_not_divide_are_refused() -> None:
    with pytest.raises(UserError, match=r"detection\.pyramid=fpn needs a depth that 4 divides"):
        detector("vit_w128_d3_h4_patch8", global_blocks=[2])


def test_another_patch_size_keeps_the_tokens_of_an_enlarged_image() -> None:
    """Patches of 16 px on an image enlarged from 14 to 16 px a patch: what ViT-H/14 sees in detection."""
    torch.manual_seed(0)
    encoder = create_encoder("vit_w128_d3_h4_patch14", img_size=56)
    pixels = torch.nn.functional.interpolate(torch.rand(1, 3, 4, 4), 56, mode="bicubic")
    before = encoder.patch_embed.proj(pixels)
    set_patch_size(encoder, 16)
    larger = torch.nn.functional.interpolate(pixels, 64, mode="bicubic")
    after = encoder.patch_embed.proj(larger)
    assert encoder.patch_embed.patch_size == (16, 16)
    assert (after - before).abs().mean() < 0.05 * before.abs().mean()


def test_vit_huge_trains_with_patches_of_16_pixels() -> None:
    recipe: Any = load_recipe("detection/vit_huge_patch14_coco")
    with torch.device("meta"):
        model = build_detector(scratch("vit_huge_patch14"), recipe.detection, 80)
    assert [shape.stride for shape in model.backbone.output_shape().values()] == [4, 8, 16, 32, 64]
