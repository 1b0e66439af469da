"""The network: mmseg's features from our encoder, slide and whole inference, losses, precision."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

pytest.importorskip("mmseg")

from backbones.errors import UserError
from backbones.vit.dense import DenseEncoder
from backbones.vit.encoder import create_encoder
from tasks.segmentation.mm import mmseg
from tests.tasks.segmentation.networks import CLASSES, batch, segmenter


@pytest.fixture
def mmseg_backbone() -> Any:
    """mmseg's own MAE backbone of the micro size for 64 pixels, random everywhere, biases and positions too."""
    torch.manual_seed(0)
    backbone = mmseg.models.backbones.MAE(
        img_size=(64, 64), patch_size=8, embed_dims=128, num_layers=4, num_heads=4, mlp_ratio=4,
        out_indices=[0, 1, 2, 3], init_values=1.0, norm_cfg={"type": "LN", "eps": 1e-6},
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "gamma" not in name:  # layer scale starts at 1; timm's ViT has none
                parameter.normal_(std=0.1)
    backbone.eval()
    return backbone


def timm_state(backbone: Any) -> dict[str, torch.Tensor]:
    """The state of mmseg's backbone under our names, its relative position tables included."""
    names = {"ffn.layers.0.0": "mlp.fc1", "ffn.layers.1": "mlp.fc2"}
    names |= {"layers.": "blocks.", ".ln1.": ".norm1.", ".ln2.": ".norm2.", "projection": "proj"}
    state = {}
    for name, tensor in backbone.state_dict().items():
        if "gamma" in name or "index" in name:
            continue
        for old, new in names.items():
            name = name.replace(old, new)
        if name.endswith("relative_position_bias_table"):
            stem = name.removesuffix("relative_position_bias_table")
            state[f"{stem}rel_bias"] = tensor[:-3].reshape(15, 15, 4).permute(2, 0, 1)
            state[f"{stem}rel_bias_cls"] = tensor[-3:].t()
        else:
            state[name] = tensor
    return state


def test_features_equal_those_of_mmsegs_backbone(mmseg_backbone: Any) -> None:
    encoder = create_encoder("vit_micro_patch8", img_size=64)
    settings = {"out_blocks": [0, 1, 2, 3], "class_token": True, "rel_pos_bias": True}
    dense = DenseEncoder(encoder, img_size=64, **settings).eval()
    encoder.load_state_dict(timm_state(mmseg_backbone))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for ours, theirs in zip(dense(images), mmseg_backbone(images), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_a_bias_of_zero_changes_nothing() -> None:
    """Transfer starts from the pre-trained encoder's own features (App. A.4)."""
    images = torch.randn(1, 3, 64, 48)
    features = []
    for rel_pos_bias in (False, True):
        torch.manual_seed(0)
        encoder = create_encoder("vit_micro_patch8", img_size=64)
        dense = DenseEncoder(encoder, img_size=64, class_token=True, rel_pos_bias=rel_pos_bias).eval()
        features.append(dense(images)[0])
    torch.testing.assert_close(*features, atol=1e-5, rtol=1e-5)


def test_training_gives_the_losses_of_both_heads_and_gradients_everywhere() -> None:
    model = segmenter().train()
    losses = model(batch((64, 64), (40, 64)))
    assert set(losses) == {"decode.loss_ce", "aux.loss_ce"}
    assert all(loss.ndim == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_unlabelled_pixels_give_no_gradient() -> None:
    model = segmenter(dropout=0.0).train()
    data = batch((64, 64), (64, 64))
    for sample in data["data_samples"]:
        sample.gt_sem_seg.data.fill_(255)
    assert sum(model(data).values()).item() == 0


@pytest.mark.parametrize("rescales", [[4, 2, 1, 0.5], [2, 1, 0.5, 0.25]])
def test_96_pixels_with_patches_of_8_suffice_for_the_pyramid(rescales: list[float]) -> None:
    model = segmenter(96, rescales=rescales)
    sum(model.train()(batch((96, 96), (96, 96))).values()).backward()
    (prediction,) = model.eval()(batch((96, 96)))
    assert prediction.pred_sem_seg.data.shape == (1, 96, 96)


@pytest.mark.parametrize("inference", ["slide", "whole"])
def test_predictions_have_the_original_sizes_in_the_order_of_the_batch(inference: str) -> None:
    model = segmenter(inference=inference).eval()
    sizes = [(64, 72), (90, 64), (64, 72), (33, 41)]
    with torch.no_grad():
        together = model(batch(*sizes, scale=2))
        for prediction, (h, w) in zip(together, sizes, strict=True):
            assert prediction.pred_sem_seg.data.shape == (1, 2 * h, 2 * w)
            assert prediction.pred_sem_seg.data.max() < CLASSES
        last = batch(*sizes, scale=2)
        alone = model({key: values[-1:] for key, values in last.items()})
    torch.testing.assert_close(together[-1].seg_logits.data, alone[0].seg_logits.data)


@pytest.mark.parametrize("crop", [64, 96])
def test_slide_equals_whole_when_the_window_covers_the_image(crop: int) -> None:
    logits = []
    for changes in ({"inference": "slide", "slide_crop": crop}, {"inference": "whole"}):
        with torch.no_grad():
            logits.append(segmenter(**changes).eval()(batch((64, 64)))[0].seg_logits.data)
    torch.testing.assert_close(logits[0], logits[1])


def test_windows_that_overlap_are_averaged() -> None:
    model = segmenter(inference="slide", slide_stride=32).eval()
    data = batch((64, 96))
    image = data["inputs"][0]
    with torch.no_grad():
        slid = model(data)[0].seg_logits.data
        left, right = (
            model({"inputs": [image[..., x : x + 64]], "data_samples": batch((64, 64))["data_samples"]})[0]
            for x in (0, 32)
        )
    torch.testing.assert_close(slid[..., :32], left.seg_logits.data[..., :32])
    middle = (left.seg_logits.data[..., 32:] + right.seg_logits.data[..., :32]) / 2
    torch.testing.assert_close(slid[..., 32:64], middle)


def test_bf16_autocast_trains_and_predicts() -> None:
    model = segmenter()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model.train()(batch((64, 64), (64, 64)))
        assert all(torch.isfinite(loss) for loss in losses.values())
        sum(losses.values()).backward()
        with torch.no_grad():
            assert model.eval()(batch((64, 64)))[0].pred_sem_seg.data.shape == (1, 64, 64)


def test_class_weights_are_those_of_a_weighted_mean() -> None:
    weights = [0.1, 1.0, 2.0, 1.0, 0.5]
    net = segmenter(dropout=0.0, class_weight=weights).train().net
    data = net.data_preprocessor(batch((64, 64), (64, 64)), training=True)
    losses = net(**data, mode="loss")
    logits = torch.nn.functional.interpolate(net(**data, mode="tensor"), size=(64, 64), mode="bilinear")
    labels = torch.stack([sample.gt_sem_seg.data[0] for sample in data["data_samples"]])
    expected = torch.nn.functional.cross_entropy(logits, labels, weight=torch.tensor(weights))
    torch.testing.assert_close(losses["decode.loss_ce"], expected)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    data = batch((64, 64), (64, 64))
    gradients = []
    for on in (False, True):
        model = segmenter(grad_checkpointing=on, dropout=0.0).train()
        sum(model(copy.deepcopy(data)).values()).backward()
        gradients.append(model.net.backbone.encoder.patch_embed.proj.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"out_blocks": [0, 1, 2]}, "out_blocks"),
        ({"out_blocks": [3, 5, 7, 11]}, "out_blocks"),
        ({"out_blocks": [0, 0, 2, 3]}, "out_blocks"),
        ({"rescales": [4, 2, 1]}, "rescales"),
        ({"slide_stride": 65}, "slide_stride"),
        ({"slide_stride": 0}, "slide_stride"),
        ({"class_weight": [1, 1]}, "class_weight"),
    ],
)
def test_settings_that_make_no_network_are_named(changes: dict[str, Any], names: str) -> None:
    with pytest.raises(UserError, match=f"segmentation.{names}"):
        segmenter(**changes)


def test_one_image_a_process_is_refused_before_batch_normalisation_fails() -> None:
    with pytest.raises(UserError, match="micro_batch_size"):
        segmenter().train()(batch((64, 64)))
