"""Folders of Hugging Face's beside the classes' own forward passes: small random models of every family that is known."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones.checkpoints.checkpoint import Checkpoint, load_checkpoint
from backbones.errors import UserError

transformers: Any = pytest.importorskip("transformers")
VIT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 80}
SQUARE = {**VIT, "image_size": 32, "patch_size": 8}
CONV = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
SWIN = {"image_size": 64, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
HIERA = {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]}
TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 50000,
}

# case: (class of the model, its configuration, keyword arguments)
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTModel", "ViTConfig", SQUARE),
    "vit_mae": ("ViTMAEModel", "ViTMAEConfig", {**SQUARE, "mask_ratio": 0.0}),
    "deit": ("DeiTModel", "DeiTConfig", SQUARE),
    "beit": ("BeitModel", "BeitConfig", {**SQUARE, "use_relative_position_bias": True}),
    "data2vec": ("Data2VecVisionModel", "Data2VecVisionConfig", {**SQUARE, "use_shared_relative_position_bias": True}),
    "dinov2": ("Dinov2Model", "Dinov2Config", SQUARE),
    "dinov2_swiglu": ("Dinov2Model", "Dinov2Config", {**SQUARE, "use_swiglu_ffn": True}),
    "dinov2_registers_swiglu": (
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        {**SQUARE, "use_swiglu_ffn": True},
    ),
    "dinov2_registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", SQUARE),
    "dinov3": ("DINOv3ViTModel", "DINOv3ViTConfig", {**SQUARE, "num_register_tokens": 4}),
    "dinov3_gated": (
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        {**SQUARE, "num_register_tokens": 4, "use_gated_mlp": True, "hidden_act": "silu"},
    ),
    "dinov3_convnext": ("DINOv3ConvNextModel", "DINOv3ConvNextConfig", CONV),
    "siglip": ("SiglipVisionModel", "SiglipVisionConfig", SQUARE),
    "siglip_no_head": ("SiglipVisionModel", "SiglipVisionConfig", {**SQUARE, "vision_use_head": False}),
    "siglip2": ("Siglip2VisionModel", "Siglip2VisionConfig", {**VIT, "patch_size": 8, "num_patches": 16}),
    "clip": ("CLIPVisionModel", "CLIPVisionConfig", SQUARE),
    "clip_gelu": ("CLIPVisionModel", "CLIPVisionConfig", {**SQUARE, "hidden_act": "gelu"}),
    "clip_with_text": ("CLIPModel", "CLIPConfig", {"vision_config": SQUARE, "text_config": TEXT}),
    "aimv2": ("Aimv2VisionModel", "Aimv2VisionConfig", {**SQUARE, "use_head": False}),
    "swin": ("SwinModel", "SwinConfig", SWIN),
    "convnext": ("ConvNextModel", "ConvNextConfig", CONV),
    "convnextv2": ("ConvNextV2Model", "ConvNextV2Config", CONV),
    "hiera": ("HieraModel", "HieraConfig", HIERA),
}


def random_model(name: str) -> Any:
    """The class's model with every parameter random, so that none that is lost goes unseen."""
    cls, config, told = CASES[name]
    torch.manual_seed(0)
    model = getattr(transformers, cls)(getattr(transformers, config)(**told)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def own_forward(name: str, model: Any, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """(tokens or map, pooled feature) by transformers."""
    if name == "siglip2":
        patches = images.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        count = patches.shape[1]
        shapes = torch.tensor([[4, 4]] * len(images))
        mask = torch.ones(len(images), count, dtype=torch.long)
        patches = patches.reshape(len(images), count, -1)
        found = model(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shapes)
        return found.last_hidden_state, found.pooler_output
    if name == "clip_with_text":
        model = model.vision_model
    if name == "vit_mae":
        patches = (32 // 8) ** 2
        order = torch.arange(patches, dtype=torch.float32).expand(len(images), -1)
        return model(images, noise=order).last_hidden_state, None
    found = model(images)
    tokens, pooled = found.last_hidden_state, getattr(found, "pooler_output", None)
    if name.startswith("clip"):
        tokens = model.post_layernorm(tokens)  # transformers normalises the class token alone
    return tokens, pooled


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Checkpoint]:
    name = request.param
    model = random_model(name)
    folder = tmp_path_factory.mktemp(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    return name, model, load_checkpoint(folder)


@torch.no_grad()
def test_features_are_those_of_the_class(case: tuple[str, Any, Checkpoint]) -> None:
    name, model, checkpoint = case
    encoder = checkpoint.open().eval()
    images = torch.randn(2, 3, *checkpoint.img_size)
    tokens, pooled = own_forward(name, model, images)
    ours = encoder(images)
    if tokens.ndim == 3 and (ours.ndim == 4 or name in ("hiera", "dinov3_convnext")):
        ours = encoder.patches(ours)
        tokens = tokens[:, -ours.shape[1] :]
    if name == "dinov3_convnext":  # transformers gives its tokens normalised, timm the map before the norm
        ours = nn.functional.layer_norm(ours, ours.shape[-1:], model.layer_norm.weight, model.layer_norm.bias, 1e-6)
    assert ours.shape == tokens.shape
    assert ((ours - tokens).norm() / tokens.norm()).item() < 1e-5
    if pooled is not None and name in POOLED:
        own = encoder.pool(encoder(images), "own")
        assert ((own - pooled).norm() / pooled.norm()).item() < 1e-5


POOLED = (
    *("dinov2", "dinov2_swiglu", "dinov2_registers", "dinov2_registers_swiglu", "dinov3", "dinov3_gated"),
    *("dinov3_convnext", "siglip", "siglip2"),
    *("clip", "clip_gelu", "clip_with_text", "swin", "convnext", "convnextv2", "hiera", "beit"),
)


def written(
    tmp_path: Path, name: str, config: dict[str, Any] | None = None, processor: dict[str, Any] | None = None
) -> Path:
    """A small folder, some of its configuration changed."""
    random_model(name).save_pretrained(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**said, **(config or {})}))
    if processor is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    return tmp_path


PROCESSORS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "vit",
        {"size": {"height": 32, "width": 32}},
        {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear"},
    ),
    (
        "clip",
        {
            "size": {"shortest_edge": 32},
            "crop_size": {"height": 32, "width": 32},
            "do_center_crop": True,
            "resample": 3,
        },
        {"crop_pct": 1.0, "crop_mode": "center", "interpolation": "bicubic"},
    ),
    (
        "dinov2",
        {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True},
        {"crop_pct": 0.875, "crop_mode": "center"},
    ),
    ("convnext", {"size": {"shortest_edge": 224}, "crop_pct": 0.875}, {"crop_pct": 0.875, "crop_mode": "center"}),
    ("convnext", {"size": {"shortest_edge": 384}, "crop_pct": 0.875}, {"crop_pct": 1.0, "crop_mode": "squash"}),
]


@pytest.mark.parametrize(("name", "processor", "wanted"), PROCESSORS, ids=lambda v: v if isinstance(v, str) else "")
def test_preprocessing_is_what_the_processor_says(
    name: str, processor: dict[str, Any], wanted: dict[str, Any], tmp_path: Path
) -> None:
    processor = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.1, 0.2, 0.3], "resample": 2, **processor}
    found = load_checkpoint(written(tmp_path, name, processor=processor)).preprocessing
    assert (found.mean, found.std) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    assert {key: getattr(found, key) for key in wanted} == wanted
    assert found.source["mean"] == "preprocessor_config.json"
    assert not found.assumed


SCALES: list[tuple[dict[str, Any], float, float]] = [
    ({"do_rescale": True, "rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}, 0.5, 0.5),
    ({"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [51.0] * 3}, 0.5, 0.2),
    ({"do_normalize": False}, 0.0, 1.0),
    ({"rescale_factor": 0.00392156862745098, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}, 0.5, 0.5),
]


@pytest.mark.parametrize(("processor", "mean", "std"), SCALES)
def test_other_scales_than_0_to_1_are_converted(
    processor: dict[str, Any], mean: float, std: float, tmp_path: Path
) -> None:
    found = load_checkpoint(written(tmp_path, "vit", processor={"size": 32, **processor})).preprocessing
    assert found.mean == pytest.approx([mean] * 3)
    assert found.std == pytest.approx([std] * 3)


def test_without_a_processor_a_family_of_one_mind_has_its_default_and_says_so(tmp_path: Path) -> None:
    found = load_checkpoint(written(tmp_path, "siglip")).preprocessing
    assert found.mean == (0.5, 0.5, 0.5)
    assert "mean" in found.assumed
    assert "preprocessor_config.json is not there" in found.source["mean"]


def test_without_a_processor_a_family_of_several_minds_is_asked_for(tmp_path: Path) -> None:
    found = load_checkpoint(written(tmp_path, "vit")).preprocessing
    assert found.mean is None
    with pytest.raises(UserError, match=r"--set encoder\.mean"):
        found.known(tmp_path)
    assert found.overridden(mean=[0.5] * 3, std=[0.5] * 3).known(tmp_path).mean == (0.5, 0.5, 0.5)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("clip", {"model_type": "clip_text_model"}, "clip_text_model is no image encoder"),
    ("clip", {"hidden_act": "relu6"}, "hidden_act relu6"),
    ("clip", {"num_hidden_layers": 3}, "missing blocks.2"),
    ("vit", {"hidden_act": "relu"}, "hidden_act relu"),
    ("siglip", {"model_type": "dinov3_vit"}, "the tensors are others"),
    ("swin", {"use_absolute_embeddings": True}, "use_absolute_embeddings"),
]


@pytest.mark.parametrize(("name", "config", "said"), BAD)
def test_what_cannot_be_read_is_one_line(name: str, config: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load_checkpoint(written(tmp_path, name, config))
    assert "\n" not in str(caught.value)


def test_no_code_of_a_folder_is_run(tmp_path: Path) -> None:
    """`trust_remote_code` models name their code in ``auto_map``."""
    folder = written(tmp_path, "dinov2", {"auto_map": {"AutoModel": "evil.Model"}})
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    assert load_checkpoint(folder).open() is not None


def test_folders_of_one_family_are_told_apart_by_size_and_by_their_names(tmp_path: Path) -> None:
    found = load_checkpoint(written(tmp_path / "siglip-of-mine", "siglip"))
    assert (found.arch, found.method) == ("siglip_w48_d2_patch8", "siglip-of-mine")
    assert load_checkpoint(written(tmp_path / "b", "swin")).arch == "swin_w16_d2-2"
