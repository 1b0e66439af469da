"""Files as their authors publish them: known by their names, the size by their shapes; what they do not tell is asked for.

The files are made of timm's own models with random weights, by the names that the authors' code has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from backbones.checkpoints.checkpoint import load_checkpoint
from backbones.errors import UserError

Tensors = dict[str, Tensor]


def random_model(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net


def renamed(state: Tensors, *renames: tuple[str, str]) -> Tensors:
    found = {}
    for name, tensor in state.items():
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        found[name] = tensor
    return found


def dinov3(state: Tensors) -> Tensors:
    """facebookresearch/dinov3, vision_transformer.py."""
    merged = dict(state)
    for name in [name for name in state if name.endswith("attn.q_bias")]:
        query, value = merged.pop(name), merged.pop(name.replace("q_bias", "v_bias"))
        merged[name.replace("q_bias", "qkv.bias")] = torch.cat([query, torch.zeros_like(query), value])
        merged[name.replace("q_bias", "qkv.bias_mask")] = torch.ones(3 * len(query))
    merged |= {"mask_token": torch.zeros(1, 1), "rope_embed.periods": torch.ones(16)}
    return renamed(
        merged,
        (r"gamma_(\d)$", r"ls\1.gamma"),
        (r"reg_token", "storage_tokens"),
        (r"mlp\.fc1_g", "mlp.w1"),
        (r"mlp\.fc1_x", "mlp.w2"),
        *([(r"mlp\.fc2", "mlp.w3")] if any("fc1_g" in name for name in state) else []),
    )


def eva02(state: Tensors) -> Tensors:
    """baaivision/EVA, EVA-02's masked image modelling."""
    names = renamed(
        state,
        (r"q_proj\.bias", "q_bias"),
        (r"v_proj\.bias", "v_bias"),
        (r"attn\.norm\.", "attn.inner_attn_ln."),
        (r"mlp\.norm\.", "mlp.ffn_ln."),
        (r"mlp\.fc1\.", "mlp.w12."),
        (r"mlp\.fc2", "mlp.w3"),
        (r"^fc_norm\.", "norm."),
    )
    extra = {"rope.freqs_cos": torch.ones(4), "rope.freqs_sin": torch.ones(4)}
    return {"mask_token": torch.zeros(1, 1), "lm_head.weight": torch.zeros(2, 2), **names, **extra}


OPENAI = (
    (r"patch_embed\.proj", "conv1"),
    (r"pos_embed", "positional_embedding"),
    (r"norm_pre", "ln_pre"),
    (r"attn_pool\.norm", "attn_pool.layernorm"),
    (r"attn_pool\.latent", "attn_pool.probe"),
    (r"attn_pool\.proj", "attn_pool.attn.out_proj"),
    (r"^blocks\.(\d+)\.norm(\d)", r"blocks.\1.ln_\2"),
    (r"^norm\.", "ln_post."),
    (r"^blocks\.", "transformer.resblocks."),
    (r"gamma_(\d)", r"ls_\1.gamma"),
    (r"attn\.qkv\.", "attn.in_proj_"),
    (r"attn\.proj", "attn.out_proj"),
    (r"(resblocks\.\d+\.)mlp\.fc1", r"\1mlp.c_fc"),
    (r"(resblocks\.\d+\.)mlp\.fc2", r"\1mlp.c_proj"),
    (r"^cls_token$", "class_embedding"),
)


def openai(state: Tensors) -> Tensors:
    """CLIP, OpenCLIP and Perception Encoder: ``visual.`` beside a text tower."""
    state = dict(state)
    for kind in ("weight", "bias"):
        if f"attn_pool.q.{kind}" in state:
            parts = [state.pop(f"attn_pool.{part}.{kind}") for part in ("q", "kv")]
            state[f"attn_pool.attn.in_proj_{kind}"] = torch.cat(parts)
    names = {f"visual.{k}": v for k, v in renamed(state, *OPENAI).items()}
    for name in ("visual.class_embedding", "visual.positional_embedding"):
        names[name] = names[name].flatten(0, -2).squeeze(0)
    names["visual.positional_embedding"] = state["pos_embed"][0]
    return {**names, "token_embedding.weight": torch.zeros(4, 4), "logit_scale": torch.zeros(1)}


def qkv_of(kind: str) -> Callable[[Tensors], Tensors]:
    return {"dinov3": dinov3, "eva02": eva02, "openai": openai, "timm": dict}[kind]


CASES = [
    ("vit_tiny_patch16_dinov3_qkvb", "dinov3"),
    ("vit_small_plus_patch16_dinov3_qkvb", "dinov3"),
    ("eva02_tiny_patch14_224", "eva02"),
    ("eva02_tiny_patch14_336", "eva02"),
    ("vit_pe_core_tiny_patch16_384", "openai"),
    ("vit_pe_spatial_tiny_patch16_512", "openai"),
    ("vit_xsmall_patch16_clip_224", "openai"),
    pytest.param("vit_base_patch32_siglip_256", "timm", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "kind"), CASES, ids=lambda value: value)
@torch.no_grad()
def test_a_published_file_is_known_and_read_whole(name: str, kind: str, tmp_path: Path) -> None:
    net = random_model(name)
    torch.save(qkv_of(kind)(net.state_dict()), tmp_path / "published.pth")
    checkpoint = load_checkpoint(tmp_path / "published.pth")
    assert checkpoint.arch == f"timm:{name}"
    encoder = checkpoint.open().eval()
    image = torch.randn(1, 3, *checkpoint.img_size)
    ours, theirs = encoder(image), net.forward_features(image)  # type: ignore[operator]
    assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-5
    assert checkpoint.preprocessing.mean == tuple(timm.data.resolve_model_data_config(net)["mean"])


def test_models_of_the_same_tensors_are_asked_for(tmp_path: Path) -> None:
    """GELU and quick GELU: no tensor tells."""
    net = timm.create_model("vit_base_patch32_clip_224", num_classes=0)
    torch.save(openai(net.state_dict()), tmp_path / "clip.pth")
    with pytest.raises(UserError, match="vit_base_patch32_clip_quickgelu_224") as caught:
        load_checkpoint(tmp_path / "clip.pth")
    assert "--arch" in str(caught.value)
    config = {
        "model_cfg": {"quick_gelu": True, "vision_cfg": {}},
        "preprocess_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    told = load_checkpoint(tmp_path / "clip.pth")
    assert told.arch == "timm:vit_base_patch32_clip_quickgelu_224"
    assert (told.preprocessing.mean, told.preprocessing.source["mean"]) == ((0.1,) * 3, "open_clip_config.json")


def test_biases_are_not_dropped(tmp_path: Path) -> None:
    """timm's filter passes over DINOv3's when the model that was named has none."""
    state = dinov3(random_model("vit_small_patch16_dinov3_qkvb").state_dict())
    torch.save(state, tmp_path / "published.pth")
    with pytest.raises(UserError, match="qkvb"):
        load_checkpoint(f"timm:vit_small_patch16_dinov3={tmp_path / 'published.pth'}")


def test_weights_of_one_model_with_several_preprocessings_are_told_by_the_file_s_name_or_asked_for() -> None:
    """DINOv3's ViT-L of satellite images has a mean of its own; the tensors are alike."""
    from backbones.encoders import published
    from backbones.encoders.timm_models import registered

    model = registered("vit_large_patch16_dinov3_qkvb")
    web = published.preprocessing(model, "dinov3_vitl16_pretrain_lvd1689m-8aa4cbdd", {})
    satellite = published.preprocessing(model, "dinov3_vitl16_pretrain_sat493m-eadcf0ff", {})
    assert web.mean == (0.485, 0.456, 0.406)
    assert satellite.mean != web.mean
    assert published.preprocessing(model, "weights", {}).mean is None


def test_a_text_tower_is_refused(tmp_path: Path) -> None:
    state = {"token_embedding.weight": torch.zeros(4, 8), "transformer.resblocks.0.ln_1.weight": torch.zeros(8)}
    torch.save(state, tmp_path / "text.pth")
    with pytest.raises(UserError, match="text encoder"):
        load_checkpoint(tmp_path / "text.pth")


def test_a_size_that_timm_does_not_have_is_said(tmp_path: Path) -> None:
    state = dinov3(random_model("vit_tiny_patch16_dinov3_qkvb").state_dict())
    state = {name: t for name, t in state.items() if not name.startswith("blocks.11.")}
    torch.save(state, tmp_path / "published.pth")
    with pytest.raises(UserError, match="names of DINOv3, but no size"):
        load_checkpoint(tmp_path / "published.pth")
