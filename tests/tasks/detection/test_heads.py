"""Trained detectors come back whole, from the official ViTDet layout and from our own runs."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.checkpoint import DetectionCheckpointer

from backbones.checkpoints.checkpoint import load_checkpoint, open_encoder
from backbones.checkpoints.dense_heads import load_heads
from backbones.checkpoints.write_layouts import save_as, vitdet_state
from backbones.errors import UserError
from backbones.files.tensor_files import save_tensors
from backbones.vit.encoder import create_encoder
from tasks.detection.model import ENCODER_PREFIX, Detector, build_detector
from tasks.recipe import EncoderConfig
from tests.encoders import scratch

from .conftest import small_config
from .test_against_detectron2 import small

ARCH, SIZE = "vit_micro_patch8", 48


def trained(classes: int = 3, **changes: Any) -> Detector:
    """A detector in which nothing is zero or one."""
    torch.manual_seed(0)
    model = build_detector(scratch(ARCH, img_size=SIZE), small_config(**changes), classes)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def official(model: Detector) -> dict[str, Tensor]:
    """The same weights under detectron2's names, with the slot of the class token that its ViT keeps."""
    state = {k.replace(ENCODER_PREFIX, "backbone.net."): v for k, v in model.state_dict().items()}
    pos = state["backbone.net.pos_embed"]
    state["backbone.net.pos_embed"] = torch.cat([torch.ones_like(pos[:, :1]), pos], dim=1)
    return state


def as_pkl(model: Detector, folder: Path) -> Path:
    arrays = {k: v.numpy() for k, v in official(model).items()}
    (folder / "model_final_61ccd1.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "someone"}))
    return folder / "model_final_61ccd1.pkl"


def as_pth(model: Detector, folder: Path) -> Path:
    torch.save({"model": official(model), "trainer": {"iteration": 5}, "iteration": 5}, folder / "model_final.pth")
    return folder / "model_final.pth"


def as_run(model: Detector, folder: Path) -> Path:
    save_tensors(folder / "model.safetensors", model.state_dict(), {"method": "MAE", "arch": ARCH})
    return folder


LAYOUTS = {"pkl": as_pkl, "pth": as_pth, "run": as_run}
each_layout = pytest.mark.parametrize("layout", LAYOUTS)


def fresh(path: Path, classes: int = 3, *, whole: bool = True, **changes: Any) -> tuple[Detector, list[str]]:
    checkpoint = load_checkpoint(path)
    model = build_detector(
        open_encoder(EncoderConfig(ARCH, SIZE), checkpoint, positions="resample"), small_config(**changes), classes
    ).eval()
    notes = load_heads(model, checkpoint, task="detection", encoder_prefix=ENCODER_PREFIX, whole=whole)
    return model, notes


@each_layout
@pytest.mark.parametrize("with_masks", [True, False])
def test_every_tensor_comes_back_bit_for_bit(tmp_path: Path, layout: str, with_masks: bool) -> None:
    model = trained(with_masks=with_masks)
    path = LAYOUTS[layout](model, tmp_path)
    again, notes = fresh(path, with_masks=with_masks)
    assert load_checkpoint(path).task == "detection"
    assert load_checkpoint(path).aside == ()
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert len(notes) == 1
    assert re.fullmatch(r"\d+ tensors of the detection heads are the checkpoint's", notes[0])


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "cascade"), [("pkl", False), ("pth", True)])
def test_what_is_written_for_detectron2_its_own_model_reads_whole(tmp_path: Path, suffix: str, cascade: bool) -> None:
    """And we read it again, bit for bit."""
    theirs, config = small(cascade, fed=False)
    model = build_detector(scratch(ARCH, img_size=SIZE), config, 7)
    run = load_checkpoint(as_run(model, tmp_path))
    written = save_as(run, tmp_path / "out" / f"model_final.{suffix}", "vitdet")
    theirs.load_state_dict(vitdet_state(run), strict=True)
    for parameter in theirs.parameters():
        nn.init.zeros_(parameter)
    DetectionCheckpointer(theirs).load(str(written))  # restores what it knows the names of
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, vitdet_state(run)[name]), name
    again = load_checkpoint(written)
    assert again.layout == "vitdet"
    for ours, read in ((run.state, again.state), (run.heads, again.heads)):
        assert ours.keys() == read.keys()
        assert all(torch.equal(ours[k], read[k]) for k in ours)


def test_only_detectors_of_vitdet_are_written_for_detectron2(tmp_path: Path) -> None:
    save_tensors(tmp_path / "encoder.safetensors", create_encoder(ARCH, img_size=SIZE).state_dict())
    with pytest.raises(UserError, match="holds no trained detector"):
        save_as(load_checkpoint(tmp_path), tmp_path / "m.pth", "vitdet")
    other = load_checkpoint(as_run(trained(pyramid="fpn"), tmp_path))
    with pytest.raises(UserError, match="only simple pyramids"):
        save_as(other, tmp_path / "m.pth", "vitdet")
    run = load_checkpoint(as_run(trained(), tmp_path))
    with pytest.raises(UserError, match=r"ends in \.pth or \.pkl"):
        save_as(run, tmp_path / "m.safetensors", "vitdet")


@each_layout
def test_tables_of_relative_positions_bear_encoder_names(tmp_path: Path, layout: str) -> None:
    heads = load_checkpoint(LAYOUTS[layout](trained(), tmp_path)).heads
    assert heads["blocks.0.attn.rel_pos_h"].shape == (5, 32)
    assert heads["blocks.3.attn.rel_pos_w"].shape == (15, 32)
    assert heads["roi_heads.box_predictor.cls_score.weight"].shape == (4, 32)


def test_evaluation_needs_all_heads_and_says_which_does_not_fit(tmp_path: Path) -> None:
    path = as_run(trained(), tmp_path)
    with pytest.raises(UserError, match=r"bbox_pred\.bias has shape \(12,\), not \(16,\), and \d more"):
        fresh(path, classes=4)
    with pytest.raises(UserError, match=r"relative positions .* turns off"):
        fresh(path, rel_pos=False)
    box = as_run(trained(with_masks=False), tmp_path)
    with pytest.raises(UserError, match=r"mask_head\.deconv\.bias is missing, and"):
        fresh(box, with_masks=True)


def test_evaluation_of_a_mere_encoder_is_refused(tmp_path: Path) -> None:
    save_tensors(tmp_path / "encoder.safetensors", create_encoder(ARCH, img_size=SIZE).state_dict())
    with pytest.raises(UserError, match="holds no trained detection heads"):
        fresh(tmp_path)
    assert fresh(tmp_path, whole=False)[1] == []


def test_training_on_other_classes_takes_what_fits_and_says_what_does_not(tmp_path: Path) -> None:
    model = trained()
    again, notes = fresh(as_run(model, tmp_path), classes=4, whole=False)
    assert torch.equal(again.roi_heads.box_head.fc1.weight, model.roi_heads.box_head.fc1.weight)
    assert again.roi_heads.box_predictor.cls_score.weight.shape == (5, 32)
    assert len(notes) == 2
    assert re.match(r"6 tensors of the detection heads start afresh \(roi_heads\.box_predictor\.", notes[1])


def test_heads_that_the_recipe_does_without_are_named(tmp_path: Path) -> None:
    _, notes = fresh(as_run(trained(), tmp_path), with_masks=False)
    assert re.search(r"unused \(roi_heads\.mask_head\.", notes[-1])


def test_relative_positions_are_resampled_for_another_image_size(tmp_path: Path) -> None:
    model = trained()
    again, _ = fresh(as_run(model, tmp_path), img_size=96)
    small, large = (m.backbone.net.dense.encoder.blocks[3].attn.rel_pos_h for m in (model, again))
    assert (small.shape, large.shape) == ((15, 32), (23, 32))
    torch.testing.assert_close(large[11], small[7])  # no distance stays no distance
