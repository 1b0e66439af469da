"""Our detectors are detectron2's own, built from its configurations: the same state, and the same losses from the same weights.

What detectron2's projects (projects/ViTDet/configs) change is repeated here on the configuration that its package holds.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

import detectron2
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNConvFCHead, FastRCNNOutputLayers
from detectron2.utils.events import EventStorage
from timm.layers.patch_embed import resample_patch_embed
from torch import Tensor, nn

from backbones.checkpoints.checkpoint import load_checkpoint, open_dense
from backbones.errors import UserError
from backbones.vit.encoder import create_encoder
from mae_bench.recipes.load import load_recipe
from tasks.detection.config import DetectionConfig
from tasks.detection.model import ENCODER_PREFIX, build_detector
from tests.encoders import scratch

from .conftest import small_config
from .test_model import sample

SIZES = {"vit_base_patch16": (768, 12, 12), "vit_large_patch16": (1024, 24, 16), "vit_huge_patch14": (1280, 32, 16)}
CLASSES = 7


def configuration(cascade: bool) -> Any:
    """configs/common/models/mask_rcnn_vitdet.py, and what projects/ViTDet's cascade files change in it."""
    path = Path(detectron2.__file__).parent / "model_zoo" / "configs" / "common" / "models" / "mask_rcnn_vitdet.py"
    model = LazyConfig.load(str(path)).model
    if not cascade:
        return model
    for key in ("box_head", "box_predictor", "proposal_matcher"):
        model.roi_heads.pop(key)
    model.roi_heads.update(
        _target_=CascadeROIHeads,
        box_heads=[
            L(FastRCNNConvFCHead)(
                input_shape=ShapeSpec(channels=256, height=7, width=7),
                conv_dims=[256, 256, 256, 256],
                fc_dims=[1024],
                conv_norm="LN",
            )
            for _ in range(3)
        ],
        box_predictors=[
            L(FastRCNNOutputLayers)(
                input_shape=ShapeSpec(channels=1024),
                test_score_thresh=0.05,
                box2box_transform=L(Box2BoxTransform)(weights=(w1, w1, w2, w2)),
                cls_agnostic_bbox_reg=True,
                num_classes="${...num_classes}",
            )
            for (w1, w2) in [(10, 5), (20, 10), (30, 15)]
        ],
        proposal_matchers=[
            L(Matcher)(thresholds=[th], labels=[0, 1], allow_low_quality_matches=False) for th in [0.5, 0.6, 0.7]
        ],
    )
    return model


def federated(model: Any, cascade: bool) -> Any:
    """What projects/ViTDet/configs/LVIS changes, on the counts 1, 4, 9, …"""
    counts = torch.tensor([float(i * i) for i in range(1, CLASSES + 1)])
    for predictor in model.roi_heads.box_predictors if cascade else [model.roi_heads.box_predictor]:
        predictor.use_sigmoid_ce = True
        predictor.use_fed_loss = True
        predictor.fed_loss_num_classes = 4  # 50 in LVIS, which has 1,203
        predictor.get_fed_loss_cls_weights = lambda: counts**0.5
    return model


def of_ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """detectron2's state under our names: the encoder is another module, and without the class token that it never uses."""
    named = {}
    for name, value in state.items():
        name = name.replace("backbone.net.", ENCODER_PREFIX, 1) if name.startswith("backbone.net.") else name
        named[name] = value[:, 1:] if name.endswith(".pos_embed") else value
    return named


@pytest.mark.parametrize("suffix", ["", "_cascade"])
@pytest.mark.parametrize("arch", SIZES)
@pytest.mark.parametrize("data", ["detection:coco", "lvis:lvis"])
def test_published_recipes_have_the_state_of_detectron2s_model(
    arch: str, suffix: str, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names and shapes of every tensor: what is released for ViTDet loads, and the count of parameters is the same."""
    folder, name = data.split(":")
    recipe: Any = load_recipe(f"{folder}/{arch}_{name}{suffix}")
    model = configuration(bool(suffix))
    width, depth, heads = SIZES[arch]
    model.backbone.net.update(embed_dim=width, depth=depth, num_heads=heads)
    quarter = depth // 4
    model.backbone.net.window_block_indexes = [i for i in range(depth) if (i + 1) % quarter]
    model.roi_heads.num_classes = CLASSES
    if folder == "lvis":
        model = federated(model, bool(suffix))
    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))  # whose items detectron2 reads
    with torch.device("meta"):
        theirs = instantiate(model)
        ours = build_detector(
            scratch(arch, img_size=224), recipe.detection, CLASSES, image_counts=range(1, CLASSES + 1)
        )
    shapes = {key: tuple(value.shape) for key, value in of_ours(theirs.state_dict()).items()}
    if arch == "vit_huge_patch14":  # positions keep the grid of pre-training, 16 x 16; theirs were resampled to 14 x 14
        shapes[f"{ENCODER_PREFIX}pos_embed"] = (1, 256, width)
    assert {key: tuple(value.shape) for key, value in ours.state_dict().items()} == shapes
    windows = [block.window_size for block in theirs.backbone.net.blocks]
    assert ours.backbone.net.dense.windows == windows
    box = recipe.detection
    assert (box.test_score_thresh, box.test_detections_per_image) == ((0.02, 300) if folder == "lvis" else (0.05, 100))


@pytest.mark.parametrize("suffix", ["", "_cascade"])
@pytest.mark.parametrize("data", ["detection:coco", "lvis:lvis"])
def test_a_file_with_patches_of_14_starts_as_detectron2s_model_with_16(data: str, suffix: str, tmp_path: Path) -> None:
    """The four recipes for ViT-H/14 at a small width: kernel resampled, positions interpolated, every level of the pyramid."""
    torch.manual_seed(0)
    arch = "vit_micro_patch14"
    vit = create_encoder(arch, img_size=224)
    nn.init.normal_(vit.pos_embed, std=0.5)  # type: ignore[arg-type]
    torch.save({"model": vit.state_dict()}, tmp_path / "mae.pth")
    folder, name = data.split(":")
    values = [
        f"encoder.arch={arch}",
        "detection.img_size=256",
        "detection.global_blocks=[1,3]",
        "encoder.drop_path=0.0",
    ]
    recipe: Any = load_recipe(f"{folder}/vit_huge_patch14_{name}{suffix}", values)
    encoder = open_dense(recipe.encoder, load_checkpoint(tmp_path / "mae.pth"), recipe.detection.img_size)
    ours = build_detector(encoder, recipe.detection, CLASSES, image_counts=range(1, CLASSES + 1))
    model = configuration(bool(suffix))
    model.roi_heads.num_classes = CLASSES
    size = {"img_size": 256, "embed_dim": 128, "depth": 4, "num_heads": 4, "drop_path_rate": 0.0}
    # The grid of pre-training, 16 x 16, is that of 256 px in patches of 16.
    model.backbone.net.update(size, patch_size=16, pretrain_img_size=256, window_block_indexes=[0, 2])
    model.backbone.square_pad = 256
    theirs = instantiate(federated(model, bool(suffix)) if folder == "lvis" else model)
    state = ours.state_dict()
    kernel = state[f"{ENCODER_PREFIX}patch_embed.proj.weight"]
    assert torch.equal(kernel, resample_patch_embed(vit.patch_embed.proj.weight.data, [16, 16], verbose=False))
    named = {key.replace(ENCODER_PREFIX, "backbone.net.", 1): value for key, value in state.items()}
    positions = named["backbone.net.pos_embed"]
    named["backbone.net.pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    theirs.load_state_dict(named)
    images = torch.randn(1, 3, 256, 192)  # padded by neither: positions of another grid
    with torch.no_grad():
        expected, found = theirs.eval().backbone(images), ours.eval().backbone(images)
    assert found.keys() == expected.keys()
    for level, value in expected.items():
        assert (found[level] - value).norm() < 1e-5 * value.norm(), level


def small(cascade: bool, fed: bool) -> tuple[nn.Module, DetectionConfig]:
    """detectron2's model at a width and input that run in a second, and our configuration of the same."""
    model = configuration(cascade)
    model.backbone.net.update(
        img_size=64, embed_dim=128, depth=4, num_heads=4, window_size=3, window_block_indexes=[0, 1, 2]
    )
    model.backbone.net.update(patch_size=8, drop_path_rate=0.0, pretrain_img_size=48, rel_pos_zero_init=False)
    model.backbone.square_pad = 64
    # patch 8 gives levels p1 to p5 (strides 2 to 32) where 16 gives p2 to p6
    levels, strides = ["p1", "p2", "p3", "p4", "p5"], [2, 4, 8, 16, 32]
    model.backbone.top_block.update(_target_=top_block)
    model.proposal_generator.in_features = levels
    model.proposal_generator.anchor_generator.update(sizes=[[4], [8], [16], [32], [64]], strides=strides)
    model.proposal_generator.update(batch_size_per_image=32, pre_nms_topk=(50, 50), post_nms_topk=(50, 20))
    model.roi_heads.update(box_in_features=levels[:4], mask_in_features=levels[:4], batch_size_per_image=16)
    model.roi_heads.num_classes = CLASSES
    for pooler in (model.roi_heads.box_pooler, model.roi_heads.mask_pooler):
        pooler.scales = tuple(1 / s for s in strides[:4])
    if fed:
        model = federated(model, cascade)
    config = DetectionConfig(
        img_size=64,
        window_size=3,
        global_blocks=[3],
        cascade=cascade,
        anchor_sizes=[4, 8, 16, 32, 64],
        rpn_batch_per_image=32,
        rpn_pre_nms_topk=[50, 50],
        rpn_post_nms_topk=[50, 20],
        roi_batch_per_image=16,
        federated_loss=fed,
        federated_classes=4,
    )
    torch.manual_seed(0)
    return instantiate(model), config


def top_block() -> nn.Module:
    from detectron2.modeling.backbone.fpn import LastLevelMaxPool

    top = LastLevelMaxPool()
    top.in_feature = "p4"
    return top


@pytest.mark.parametrize(("cascade", "fed"), [(False, False), (True, False), (True, True)])
def test_losses_of_a_step_are_detectron2s(cascade: bool, fed: bool) -> None:
    """The same weights, images and random numbers: every loss within 1e-4 of its size (attention is computed otherwise)."""
    theirs, config = small(cascade, fed)
    ours = build_detector(
        scratch("vit_micro_patch8", img_size=48),
        config,
        CLASSES,
        image_counts=[i * i for i in range(1, CLASSES + 1)],
    )
    ours.load_state_dict(of_ours(theirs.state_dict()))
    torch.manual_seed(1)
    batch = [sample(3), sample(2)]
    torch.manual_seed(2)
    with EventStorage():
        expected = theirs.train()(batch)
    torch.manual_seed(2)
    losses = ours.train()(batch)
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert value > 0, name
        assert losses[name].item() == pytest.approx(value.item(), abs=1e-6, rel=1e-4), name


def test_the_cascade_gives_a_loss_for_every_stage_and_a_gradient_to_every_parameter() -> None:
    model = build_detector(scratch("vit_micro_patch8", img_size=48), small_config(cascade=True), CLASSES).train()
    losses = model([sample(2), sample(0)])
    assert {f"loss_{kind}_stage{i}" for kind in ("cls", "box_reg") for i in range(3)} < set(losses)
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_unknown_pyramids_are_refused() -> None:
    with pytest.raises(UserError, match=r"detection.pyramid"):
        build_detector(scratch("vit_micro_patch8", img_size=48), DetectionConfig(pyramid="fpm"), CLASSES)
