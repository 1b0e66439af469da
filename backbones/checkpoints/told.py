"""What is known of a plain ViT's file beside its tensors, and from where: heads, sizes, preprocessing, its row of the tables.

Nothing is guessed: what nothing tells is left open, asked for, or a family's default that says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from backbones.checkpoints.architecture import Architecture
from backbones.checkpoints.not_plain import WAY_OUT
from backbones.checkpoints.read_layouts import OFFICIAL_DECODER_HEADS, Named
from backbones.encoders.preprocessing import ASSUMED, FACTS, Preprocessing, family_default, not_told
from backbones.errors import UserError
from backbones.files.tensor_files import TensorFile
from backbones.vit.arch import SIZES, parse_arch

# Names of tensors that only one project's files have; the other layouts are several projects'.
_METHODS = {"mae": "MAE", "dino": "DINO", "moco_v3": "MoCo v3"}
_HF_METHODS = {
    "vit_mae": "MAE",
    "dinov2": "DINOv2",
    "dinov2_with_registers": "DINOv2",
    "beit": "BEiT",
    "deit": "DeiT",
    "data2vec-vision": "data2vec",
}
# Names of files as their authors publish them.
_FILES = (
    (r"mae_(?:pretrain|visualize|finetuned)_", "MAE"),
    (r"dino_(?:vit|deit)", "DINO"),
    (r"dinov2_vit", "DINOv2"),
    (r"dinov3_vit", "DINOv3"),
    (r"ibot_", "iBOT"),
    (r"beit_(?:base|large)_", "BEiT"),
    (r"deit_3_", "DeiT III"),
    (r"vit-[sbl]-300ep", "MoCo v3"),
)
_GENERIC = ("model", "pytorch_model", "encoder", "checkpoint", "model.safetensors.index", "pytorch_model.bin.index")
_TAGS = {"mae": "MAE", "dino": "DINO"}  # of timm's weights that are the authors' own, without fine-tuning
_MOCO_SMALL = 384  # MoCo v3's ViT-S has 12 heads of 32 channels (facebookresearch/moco-v3, vits.py)
_OURS = "mae_bench, which wrote the file"
# Layouts whose names only one architecture's files have.
_PROJECTS = {
    "mae": "MAE's decoder beside it",
    "dino": "DINO's head beside it",
    "dinov2": "DINOv2's names",
    "moco_v3": "MoCo v3's names",
    "vitdet": "detectron2's names",
}
_ROPE_VIT = r"(?:^|\.)blocks\.0\.gamma_1$"  # LayerScale as DeiT III's authors and timm's `Eva` call it
_SURE = {768: "base", 1024: "large", 1280: "huge"}  # widths of which published plain ViTs have the same number of heads
_SIX = ("dino", "dinov2")  # whose ViT-S has DeiT's six heads
_SEVERAL = {192: "; MAE-Lite's ViT-Ti has 12", 384: "; MoCo v3's and SLIP's ViT-S have 12"}
_REGISTERS = (0, 4)  # of DINOv2
_ONE_HEAD = 64  # a ViT no wider than the usual head
_HF_HEADS = 12  # transformers' default of every plain ViT's configuration
_HF_EPS = {"dinov2": 1e-6, "dinov2_with_registers": 1e-6}  # transformers' default; 1e-12 of the other plain ViTs


def label_of_file(file: TensorFile) -> str:
    """The row of the tables that a file's name tells: its project's where that is published so, else the name itself."""
    stem = file.path.stem
    known = next((method for pattern, method in _FILES if re.match(pattern, stem)), None)
    return known or (file.path.absolute().parent.name if stem in _GENERIC else stem)


def label_of_model(name: str) -> str:
    """The row of the tables of timm's ``NAME.TAG``."""
    return _TAGS.get(name.partition(".")[2], name)


def method(file: TensorFile, named: Named) -> str:
    """The row of the tables: what the file or its configuration says, a project's own tensors, else the file's name."""
    told = (file.metadata or {}).get("method")
    if isinstance(told, str) and told:
        return told
    if model_type := file.config.get("model_type"):
        return _HF_METHODS.get(model_type, str(model_type))
    return _METHODS.get(named.layout) or label_of_file(file)


def net(file: TensorFile, named: Named, positions: str, prefix_positions: bool) -> str:
    """Where it is known from that a plain ViT's tensors are a plain ViT: the same names and shapes may mean another net.

    Args:
        positions: as `Architecture.positions`; `prefix_positions` likewise.

    Raises:
        UserError: published nets of both kinds have these very names and shapes.
    """
    if file.metadata is not None:
        return _OURS
    if file.config:
        return "config.json"
    if "blocks.0.attn.rel_bias" in named.encoder:
        return "BEiT's tables"
    if named.layout in _PROJECTS:
        return _PROJECTS[named.layout]
    if any(re.match(pattern, file.path.stem) for pattern, _ in _FILES):
        return f"the file's name ({file.path.stem})"
    if named.layout == "huggingface":
        return f"{ASSUMED}: a plain ViT by transformers' names, without a config.json of its own{_unread(file)}"
    if positions not in ("learnt", "none"):
        return "its fixed positions"
    if "cls_token" not in named.encoder:
        shared = "a plain ViT by names and shapes, which nets with residual post-norm and without class token share"
        return f"{ASSUMED}: {shared} (--arch says which it is{_unread(file)})"
    if not prefix_positions and any(re.search(_ROPE_VIT, name) for name in file.tensors):
        raise UserError(
            f"{file.path} has the tensors of a DeiT III and of a RoPE-ViT with learnt positions, whose rotary ones are in "
            "no file: say which (--arch timm:NAME; --arch vit_base_patch16 and the like for the plain ViT)"
        )
    return f"names and shapes, which only plain ViTs among the published nets have{_unread(file)}"


def _unread(file: TensorFile) -> str:
    return (
        "; the config.json beside it counts for model*.safetensors and the like alone" if file.has_unread_config else ""
    )


def heads(file: TensorFile, named: Named, positions: str, net_told_by: str) -> tuple[int | None, str]:
    """(attention heads, where that is known from); None where BEiT's tables tell.

    Args:
        positions: as `Architecture.positions`.
        net_told_by: of `net`.

    Raises:
        UserError: nothing tells.
    """
    if "blocks.0.attn.rel_bias" in named.encoder:
        return None, "the tensors"
    if file.config:
        said = "config.json" if "num_attention_heads" in file.config else "transformers' default"
        return int(file.config.get("num_attention_heads", _HF_HEADS)), said
    width = named.encoder["patch_embed.proj.weight"].shape[0]
    if named.layout == "moco_v3" and width == _MOCO_SMALL:
        return 12, "MoCo v3's ViT-S (vits.py)"
    arch = (file.metadata or {}).get("arch")
    if isinstance(arch, str):
        if ":" in arch:
            raise UserError(
                f"{file.path} is a result from {arch}, which is no file's architecture: start from {arch} itself"
            )
        return parse_arch(arch)[2], "the file's metadata"
    if positions == "sincos_rows_first" and width == _MOCO_SMALL:
        return 12, f"{ASSUMED}: its fixed positions are MoCo v3's, whose ViT-S has 12 (vits.py)"
    return _standard_heads(file, width, named.layout, net_told_by)


def _standard_heads(file: TensorFile, width: int, layout: str, net_told_by: str) -> tuple[int, str]:
    """Heads of a width that published ViTs have; a family's default where not all of them have the same."""
    known = not net_told_by.startswith(ASSUMED)
    for size, (preset, _, count) in SIZES.items():
        if preset == width:
            said = f"the standard size ({size})"
            if known and (width in _SURE or layout in _SIX):
                return count, said
            return count, f"{ASSUMED}: {said}{_SEVERAL.get(width, '')}"
    if width == _ONE_HEAD:
        return 1, f"{ASSUMED}: its width of {width}, one usual head"
    raise UserError(f"{file.path}: nothing tells how many heads a ViT of width {width} has: {way_out(file)}")


def way_out(file: TensorFile) -> str:
    """What to give for a bare file that does not say its model."""
    if file.has_unread_config:
        return (
            "say the model (--arch timm:NAME), or name it model.safetensors or pytorch_model.bin, so that the "
            "config.json beside it counts as its own"
        )
    return WAY_OUT


def norm_eps(file: TensorFile) -> float:
    """Epsilon of the layer norms."""
    default = 1e-6 if not file.config else _HF_EPS.get(str(file.config.get("model_type")), 1e-12)
    return float(file.config.get("layer_norm_eps", default))


def img_size(file: TensorFile) -> tuple[int, int] | None:
    """Pixels, (height, width), that it was trained at, where something tells."""
    size = (file.metadata or {}).get("img_size", file.config.get("image_size"))
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[1])) if isinstance(size, (list, tuple)) and len(size) == 2 else None


def preprocessing(file: TensorFile, named: Named, architecture: Architecture) -> Preprocessing:
    """What a plain ViT's file without a configuration tells; where it tells nothing, ImageNet's, as a default that says so."""
    size = architecture.img_size
    default = family_default(size, "such files say nothing, MAE, DINO, MoCo v3, DeiT and DINOv2 have it")
    if file.metadata is not None:
        return of_metadata(file, replace(default, source=dict.fromkeys(FACTS, _OURS)))
    mean, std = (_pixel_statistic(file.tensors, kind) for kind in ("mean", "std"))
    if mean is not None and std is not None:
        said = {**default.source, "mean": "the file (pixel_mean)", "std": "the file (pixel_std)"}
        return replace(default, mean=mean, std=std, source=said)
    if architecture.relative_bias and named.layout == "beit":
        return not_told(size, "BEiT has mean 0.5, BEiT v2 ImageNet's, and the files look alike")
    if not architecture.class_token and architecture.positions == "learnt" and named.layout == "timm":
        return not_told(size, "it has no class token, and files of such ViTs differ")
    if architecture.registers not in _REGISTERS and not architecture.prefix_positions:
        return not_told(size, f"it has {architecture.registers} registers, and files of such ViTs differ")
    return default


def _pixel_statistic(tensors: Mapping[str, Tensor], kind: str) -> tuple[float, float, float] | None:
    """detectron2's buffers, of pixels in 0..255, in the order of ViTDet's input (RGB)."""
    found = tensors.get(f"pixel_{kind}")
    if found is None or found.numel() != 3 or not found.any():
        return None
    first, second, third = (round(v / 255, 6) for v in found.flatten().tolist())
    return first, second, third


def of_metadata(file: TensorFile, default: Preprocessing) -> Preprocessing:
    """What a file of ours says (`Preprocessing.as_dict`); `default` where it says nothing."""
    told = (file.metadata or {}).get("preprocessing")
    if not isinstance(told, dict):
        return default
    try:
        mean, std = (tuple(float(v) for v in told[kind]) for kind in ("mean", "std"))
        crop_pct, crop_mode = float(told["crop_pct"]), str(told.get("crop_mode", "center"))
        source = dict.fromkeys(FACTS, _OURS)
        return Preprocessing(
            mean,  # type: ignore[arg-type]
            std,  # type: ignore[arg-type]
            str(told["interpolation"]),
            crop_pct,
            default.img_size,
            crop_mode,
            source,
        )
    except (KeyError, TypeError, ValueError) as e:
        raise UserError(f"{file.path}: preprocessing in its metadata: {type(e).__name__} {e}") from e


def settings(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Flat pre-training settings of our own files."""
    pretraining = metadata.get("pretraining")
    found = pretraining.get("settings") if isinstance(pretraining, dict) else None
    return found if isinstance(found, dict) else {}


def target_normalised(file: TensorFile) -> bool | None:
    """Whether a decoder predicts normalised pixels, where something tells."""
    told = settings(file.metadata or {})
    if "mae.target" in told:
        return bool(told["mae.target"] == "pixels_norm")
    said = file.config.get("norm_pix_loss", file.args.get("norm_pix_loss"))
    return said if isinstance(said, bool) else None


def decoder_heads(file: TensorFile) -> int:
    """Attention heads of the decoder; the official code's where nothing tells."""
    told = settings(file.metadata or {}).get("mae.decoder_num_heads", file.config.get("decoder_num_attention_heads"))
    return int(told) if told else OFFICIAL_DECODER_HEADS
