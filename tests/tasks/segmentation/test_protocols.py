"""Protocols beyond UPerNet fine-tuning at a single scale: frozen encoder, linear head, test-time augmentation, precision."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip("mmseg")

from backbones.errors import UserError
from mae_bench.recipes.load import load_recipe
from tasks.segmentation import data, folders
from tasks.segmentation.config import SegmentationConfig
from tasks.segmentation.evaluation import SegmentationEvaluator
from tasks.segmentation.mm import mmseg, pseudo_collate
from tasks.segmentation.model import ENCODER_PREFIX, Segmenter
from tasks.segmentation.pictures import Picture, draw, reduced
from tasks.segmentation.task import SegmentationTask
from tests.tasks.segmentation.networks import CLASSES, batch, segmenter


def step(model: Segmenter, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    sum(model(batch((64, 64), (64, 64))).values()).backward()
    optimizer.step()


def bits(module: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(module.state_dict())


@pytest.mark.parametrize("head", ["upernet", "linear"])
def test_a_frozen_encoder_keeps_its_bits_while_the_head_learns(head: str) -> None:
    model = segmenter(drop_path=0.5, head=head, freeze_encoder=True).train()
    before, head_before = bits(model.net.backbone), bits(model.net.decode_head)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    for _ in range(2):
        step(model, optimizer)
    for name, tensor in bits(model.net.backbone).items():
        assert torch.equal(tensor, before[name]), name
    assert not torch.equal(bits(model.net.decode_head)["conv_seg.weight"], head_before["conv_seg.weight"])


def test_frozen_features_are_the_same_in_training_and_need_no_graph() -> None:
    model = segmenter(drop_path=0.5, freeze_encoder=True)
    images = torch.randn(2, 3, 64, 64)
    in_training, in_evaluation = model.train().net.backbone(images), model.eval().net.backbone(images)
    for trained, evaluated in zip(in_training, in_evaluation, strict=True):
        assert torch.equal(trained, evaluated)
        assert not trained.requires_grad
    assert model.train().net.decode_head.training
    loose = segmenter(drop_path=0.5).train().net.backbone(images)
    assert loose[-1].requires_grad


def test_a_frozen_encoder_gets_no_optimiser_state(ade: Path, recipe: Any) -> None:
    task = SegmentationTask(recipe(ade, "segmentation.freeze_encoder=true", "protocol=segmentation_frozen"))
    grouped = {id(p) for group in task.param_groups() for p in group["params"]}
    for name, parameter in task.model.named_parameters():
        assert (id(parameter) in grouped) == (not name.startswith(ENCODER_PREFIX)), name
    assert task.recipe.protocol == "segmentation_frozen"
    assert recipe(ade).protocol == "segmentation"


def test_the_linear_head_is_batch_norm_and_one_convolution_on_normalised_features() -> None:
    model = segmenter(head="linear", out_blocks=[2, 3], class_token=False, rel_pos_bias=False).eval()
    head, encoder = model.net.decode_head, model.net.backbone.encoder
    assert sum(p.numel() for p in head.parameters()) == 2 * 256 + (256 + 1) * CLASSES
    assert not model.net.with_neck
    assert not model.net.with_auxiliary_head
    nn.init.normal_(model.net.backbone.norm.weight)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        tokens = encoder.patch_embed(images) + encoder.pos_embed
        taken = []
        for block in encoder.blocks:
            tokens = block(tokens)
            taken.append(model.net.backbone.norm(tokens).transpose(1, 2).unflatten(2, (8, 8)))
        expected = head.conv_seg(head.bn(torch.cat(taken[2:], dim=1)))
        torch.testing.assert_close(head(model.net.backbone(images)), expected, atol=1e-5, rtol=1e-5)


def test_no_auxiliary_head_where_its_loss_does_not_count() -> None:
    model = segmenter(aux_weight=0).train()
    assert not model.net.with_auxiliary_head
    assert set(model(batch((64, 64), (64, 64)))) == {"decode.loss_ce"}


def test_heads_and_blocks_that_do_not_fit_are_named() -> None:
    for blocks in ([], [0, 1], [3, 3], [4]):
        with pytest.raises(UserError, match=r"segmentation.out_blocks must be blocks within 0..3 that end with 3"):
            segmenter(head="linear", out_blocks=blocks)


def photographs(folder: Path, sizes: list[tuple[int, int]]) -> list[folders.Pair]:
    generator = np.random.default_rng(0)
    pairs = []
    for i, (h, w) in enumerate(sizes):
        pairs.append(folders.Pair(folder / f"{i}.png", folder / f"{i}_map.png"))
        Image.fromarray(generator.integers(0, 256, (h, w, 3), np.uint8)).save(pairs[-1].image)
        Image.fromarray(generator.integers(0, CLASSES + 1, (h, w), np.uint8)).save(pairs[-1].map)
    return pairs


@pytest.mark.parametrize("inference", ["slide", "whole"])
def test_multi_scale_and_flip_equals_mmsegs_test_time_augmentation(tmp_path: Path, inference: str) -> None:
    model = segmenter(inference=inference).eval()
    nn.init.normal_(model.net.decode_head.conv_seg.weight, std=5)  # probabilities that are not all alike
    config = SegmentationConfig(resize_scale=[256, 64], tta_scales=[0.5, 1.0, 1.25], tta_flip=True)
    views = data.val_dataset(photographs(tmp_path, [(50, 70), (64, 40)]), config, CLASSES)
    samples = pseudo_collate([views[0], views[1]])
    assert len(samples["inputs"]) == 6
    theirs = mmseg.models.SegTTAModel(module=model.net)
    with torch.no_grad():
        ours = model(copy.deepcopy(samples))
        for i, expected in enumerate(ours):
            alone = {key: [[view[i]] for view in values] for key, values in copy.deepcopy(samples).items()}
            (merged,) = theirs.test_step(alone)
            assert torch.equal(merged.pred_sem_seg.data, expected.pred_sem_seg.data)
            assert torch.equal(expected.gt_sem_seg.data, samples["data_samples"][0][i].gt_sem_seg.data)
    single = SegmentationConfig(resize_scale=[256, 64])
    with torch.no_grad():
        (plain,) = model(pseudo_collate([data.val_dataset(views.pairs[:1], single, CLASSES)[0]]))
    assert not torch.equal(plain.pred_sem_seg.data, ours[0].pred_sem_seg.data)


def test_a_flipped_view_is_turned_back(tmp_path: Path) -> None:
    """Of an image that is its own mirror, the merged prediction is too."""
    (pair,) = photographs(tmp_path, [(64, 64)])
    half = np.asarray(Image.open(pair.image))[:, :32]
    Image.fromarray(np.concatenate([half, half[:, ::-1]], axis=1)).save(pair.image)
    model = segmenter(inference="whole").eval()
    config = SegmentationConfig(resize_scale=[256, 64], tta_flip=True)
    with torch.no_grad():
        (sample,) = model(pseudo_collate([data.val_dataset([pair], config, CLASSES)[0]]))
    probabilities = sample.seg_logits.data
    torch.testing.assert_close(probabilities, probabilities.flip(-1), atol=1e-5, rtol=1e-4)


def test_scales_that_cannot_be_meant_are_named() -> None:
    for scales in ([], [0.0, 1.0], [-1.0]):
        with pytest.raises(UserError, match=r"segmentation\.tta_scales"):
            data.val_dataset([], SegmentationConfig(tta_scales=scales), CLASSES)


@pytest.mark.parametrize("size", [(5, 3), (30, 64), (13, 90)])
@pytest.mark.parametrize("inference", ["slide", "whole"])
def test_logits_of_partial_patches_are_not_stretched(size: tuple[int, int], inference: str) -> None:
    """An image of partial patches gets the logits of the same image padded to whole ones, where it lies."""
    model = segmenter(96, inference=inference, slide_stride=96, class_token=False).eval()
    h, w = size
    image = torch.randn(1, 3, h, w)
    rows, columns = (max(2, -(-side // 8)) * 8 for side in size)  # the pyramid pools two patches into one
    padded = torch.nn.functional.pad(image, (0, columns - w, 0, rows - h))
    with torch.no_grad():
        ours = model.net.inference(image, [{"ori_shape": size, "img_shape": size}])
        whole = model.net.inference(padded, [{"ori_shape": padded.shape[-2:], "img_shape": padded.shape[-2:]}])
    torch.testing.assert_close(ours, whole[..., :h, :w])


def test_bf16_is_real_in_the_encoder_and_losses_stay_in_fp32() -> None:
    model = segmenter().train()
    seen: dict[str, torch.dtype] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            seen[name] = output.dtype

        return hook

    encoder = model.net.backbone.encoder
    encoder.blocks[0].attn.qkv.register_forward_hook(note("attention"))
    encoder.blocks[3].mlp.fc2.register_forward_hook(note("mlp"))
    model.net.decode_head.conv_seg.register_forward_hook(note("classifier"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch((64, 64), (64, 64)))
    assert seen == dict.fromkeys(("attention", "mlp", "classifier"), torch.bfloat16)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


def test_pictures_show_the_chosen_images(tmp_path: Path) -> None:
    pairs = photographs(tmp_path, [(50, 70), (64, 40), (900, 30)])
    names = [f"class {i}" for i in range(CLASSES)]
    evaluator = SegmentationEvaluator(names, [str(pairs[0].image), str(pairs[2].image)])
    samples = data.val_dataset(pairs, SegmentationConfig(resize_scale=[64, 32]), CLASSES)
    for i in range(3):
        label = samples[i]["data_samples"].gt_sem_seg.data[0]
        evaluator.add(torch.zeros_like(label), label, str(pairs[i].image))
    evaluator.write(evaluator.results(), tmp_path)
    assert sorted(path.name for path in tmp_path.glob("0*_*.png") if "map" not in path.name) == ["00_0.png", "01_2.png"]
    with Image.open(tmp_path / "00_0.png") as sheet:
        assert sheet.width > 3 * 5 * 70  # small images are enlarged by a whole factor
    metrics = evaluator.metrics(evaluator.results())
    without = SegmentationEvaluator(names)
    assert metrics == without.metrics([r for r in evaluator.results() if isinstance(r, np.ndarray)])


def test_no_colour_lies_over_background_and_the_legend_says_so() -> None:
    photograph = np.full((64, 64, 3), (10, 120, 240), np.uint8)
    label = np.zeros((64, 64), np.uint8)
    label[:32], label[60:] = 1, 255
    sheet = draw(Picture("a.jpg", label, label), photograph, ["background", "cat"])
    truth = sheet.tiles[0][1]
    assert (truth[32:] == photograph[32:]).all()
    assert (truth[:32] != photograph[:32]).any(axis=-1).all()
    assert [(name, colour is None) for name, colour in sheet.legend] == [
        ("cat", False),
        ("background (as it is)", True),
    ]


def test_an_image_has_its_own_size_on_its_sheet() -> None:
    label = np.zeros((512, 683), np.int64)
    sheet = draw(Picture("a.jpg", reduced(label), reduced(label)), np.zeros((512, 683, 3), np.uint8), ["wall"])
    left, top, right, bottom = sheet.box(0, 0)
    assert (right - left, bottom - top) == (683, 512)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("vit_base_patch16_ade20k", "48.1"),
        ("vit_large_patch16_ade20k", "53.6"),
        ("vit_base_patch16_ade20k_ms", "48.70"),
    ],
)
def test_recipes_name_the_row_that_they_reproduce(name: str, published: str) -> None:
    assert load_recipe(f"segmentation/{name}").published.startswith(published)
