"""Each layout that other projects publish: read with the same features as the project's own model, refused when broken."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from backbones.checkpoints.checkpoint import Checkpoint, load_checkpoint
from backbones.checkpoints.write_layouts import save_as
from backbones.errors import UserError
from backbones.files.tensor_files import save_tensors
from backbones.mae.model import MaskedAutoencoder
from backbones.vit.dense import DenseEncoder
from backbones.vit.encoder import create_encoder

ARCH, SIZE = "vit_w64_d2_h1_patch8", 32
SMALL = {"img_size": SIZE, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1}
State = dict[str, Tensor]


@dataclass
class Written:
    """A file in some layout, and what the project's own model makes of images: tokens, without final norm if `raw`."""

    path: Path
    layout: str
    tokens: Callable[[Tensor], Tensor]
    raw: bool = False


def randomised(model: nn.Module) -> nn.Module:
    """Nothing is zero or one, so that nothing can be mixed up or left out unseen."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.2)
    model.eval()  # mmseg's gives nothing back
    return model


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{k}": v for k, v in state.items()}


def encoder() -> VisionTransformer:
    """With the fixed positions of pre-training."""
    model = create_encoder(ARCH, img_size=SIZE)
    model.pos_embed.requires_grad_(False)
    return randomised(model)  # type: ignore[return-value]


def file(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def with_decoder() -> tuple[MaskedAutoencoder, State]:
    model = randomised(MaskedAutoencoder(encoder(), decoder_embed_dim=32, decoder_depth=1))
    return model, {k.removeprefix("encoder."): v for k, v in model.state_dict().items()}  # type: ignore[return-value]


def official_encoder_only(folder: Path) -> Written:
    model = encoder()
    return Written(file(folder / "c.pth", {"model": model.state_dict()}), "timm", model.forward_features)


def official_full(folder: Path) -> Written:
    model, state = with_decoder()
    args = argparse.Namespace(norm_pix_loss=True, mask_ratio=0.75)
    content = {"model": state, "optimizer": {"state": {}}, "epoch": 3, "scaler": {"scale": 1.0}, "args": args}
    return Written(file(folder / "c.pth", content), "mae", model.encoder.forward_features)


def official_fine_tuned(folder: Path) -> Written:
    model = randomised(VisionTransformer(**SMALL, num_classes=5, global_pool="avg"))
    return Written(file(folder / "c.pth", {"model": model.state_dict()}), "timm", model.forward_features)


def official_linear_probed(folder: Path) -> Written:
    model = encoder()
    head = nn.Sequential(nn.BatchNorm1d(64, affine=False), nn.Linear(64, 5))
    state = {**model.state_dict(), **prefixed(head.state_dict(), "head.")}
    return Written(file(folder / "c.pth", {"model": state}), "timm", model.forward_features)


def timm_pth(folder: Path) -> Written:
    model = randomised(VisionTransformer(**SMALL, num_classes=5))
    return Written(file(folder / "c.pth", model.state_dict()), "timm", model.forward_features)


def timm_safetensors(folder: Path) -> Written:
    model = randomised(VisionTransformer(**SMALL, num_classes=5))
    save_tensors(folder / "model.safetensors", model.state_dict())
    return Written(folder / "model.safetensors", "timm", model.forward_features)


def timm_training(folder: Path) -> Written:
    """What timm's train.py leaves: the averaged weights beside the raw ones."""
    model = randomised(VisionTransformer(**SMALL, num_classes=5))
    raw = {k: torch.zeros_like(v) for k, v in model.state_dict().items()}
    content = {"epoch": 1, "arch": "vit", "state_dict": raw, "state_dict_ema": model.state_dict(), "version": 2}
    return Written(file(folder / "c.pth", content), "timm", model.forward_features)


def deit(folder: Path) -> Written:
    model = randomised(timm.create_model("deit_tiny_patch16_224", **SMALL))
    return Written(file(folder / "c.pth", {"model": model.state_dict()}), "timm", model.forward_features)


def deit_distilled(folder: Path) -> Written:
    model = randomised(timm.create_model("deit_tiny_distilled_patch16_224", **SMALL))
    return Written(file(folder / "c.pth", {"model": model.state_dict()}), "timm", model.forward_features)


def dino(folder: Path) -> Written:
    model = randomised(VisionTransformer(**SMALL, num_classes=0))
    head = {"head.mlp.0.weight": torch.zeros(8, 64), "head.last_layer.weight_v": torch.zeros(9, 8)}
    student = {f"module.{k}": torch.zeros_like(v) for k, v in prefixed(model.state_dict(), "backbone.").items()}
    teacher = {**prefixed(model.state_dict(), "backbone."), **head}
    content = {"student": {**student, **prefixed(head, "module.")}, "teacher": teacher, "epoch": 2}
    return Written(file(folder / "c.pth", content), "dino", model.forward_features)


def moco_v3(folder: Path) -> Written:
    model = encoder()
    momentum = {k: torch.zeros_like(v) for k, v in model.state_dict().items()}
    state = {
        **prefixed(model.state_dict(), "module.base_encoder."),
        **prefixed(momentum, "module.momentum_encoder."),
        "module.base_encoder.head.0.weight": torch.zeros(8, 64),
        "module.momentum_encoder.head.0.weight": torch.zeros(8, 64),
        "module.predictor.0.weight": torch.zeros(8, 8),
    }
    content = {"epoch": 300, "arch": "vit_base", "state_dict": state}
    return Written(file(folder / "c.pth", content), "moco_v3", model.forward_features)


def dinov2(folder: Path) -> Written:
    model = randomised(timm.create_model("vit_small_patch14_dinov2", **SMALL))
    return Written(
        file(folder / "c.pth", {**model.state_dict(), "mask_token": torch.zeros(1, 64)}),
        "dinov2",
        model.forward_features,
    )


def dinov2_registers(folder: Path) -> Written:
    """The project's own names: registers called so, a position for the class token, blocks in FSDP's chunks."""
    model = randomised(timm.create_model("vit_small_patch14_reg4_dinov2", **SMALL))
    state = dict(model.state_dict())
    cls_position = torch.randn(1, 1, 64)
    state["register_tokens"] = state.pop("reg_token")
    state["pos_embed"] = torch.cat([cls_position, state["pos_embed"]], dim=1)
    state["cls_token"] = state["cls_token"] - cls_position
    state["mask_token"] = torch.zeros(1, 64)
    chunked = {re.sub(r"^blocks\.(\d+)\.", r"blocks.\1.\1.", k): v for k, v in state.items()}
    teacher = {**prefixed(chunked, "backbone."), "dino_head.mlp.0.weight": torch.zeros(3, 64)}
    return Written(file(folder / "c.pth", {"teacher": teacher}), "dinov2", model.forward_features)


def beit(folder: Path) -> Written:
    model = randomised(timm.create_model("beit_base_patch16_224", **SMALL, num_classes=5))
    index = {f"blocks.{i}.attn.relative_position_index": torch.zeros(17, 17).long() for i in range(2)}
    content = {"model": {**model.state_dict(), **index}}
    return Written(file(folder / "c.pth", content), "beit", model.forward_features)


def beit_pretrained(folder: Path) -> Written:
    """One table for all blocks, as BEiT's pre-training has it."""
    model = randomised(timm.create_model("beit_base_patch16_224", **SMALL, num_classes=0))
    table = model.blocks[0].attn.relative_position_bias_table
    model.blocks[1].attn.relative_position_bias_table = table
    state = {k: v for k, v in model.state_dict().items() if "relative_position" not in k}
    state |= {
        "rel_pos_bias.relative_position_bias_table": table.detach(),
        "rel_pos_bias.relative_position_index": torch.zeros(17, 17).long(),
        "mask_token": torch.zeros(1, 1, 64),
        "lm_head.weight": torch.zeros(11, 64),
        "lm_head.bias": torch.zeros(11),
    }
    return Written(file(folder / "c.pth", {"model": state}), "beit", model.forward_features)


def vitdet(folder: Path) -> Written:
    """detectron2's ViT without windows and relative positions, which make its features what timm's are before the norm."""
    pytest.importorskip("detectron2")
    from detectron2.modeling.backbone.vit import ViT

    model = randomised(
        ViT(img_size=SIZE, patch_size=8, embed_dim=64, depth=2, num_heads=1, pretrain_img_size=SIZE, norm_layer=_norm)
    )
    heads = {"proposal_generator.rpn_head.conv.weight": torch.zeros(1), "backbone.simfp_2.4.weight": torch.zeros(1)}
    tables = {f"backbone.net.blocks.{i}.attn.rel_pos_h": torch.zeros(7, 64) for i in range(2)}
    state = {**prefixed(model.state_dict(), "backbone.net."), **tables, **heads, "pixel_mean": torch.zeros(3, 1, 1)}

    def tokens(images: Tensor) -> Tensor:
        (features,) = model(images).values()
        return features.flatten(2).transpose(1, 2)

    return Written(file(folder / "c.pth", {"model": state, "iteration": 9}), "vitdet", tokens, raw=True)


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6)


def mmseg(kind: str) -> Callable[[Path], Written]:
    def write(folder: Path) -> Written:
        pytest.importorskip("mmseg")
        import mmseg.models  # noqa: F401
        from mmseg.registry import MODELS

        config = {
            "type": kind,
            "img_size": (SIZE, SIZE),
            "patch_size": 8,
            "embed_dims": 64,
            "num_layers": 2,
            "num_heads": 1,
        }
        extra = {"with_cls_token": True} if kind == "VisionTransformer" else {"init_values": 0.1}
        norm = {"type": "LN", "eps": 1e-6}
        model = randomised(MODELS.build({**config, **extra, "mlp_ratio": 4, "norm_cfg": norm, "out_indices": [1]}))
        state = {**prefixed(model.state_dict(), "backbone."), "decode_head.conv_seg.weight": torch.zeros(2, 3, 1, 1)}

        def tokens(images: Tensor) -> Tensor:
            return model(images)[0].flatten(2).transpose(1, 2)

        return Written(file(folder / "c.pth", {"state_dict": state, "meta": {}}), "openmmlab", tokens, raw=True)

    write.__name__ = f"mmseg_{kind}"
    return write


def mmpretrain(folder: Path) -> Written:
    """mmpretrain's MAE with its decoder (mmpretrain/models/necks/mae_neck.py); the package is not installed here."""
    model, state = with_decoder()
    decoder = {k: v for k, v in state.items() if k.startswith(("decoder_", "mask_token"))}
    backbone = prefixed({k: v for k, v in state.items() if k not in decoder}, "backbone.")
    neck = {re.sub(r"^neck\.decoder_norm\.", "neck.ln1.", k): v for k, v in prefixed(decoder, "neck.").items()}
    renames = (
        (r"patch_embed\.proj\.", "patch_embed.projection."),
        (r"^backbone\.norm\.", "backbone.ln1."),
        (r"^backbone\.blocks\.", "backbone.layers."),
        (r"\.norm(\d)\.", r".ln\1."),
        (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
        (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    )
    renamed = {}
    for name, tensor in {**backbone, **neck}.items():
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    content = {"meta": {}, "state_dict": {**renamed, "data_preprocessor.mean": torch.zeros(3)}}
    return Written(file(folder / "c.pth", content), "openmmlab", model.encoder.forward_features)


def huggingface(kind: str, form: str = "folder") -> Callable[[Path], Written]:
    def write(folder: Path) -> Written:
        transformers = pytest.importorskip("transformers")
        config_class = kind.removesuffix("Model").removesuffix("ForPreTraining").removesuffix("ForImageClassification")
        sizes = {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIZE,
            "patch_size": 8,
        }
        if not kind.startswith("Dinov2"):
            sizes["intermediate_size"] = 128
        decoder = {
            "decoder_hidden_size": 32,
            "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 2,
            "decoder_intermediate_size": 128,
        }
        extra = {
            "ViTMAE": {**decoder, "norm_pix_loss": True, "mask_ratio": 0.0},
            "Beit": {"use_relative_position_bias": True},
        }
        config = getattr(transformers, f"{config_class}Config")(**sizes, **extra.get(config_class, {}))
        model = randomised(getattr(transformers, kind)(config))
        if form == "folder":
            model.save_pretrained(folder)
            path = folder
        else:  # a bare file of the names in memory, config.json beside it
            config.save_pretrained(folder)
            path = file(folder / "pytorch_model.bin", model.state_dict())
        base = model.base_model if hasattr(model, "base_model") else model

        def tokens(images: Tensor) -> Tensor:
            if config_class == "ViTMAE":  # masks, and shuffles, even at ratio 0
                return base(images, noise=torch.arange(16.0).expand(len(images), -1)).last_hidden_state
            return base(images).last_hidden_state

        return Written(path, "huggingface", tokens, raw=config_class == "Beit")

    write.__name__ = f"huggingface_{kind}_{form}"
    return write


LAYOUTS = [
    official_encoder_only,
    official_full,
    official_fine_tuned,
    official_linear_probed,
    timm_pth,
    timm_safetensors,
    timm_training,
    deit,
    deit_distilled,
    dino,
    moco_v3,
    dinov2,
    dinov2_registers,
    beit,
    beit_pretrained,
    vitdet,
    mmseg("MAE"),
    mmseg("BEiT"),
    mmseg("VisionTransformer"),
    mmpretrain,
    huggingface("ViTMAEModel"),
    huggingface("ViTMAEForPreTraining"),
    huggingface("ViTMAEForPreTraining", "file"),
    huggingface("ViTModel"),
    huggingface("ViTForImageClassification"),
    huggingface("ViTForImageClassification", "file"),
    huggingface("DeiTModel"),
    huggingface("Dinov2Model"),
    huggingface("Dinov2WithRegistersModel"),
    huggingface("BeitForImageClassification"),
]
each_layout = pytest.mark.parametrize("write", LAYOUTS, ids=lambda write: write.__name__)


@each_layout
@torch.no_grad()
def test_features_are_those_of_the_project_s_own_model(tmp_path: Path, write: Callable[[Path], Written]) -> None:
    written = write(tmp_path)
    checkpoint = load_checkpoint(written.path)
    assert checkpoint.layout == written.layout
    assert checkpoint.img_size == (SIZE, SIZE)
    images = torch.randn(2, 3, SIZE, SIZE)
    model = checkpoint.encoder().eval()
    if written.raw:
        model.norm = nn.Identity()
    theirs, ours = written.tokens(images), model.forward_features(images)
    torch.testing.assert_close(ours[:, -theirs.shape[1] :], theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("write", [mmseg("MAE"), mmseg("BEiT"), vitdet], ids=lambda write: write.__name__)
@torch.no_grad()
def test_features_of_the_dense_encoder_are_those_of_the_project_s_own_model(
    tmp_path: Path, write: Callable[[Path], Written]
) -> None:
    written = write(tmp_path)
    encoder = load_checkpoint(written.path).encoder()
    dense = DenseEncoder(encoder, img_size=SIZE, class_token=encoder.cls_token is not None).eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    (features,) = dense(images)
    torch.testing.assert_close(features.flatten(2).mT, written.tokens(images), rtol=1e-4, atol=1e-4)


def tear(path: Path) -> Path:
    """Cuts the file's second half off."""
    weights = path if path.is_file() else path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    return path


def lose(path: Path) -> tuple[Path, str]:
    """Removes a tensor from the last block; gives its name."""
    if path.is_dir() or path.suffix == ".safetensors":
        from safetensors.torch import load_file, save_file

        weights = path / "model.safetensors" if path.is_dir() else path
        state = load_file(weights)
        name = next(k for k in sorted(state) if re.search(r"\.1\.(?:mlp\.fc2|output\.dense)\.weight$", k))
        del state[name]
        save_file(state, weights)
        return path, name
    content = torch.load(path, weights_only=False)  # what these tests wrote themselves
    for state in (content, *(v for v in content.values() if isinstance(v, dict))):
        for name in [k for k in state if re.search(r"\.1\.(?:mlp\.fc2|ffn\.layers\.1|output\.dense)\.weight$", str(k))]:
            del state[name]
    torch.save(content, path)
    return path, "fc2.weight"


@each_layout
def test_a_file_cut_short_is_refused_in_one_line(tmp_path: Path, write: Callable[[Path], Written]) -> None:
    path = tear(write(tmp_path).path)
    with pytest.raises(UserError, match="cut short") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


@each_layout
def test_a_missing_tensor_is_named(tmp_path: Path, write: Callable[[Path], Written]) -> None:
    path, _ = lose(write(tmp_path).path)
    with pytest.raises(UserError, match=r"missing blocks\.1\.mlp\.fc2\.weight"):
        load_checkpoint(path)


def assert_equal(a: Checkpoint, b: Checkpoint) -> None:
    for ours, theirs in ((a.state, b.state), (a.decoder, b.decoder), (a.head, b.head)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert a.architecture == b.architecture


@pytest.mark.parametrize("name", ["c.pth", "c.safetensors"])
@each_layout
def test_out_in_timm_s_layout_and_in_again_is_bit_identical(
    tmp_path: Path, write: Callable[[Path], Written], name: str
) -> None:
    checkpoint = load_checkpoint(write(tmp_path).path)
    if checkpoint.architecture.relative_bias and (checkpoint.state["blocks.0.attn.qkv.bias"].chunk(3)[1] != 0).any():
        with pytest.raises(
            UserError, match="key bias"
        ):  # mmseg's MAE: a bias table, and a bias of keys, which Beit lacks
            save_as(checkpoint, tmp_path / "out" / name, "timm")
        return
    again = load_checkpoint(save_as(checkpoint, tmp_path / "out" / name, "timm"), img_size=(SIZE, SIZE))
    assert {**again.state, **again.head}.keys() == {**checkpoint.state, **checkpoint.head}.keys()
    assert all(torch.equal(again.state[k], v) for k, v in checkpoint.state.items())
    assert all(torch.equal(again.head[k], v) for k, v in checkpoint.head.items())


@pytest.mark.parametrize("name", ["c.pth", "c.safetensors"])
@pytest.mark.parametrize(
    "write",
    [official_encoder_only, official_full, official_fine_tuned, official_linear_probed],
    ids=lambda w: w.__name__,
)
def test_out_in_the_official_layout_and_in_again_is_bit_identical(
    tmp_path: Path, write: Callable[[Path], Written], name: str
) -> None:
    checkpoint = load_checkpoint(write(tmp_path).path)
    assert_equal(checkpoint, load_checkpoint(save_as(checkpoint, tmp_path / "out" / name, "mae")))


@pytest.mark.parametrize("write", [official_encoder_only, official_full, moco_v3, timm_pth], ids=lambda w: w.__name__)
def test_hugging_face_reads_what_we_write(tmp_path: Path, write: Callable[[Path], Written]) -> None:
    transformers = pytest.importorskip("transformers")
    checkpoint = load_checkpoint(write(tmp_path).path)
    folder = save_as(checkpoint, tmp_path / "out", "hf")
    again = load_checkpoint(folder)
    assert all(torch.equal(again.state[k], v) for k, v in checkpoint.state.items())
    assert again.decoder.keys() == checkpoint.decoder.keys()
    kind = transformers.ViTMAEForPreTraining if checkpoint.decoder else transformers.ViTModel
    options = {} if checkpoint.decoder else {"add_pooling_layer": False}
    _, report = kind.from_pretrained(folder, output_loading_info=True, **options)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


@pytest.mark.parametrize("write", [beit, dinov2_registers, dinov2, vitdet], ids=lambda w: w.__name__)
@pytest.mark.parametrize("layout", ["mae", "hf"])
def test_a_layout_that_has_no_place_for_an_encoder_says_so(
    tmp_path: Path, write: Callable[[Path], Written], layout: str
) -> None:
    checkpoint = load_checkpoint(write(tmp_path).path)
    with pytest.raises(UserError, match="has no place"):
        save_as(checkpoint, tmp_path / "out", layout)


def test_decoder_and_its_target_are_read(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(official_full(tmp_path).path)
    assert checkpoint.target_normalised is True
    reference, _ = with_decoder()
    model = checkpoint.masked_autoencoder()
    assert all(torch.equal(v, reference.state_dict()[k]) for k, v in model.state_dict().items())


def test_an_encoder_without_decoder_says_which_files_have_one(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(official_encoder_only(tmp_path).path)
    with pytest.raises(UserError, match="mae_visualize_vit"):
        checkpoint.masked_autoencoder()


@pytest.mark.parametrize(
    ("write", "method"),
    [
        (official_full, "MAE"),
        (dino, "DINO"),
        (dinov2, "c"),  # LayerScale makes no DINOv2
        (moco_v3, "MoCo v3"),
        (beit, "c"),  # BEiT v2 and data2vec have the same names
        (huggingface("ViTMAEModel"), "MAE"),
        (huggingface("DeiTModel"), "DeiT"),
        (timm_pth, "c"),  # learnt positions and timm's names say nothing: the file's name stands in the table
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_row_of_the_tables(tmp_path: Path, write: Callable[[Path], Written], method: str) -> None:
    assert load_checkpoint(write(tmp_path).path).method == method


def test_heads_of_fine_tuned_models_are_kept(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(official_fine_tuned(tmp_path).path)
    assert not checkpoint.architecture.final_norm
    assert checkpoint.head.keys() == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}


def test_what_nothing_is_made_of_is_listed(tmp_path: Path) -> None:
    assert "module.predictor.0.weight".removeprefix("module.") in load_checkpoint(moco_v3(tmp_path).path).aside


@torch.no_grad()
def test_relative_positions_at_another_image_size(tmp_path: Path) -> None:
    """The same tables at another grid: nearest offsets keep their bias, which timm's own resampling does too."""
    written = beit(tmp_path)
    checkpoint = load_checkpoint(written.path)
    larger = checkpoint.encoder(img_size=(48, 32)).eval()
    assert larger.blocks[0].attn.rel_bias.shape == (1, 11, 7)
    assert larger.forward_features(torch.randn(1, 3, 48, 32)).shape == (1, 25, 64)


def test_moco_v3_counts_rows_first(tmp_path: Path) -> None:
    """The position embedding of facebookresearch/moco-v3 (vits.py), by its formula."""
    half = 64 // 4
    omega = 1.0 / 10000 ** (torch.arange(half) / half)
    row, column = (g.flatten().float() for g in torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij"))
    parts = [f(g[:, None] * omega) for g in (row, column) for f in (torch.sin, torch.cos)]
    model = encoder()
    with torch.no_grad():
        model.pos_embed[:, 1:] = torch.cat(parts, dim=1)
    checkpoint = load_checkpoint(file(tmp_path / "c.pth", model.state_dict()))
    assert checkpoint.architecture.positions == "sincos_rows_first"
    assert checkpoint.method == "c"  # others may have such positions, too
    larger = checkpoint.encoder(img_size=64).pos_embed[:, 1:]
    assert torch.allclose(
        larger.reshape(8, 8, 64)[:4, :4], checkpoint.state["pos_embed"][:, 1:].reshape(4, 4, 64), atol=1e-6
    )


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "teacher", None])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "encoder.", "module.encoder."])
def test_wrappers_and_prefixes(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    model = encoder()
    state = prefixed(model.state_dict(), prefix)
    checkpoint = load_checkpoint(file(tmp_path / "c.pth", {wrapper: state} if wrapper else state))
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in checkpoint.state.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    model = encoder()
    checkpoint = load_checkpoint(file(tmp_path / "c.pth", {k: v.to(dtype) for k, v in model.state_dict().items()}))
    assert all(torch.equal(v, model.state_dict()[k].to(dtype).float()) for k, v in checkpoint.state.items())
    assert checkpoint.architecture.positions == "sincos"


def test_hugging_face_shards(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=SIZE, patch_size=8, intermediate_size=128
    )
    model = randomised(transformers.ViTModel(config))
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    model.save_pretrained(tmp_path / "whole")
    assert_equal(load_checkpoint(tmp_path), load_checkpoint(tmp_path / "whole"))
    next(tmp_path.glob("*.safetensors")).unlink()
    with pytest.raises(UserError, match="which is not there"):
        load_checkpoint(tmp_path)


def test_swiglu_and_swin_are_refused(tmp_path: Path) -> None:
    state = {**encoder().state_dict(), "blocks.0.mlp.w12.weight": torch.zeros(8, 64)}
    with pytest.raises(UserError, match=r"no size that timm has: say the model \(--arch timm:NAME\)"):
        load_checkpoint(file(tmp_path / "c.pth", state))
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=56, window_size=7, embed_dim=16, num_heads=(1, 1, 1, 1)
    )
    with pytest.raises(UserError, match="no plain ViT"):
        load_checkpoint(file(tmp_path / "s.pth", swin.state_dict()))
