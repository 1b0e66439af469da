"""The detector is ViTDet's: its encoder computes what detectron2's own ViT computes, and every size follows the patch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.layers import ShapeSpec
from detectron2.modeling import ViT
from detectron2.structures import BitMasks, Boxes, Instances
from torch import nn

from backbones.errors import UserError
from backbones.vit.dense import DenseEncoder
from backbones.vit.encoder import create_encoder
from tasks.detection.config import DetectionConfig
from tasks.detection.model import ENCODER_PREFIX, Detector, build_detector
from tests.encoders import of_vit, scratch

from .conftest import small_config

CLASSES = 3


def detector(arch: str = "vit_micro_patch8", **changes: Any) -> Detector:
    torch.manual_seed(0)
    return build_detector(scratch(arch, img_size=48), small_config(**changes), CLASSES)


def sample(objects: int, *, masks: bool = True) -> dict[str, Any]:
    """An image of 64 x 56 pixels with `objects` squares of 20 pixels."""
    height, width = 64, 56
    target = Instances((height, width))
    corners = torch.tensor([[5.0 + 9 * i, 7.0 + 8 * i] for i in range(objects)]).reshape(-1, 2)
    target.gt_boxes = Boxes(torch.cat([corners, corners + 20], dim=1))
    target.gt_classes = torch.arange(objects) % CLASSES
    if masks:
        bitmaps = torch.zeros(objects, height, width, dtype=torch.bool)
        for bitmap, (x, y) in zip(bitmaps, corners.int().tolist(), strict=True):
            bitmap[y : y + 20, x : x + 20] = True
        target.gt_masks = BitMasks(bitmaps)
    image = torch.randint(0, 255, (3, height, width), dtype=torch.uint8)
    return {"image": image, "instances": target, "image_id": 1, "height": 2 * height, "width": 2 * width}


@pytest.mark.parametrize(
    ("window", "size"), [(5, (96, 96)), (5, (64, 96)), (5, (72, 40)), (14, (232, 232)), (14, (112, 176))]
)
def test_the_dense_encoder_computes_what_detectron2s_vit_computes(window: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    theirs = ViT(
        img_size=96,
        patch_size=8,
        embed_dim=128,
        depth=4,
        num_heads=4,
        norm_layer=lambda width: nn.LayerNorm(width, eps=1e-6),
        use_rel_pos=True,
        rel_pos_zero_init=False,
        window_size=window,
        window_block_indexes=(0, 1, 2),
        pretrain_img_size=48,
    ).eval()
    state = theirs.state_dict()
    assert all(state[f"blocks.{i}.attn.rel_pos_h"].abs().max() > 0 for i in range(4))
    state["pos_embed"] = state["pos_embed"][:, 1:]  # ours drops the unused class token
    encoder = create_encoder("vit_micro_patch8", img_size=48)
    ours = DenseEncoder(encoder, img_size=96, window_size=window, global_blocks=[3], rel_pos=True).eval()
    ours.encoder.load_state_dict(state)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(ours(images)[-1], theirs(images)["last_feat"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("patch", "levels"), [(16, "p2 p3 p4 p5 p6"), (8, "p1 p2 p3 p4 p5"), (4, "p0 p1 p2 p3 p4")])
def test_the_pyramid_follows_the_patch_size(patch: int, levels: str) -> None:
    encoder = create_encoder(f"vit_micro_patch{patch}", img_size=48)
    model = build_detector(of_vit(encoder), small_config(img_size=64), CLASSES)
    shapes = model.backbone.output_shape()
    assert list(shapes) == levels.split()
    assert [shape.stride for shape in shapes.values()] == [patch // 4, patch // 2, patch, 2 * patch, 4 * patch]
    features = model.backbone(torch.zeros(1, 3, 64, 64))
    for name, shape in shapes.items():
        side = -(-64 // shape.stride)
        assert features[name].shape == (1, 16, side, side)


def test_the_defaults_are_vitdets_mask_rcnn() -> None:
    """Against the values in detectron2's configs/common/models/mask_rcnn_{fpn,vitdet}.py."""
    with torch.device("meta"):
        model = build_detector(scratch("vit_base_patch16"), DetectionConfig(), 80)
    dense = model.backbone.net.dense
    assert dense.windows == [14, 14, 0] * 4
    assert dense.encoder.blocks[0].attn.rel_pos_h.shape == (27, 64)
    assert dense.encoder.blocks[2].attn.rel_pos_h.shape == (127, 64)
    assert model.backbone.padding_constraints == {"size_divisiblity": 32, "square_size": 1024}
    assert model.backbone.output_shape()["p2"] == ShapeSpec(channels=256, stride=4)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == 111  # ViTDet paper (2203.16527), parameters
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes["proposal_generator.rpn_head.conv.conv1.weight"] == (256, 256, 3, 3)
    assert shapes["proposal_generator.rpn_head.objectness_logits.weight"] == (3, 256, 1, 1)
    assert shapes["roi_heads.box_head.conv4.norm.weight"] == (256,)
    assert shapes["roi_heads.box_head.fc1.weight"] == (1024, 256 * 7 * 7)
    assert shapes["roi_heads.box_predictor.cls_score.weight"] == (81, 1024)
    assert shapes["roi_heads.mask_head.mask_fcn4.norm.weight"] == (256,)
    assert shapes["roi_heads.mask_head.deconv.weight"] == (256, 256, 2, 2)
    assert shapes["roi_heads.mask_head.predictor.weight"] == (80, 256, 1, 1)
    assert "roi_heads.box_head.conv5.weight" not in shapes
    assert "roi_heads.box_head.fc2.weight" not in shapes
    assert "roi_heads.mask_head.mask_fcn5.weight" not in shapes


def test_pixels_are_normalised_inside_by_imagenets_statistics() -> None:
    model = detector()
    torch.testing.assert_close(model.pixel_mean.flatten(), torch.tensor([123.675, 116.28, 103.53]))
    torch.testing.assert_close(model.pixel_std.flatten(), torch.tensor([58.395, 57.12, 57.375]))


@pytest.mark.parametrize("objects", [(2, 1), (2, 0), (0, 0)])
def test_training_gives_finite_losses_and_a_gradient_to_every_parameter(objects: tuple[int, ...]) -> None:
    """Also for images without objects: a parameter without a gradient would stall DDP."""
    model = detector().train()
    losses = model([sample(n) for n in objects])
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"}
    assert all(torch.isfinite(loss) and loss.ndim == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_without_masks_there_is_no_mask_head() -> None:
    model = detector(with_masks=False).train()
    assert "loss_mask" not in model([sample(2, masks=False)])
    with torch.no_grad():
        assert not model.eval()([sample(2)])[0]["instances"].has("pred_masks")


def test_predictions_are_in_pixels_of_the_original_image() -> None:
    model = detector(test_score_thresh=0.0).eval()
    with torch.no_grad():
        instances = model([sample(2)])[0]["instances"]
    assert len(instances) > 0
    assert instances.image_size == (128, 112)
    assert instances.pred_masks.shape[1:] == (128, 112)


def test_it_trains_and_predicts_under_bf16() -> None:
    model = detector(test_score_thresh=0.0).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model([sample(2), sample(1)])
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert len(model([sample(2)])[0]["instances"]) > 0


def test_recomputing_blocks_changes_no_gradient() -> None:
    gradients = []
    for recompute in (False, True):
        model = detector(grad_checkpointing=recompute).train()
        torch.manual_seed(1)
        sum(model([sample(2)]).values()).backward()
        gradients.append(dict(model.named_parameters())[f"{ENCODER_PREFIX}blocks.0.attn.qkv.weight"].grad)
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize(
    ("arch", "changes", "message"),
    [
        ("vit_micro_patch12", {"img_size": 48}, "patch size that is a power of 2"),
        ("vit_micro_patch8", {"img_size": 72}, "detection.img_size=72 is not a multiple of 16.*try 64"),
        ("vit_micro_patch8", {"anchor_sizes": [8, 16]}, "detection.anchor_sizes needs 5"),
        ("vit_micro_patch8", {"scale_range": [2.0, 0.1]}, "detection.scale_range"),
        ("vit_micro_patch8", {"rpn_pre_nms_topk": [5]}, "detection.rpn_pre_nms_topk needs two"),
        ("vit_micro_patch8", {"global_blocks": [4]}, "detection.global_blocks: there is no block 4"),
    ],
)
def test_sizes_that_do_not_fit_are_named(arch: str, changes: dict[str, Any], message: str) -> None:
    config = replace(small_config(), **changes)
    with pytest.raises(UserError, match=message):
        build_detector(scratch(arch, img_size=48), config, CLASSES)
