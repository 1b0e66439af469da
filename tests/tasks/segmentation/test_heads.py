"""Trained segmenters come back whole: our own runs, and mmseg's layout of the same network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("mmseg")

from backbones.checkpoints.checkpoint import load_checkpoint
from backbones.checkpoints.dense_heads import load_heads
from backbones.errors import UserError
from backbones.files.tensor_files import save_tensors
from backbones.vit.encoder import create_encoder
from tasks.segmentation.config import SegmentationConfig
from tasks.segmentation.mm import MODELS
from tasks.segmentation.model import ENCODER_PREFIX, Segmenter, build_segmenter
from tests.encoders import of_vit

ARCH, SIZE = "vit_micro_patch8", 32


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point() and b.ndim == 1)):
        nn.init.normal_(tensor, std=0.2)
    model.eval()  # mmseg's gives nothing back
    return model


def segmenter(encoder: nn.Module, classes: int = 3, **changes: Any) -> Segmenter:
    config = {"out_blocks": [0, 1, 2, 3], "channels": 16, "aux_channels": 8, "slide_stride": 16, **changes}
    return build_segmenter(of_vit(encoder), SegmentationConfig(**config), SIZE, classes)  # type: ignore[arg-type]


def trained(**changes: Any) -> Segmenter:
    return randomised(segmenter(create_encoder(ARCH, img_size=SIZE), **changes))  # type: ignore[return-value]


def fresh(path: Path, classes: int = 3, *, whole: bool = True, **changes: Any) -> tuple[Segmenter, list[str]]:
    checkpoint = load_checkpoint(path)
    model = segmenter(checkpoint.encoder(img_size=SIZE, positions="resample"), classes, **changes).eval()
    return model, load_heads(model, checkpoint, task="segmentation", encoder_prefix=ENCODER_PREFIX, whole=whole)


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("rel_pos_bias", [True, False])
def test_a_run_s_model_comes_back_bit_for_bit(tmp_path: Path, class_token: bool, rel_pos_bias: bool) -> None:
    model = trained(class_token=class_token, rel_pos_bias=rel_pos_bias)
    save_tensors(tmp_path / "model.safetensors", model.state_dict(), {"method": "MAE", "arch": ARCH})
    checkpoint = load_checkpoint(tmp_path)
    assert (checkpoint.task, checkpoint.aside) == ("segmentation", ())
    again, _ = fresh(tmp_path, class_token=class_token, rel_pos_bias=rel_pos_bias)
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_mmseg_s_own_checkpoint_fits(tmp_path: Path) -> None:
    """Names are `EncoderDecoder`'s; its MAE has a bias table in every block."""
    backbone = MODELS.build(
        {
            "type": "MAE",
            "img_size": (SIZE, SIZE),
            "patch_size": 8,
            "embed_dims": 128,
            "num_layers": 4,
            "num_heads": 4,
            "mlp_ratio": 4,
            "init_values": 1.0,
            "out_indices": [0, 1, 2, 3],
        }
    )
    net = trained().net
    heads = {k: v for k, v in net.state_dict().items() if not k.startswith("backbone.")}
    state = {**{f"backbone.{k}": v for k, v in randomised(backbone).state_dict().items()}, **heads}
    torch.save({"state_dict": state, "meta": {"epoch": 1}}, tmp_path / "iter_160000.pth")
    checkpoint = load_checkpoint(tmp_path / "iter_160000.pth")
    assert (checkpoint.task, checkpoint.layout) == ("segmentation", "openmmlab")
    again, _ = fresh(tmp_path / "iter_160000.pth")
    for name, tensor in heads.items():
        assert torch.equal(again.state_dict()[f"net.{name}"], tensor), name


def test_other_classes_start_afresh_in_training_and_are_refused_in_evaluation(tmp_path: Path) -> None:
    save_tensors(tmp_path / "model.safetensors", trained().state_dict())
    _, notes = fresh(tmp_path, classes=5, whole=False)
    assert notes[1].startswith("4 tensors of the segmentation heads start afresh (net.auxiliary_head.conv_seg.bias, ")
    with pytest.raises(UserError, match=r"conv_seg\.bias has shape \(3,\), not \(5,\), and 3 more"):
        fresh(tmp_path, classes=5)
