"""Hugging Face's classes beyond the plain ViT, as timm's models: which model a configuration is, what its tensors are called.

A folder is read, no code of it or of transformers runs. What ``config.json`` leaves out is the default of transformers' class.
Tests compare every family with the class's own forward pass. The plain ViTs (ViT, ViTMAE, DeiT, BEiT, Data2Vec, DINOv2) are
`backbones.checkpoints.read_layouts`'s.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from backbones.encoders.timm_models import TimmModel, norm
from backbones.errors import UserError

Config = Mapping[str, Any]
Tensors = dict[str, Tensor]
Renames = tuple[tuple[str, str], ...]

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
}


@dataclass(frozen=True)
class Family:
    """One class of transformers'.

    Attributes:
        base: model of timm's that `arguments` vary.
        anchor: matches the name of a tensor that each such file has; group ``prefix`` stands before all of the encoder's names.
        defaults: of the configuration, where transformers' class has them.
        arguments: (configuration, tensors) -> of timm's model.
        renames: in turn.
        aside: names that are known and are not the encoder's (text tower, projections, training).
        together: what timm has in other pieces.
    """

    base: str
    anchor: str
    defaults: Config
    arguments: Callable[[Config, Tensors], dict[str, Any]]
    renames: Renames
    aside: str = "(?!)"
    together: Callable[[Tensors, Config], Tensors] = lambda tensors, config: tensors


def family_of(config: Config) -> Family | None:
    """The family of a configuration's ``model_type``; None for one that is no business of this file."""
    kind = str(config.get("model_type"))
    if kind.startswith("dinov2"):
        return _DINOV2_SWIGLU if config.get("use_swiglu_ffn") else None
    return FAMILIES.get(kind)


def convert(config: Config, tensors: Tensors, path: object) -> tuple[TimmModel, Tensors, list[str]]:
    """(timm's model, tensors under its names, names left aside) of a Hugging Face folder.

    Raises:
        UserError: tensors of another class, or a setting that timm's model does not have.
    """
    family = family_of(config)
    assert family is not None
    own = config["vision_config"] if isinstance(config.get("vision_config"), dict) else config
    own = {**family.defaults, **own}
    prefix = next((m["prefix"] for name in tensors if (m := re.fullmatch(family.anchor, name))), None)
    if prefix is None:
        raise UserError(f"{path}: config.json says {config['model_type']}, the tensors are others ({_first(tensors)})")
    inside = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    aside = [name for name in tensors if not name.startswith(prefix)]
    aside += [prefix + name for name in inside if re.match(family.aside, name)]
    inside = {name: t for name, t in inside.items() if not re.match(family.aside, name)}
    try:
        args = family.arguments(own, inside)
    except (KeyError, TypeError, ValueError) as e:
        raise UserError(f"{path}: config.json of a {config['model_type']}: {type(e).__name__}: {e}") from e
    renamed = {rename(name, family.renames): t for name, t in inside.items()}
    size = args["img_size"] if "img_size" in args else own.get("image_size", 224)
    size = (size, size) if isinstance(size, int) else tuple(size)
    model = TimmModel(
        family.base,
        {k: v for k, v in args.items() if k != "final_norm_eps"},
        {"input_size": (3, *size), "fixed_input_size": "img_size" in args},
        f"config.json ({config['model_type']})",
        label=_label(str(config["model_type"]), args),
        final_norm_eps=args.get("final_norm_eps"),
    )
    return model, family.together(renamed, own), aside


def _label(kind: str, args: Mapping[str, Any]) -> str:
    """Such as ``siglip_w768_d12_patch16`` or ``swin_w96_d2-2-6-2``."""
    depth = args.get("depths", args.get("stages", args.get("depth")))
    width = args["dims"][0] if "dims" in args else args["embed_dim"]
    patch = f"_patch{args['patch_size']}" if "depth" in args else ""
    layers = "-".join(map(str, depth)) if isinstance(depth, (list, tuple)) else depth
    return f"{kind.removesuffix('_vision_model')}_w{width}_d{layers}{patch}"


def rename(name: str, renames: Renames) -> str:
    """`name` after each of `renames` in turn."""
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def activation(config: Config, *allowed: str) -> str:
    """timm's name of ``hidden_act``.

    Raises:
        ValueError: one that timm's model cannot have.
    """
    found = _ACTIVATIONS.get(str(config["hidden_act"]))
    if found is None or (allowed and found not in allowed):
        raise ValueError(f"hidden_act {config['hidden_act']} has no counterpart")
    return found


def _vit(config: Config, kind: str = "LayerNorm", eps: str = "layer_norm_eps") -> dict[str, Any]:
    """What all plain Transformers share."""
    width, hidden = config["hidden_size"], config["intermediate_size"]
    return {
        "img_size": config["image_size"],
        "patch_size": config["patch_size"],
        "embed_dim": width,
        "depth": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "mlp_ratio": (hidden + 0.5) / width,  # timm truncates the product
        "norm_layer": norm(kind, config[eps]),
    }


def _clip(config: Config, tensors: Tensors) -> dict[str, Any]:
    return {**_vit(config), "act_layer": activation(config)}


def _siglip(config: Config, tensors: Tensors) -> dict[str, Any]:
    size = config.get("image_size")
    if size is None:  # SigLIP 2 of variable resolution is used at the grid of its positions
        size = math.isqrt(config["num_patches"]) * config["patch_size"]
    pooled = any(name.startswith("head.") for name in tensors)
    return {
        **_vit({**config, "image_size": size}),
        "act_layer": activation(config),
        "global_pool": "map" if pooled else "avg",
        "fc_norm": False,
    }


def _aimv2(config: Config, tensors: Tensors) -> dict[str, Any]:
    if config.get("is_native"):
        raise ValueError("is_native: positions of variable resolution have no counterpart")
    activation(config, "silu")
    args = _vit(config, "RmsNorm", "rms_norm_eps")
    bias = config["qkv_bias"]
    if bias or config["mlp_bias"]:
        raise ValueError("qkv_bias, mlp_bias: biases have no counterpart")
    return {**args, "embed_norm_layer": args["norm_layer"]}


def _dinov3(config: Config, tensors: Tensors) -> dict[str, Any]:
    gated = config["use_gated_mlp"]
    activation(config, "silu" if gated else "gelu")
    if not (config["query_bias"] and config["value_bias"] and not config["key_bias"]):
        raise ValueError("query_bias, key_bias, value_bias: others than DINOv3's have no counterpart")
    return {
        **_vit(config),
        "num_reg_tokens": config["num_register_tokens"],
        "rope_temperature": config["rope_theta"],
        "swiglu_mlp": gated,
        "swiglu_align_to": 1 if gated else 0,
        "global_pool": "token",
    }


def _dinov2_swiglu(config: Config, tensors: Tensors) -> dict[str, Any]:
    hidden = next(
        t.shape[1]
        for name, t in tensors.items()
        if re.search(r"layer\.0\.mlp\.(?:weights_out|down_proj)\.weight$", name)
    )
    registers = config.get("num_register_tokens", 4) if config["model_type"] == "dinov2_with_registers" else 0
    return {
        **_vit({**config, "intermediate_size": 2 * hidden}),
        "reg_tokens": registers,
        "no_embed_class": registers > 0,
    }


def _dinov2_pieces(tensors: Tensors, config: Config) -> Tensors:
    """Gate and value in one; registers bear no positions in timm, so the class token's is added to it."""
    found = fused(tensors)
    for name in [name for name in found if ".mlp.gate_proj." in name]:
        value = name.replace("gate_proj", "up_proj")
        found[name.replace("gate_proj", "fc1")] = torch.cat([found.pop(name), found.pop(value)])
    if "reg_token" in found:
        positions = found["pos_embed"]
        found["cls_token"], found["pos_embed"] = found["cls_token"] + positions[:, :1], positions[:, 1:]
    return found


def _swin(config: Config, tensors: Tensors) -> dict[str, Any]:
    activation(config, "gelu")
    if config["use_absolute_embeddings"]:
        raise ValueError("use_absolute_embeddings has no counterpart")
    names = ("img_size", "patch_size", "embed_dim", "depths", "num_heads", "window_size", "mlp_ratio", "qkv_bias")
    args = {name: config["image_size" if name == "img_size" else name] for name in names}
    if not args.pop("qkv_bias"):
        args["qkv_bias"] = False
    return {**args, "norm_layer": norm("LayerNorm", config["layer_norm_eps"])}


def _convnext(config: Config, tensors: Tensors) -> dict[str, Any]:
    activation(config, "gelu")
    if config["patch_size"] != 4:
        raise ValueError(f"patch_size {config['patch_size']}: not 4")
    return {
        "depths": tuple(config["depths"]),
        "dims": tuple(config["hidden_sizes"]),
        "final_norm_eps": config[
            "layer_norm_eps"
        ],  # inside, transformers' class has 1e-6 whatever its configuration says
    }


def _hiera(config: Config, tensors: Tensors) -> dict[str, Any]:
    activation(config, "gelu")
    heads = list(config["num_heads"])
    stages = len(heads)
    ratio = heads[1] / heads[0]
    if heads != [round(heads[0] * ratio**i) for i in range(stages)]:
        raise ValueError(f"num_heads {heads}: no geometric series")
    return {
        "img_size": tuple(config["image_size"]),
        "embed_dim": config["embed_dim"],
        "num_heads": heads[0],
        "head_mul": ratio,
        "stages": tuple(config["depths"]),
        "q_pool": config["num_query_pool"],
        "q_stride": tuple(config["query_stride"]),
        "mask_unit_size": tuple(config["masked_unit_size"]),
        "mask_unit_attn": tuple(config["masked_unit_attention"]),
        "dim_mul": config["embed_dim_multiplier"],
        "patch_kernel": tuple(config["patch_size"]),
        "patch_stride": tuple(config["patch_stride"]),
        "patch_padding": tuple(config["patch_padding"]),
        "mlp_ratio": config["mlp_ratio"],
        "norm_layer": norm("LayerNorm", config["layer_norm_eps"]),
    }


def fused(tensors: Tensors) -> Tensors:
    """``attn.{q,k,v}.*`` as one ``attn.qkv.*``; biases of which some are missing as timm's separate ``q_bias``, ``v_bias``."""
    merged = dict(tensors)
    for name in [name for name in tensors if name.endswith("attn.q.weight")]:
        stem = name.removesuffix("q.weight")
        merged[f"{stem}qkv.weight"] = torch.cat([merged.pop(f"{stem}{part}.weight") for part in "qkv"])
        biases = [merged.pop(f"{stem}{part}.bias", None) for part in "qkv"]
        query, key, value = biases
        if query is not None and value is not None:
            if key is None:
                merged[f"{stem}q_bias"], merged[f"{stem}v_bias"] = query, value
            else:
                merged[f"{stem}qkv.bias"] = torch.cat([query, key, value])
    return merged


def _positions_first(tensors: Tensors, config: Config) -> Tensors:
    """(tokens, width) positions with a batch dimension, a class embedding (width) with two, linear patches as a kernel."""
    found = fused(tensors)
    if "pos_embed" in found:
        found["pos_embed"] = found["pos_embed"].reshape(1, -1, found["pos_embed"].shape[-1])
    if "cls_token" in found:
        found["cls_token"] = found["cls_token"].reshape(1, 1, -1)
    kernel = found["patch_embed.proj.weight"]
    if kernel.ndim == 2:  # rows, columns, channels of a patch
        patch = config["patch_size"]
        found["patch_embed.proj.weight"] = kernel.reshape(-1, patch, patch, 3).permute(0, 3, 1, 2)
    return _attention_pool(found)


def _attention_pool(tensors: Tensors) -> Tensors:
    for kind in ("weight", "bias"):
        joint = tensors.pop(f"attn_pool.in_proj_{kind}", None)
        if joint is not None:
            width = len(joint) // 3
            tensors[f"attn_pool.q.{kind}"], tensors[f"attn_pool.kv.{kind}"] = joint[:width], joint[width:]
    return tensors


def _hiera_blocks(tensors: Tensors, config: Config) -> Tensors:
    """Blocks counted through all stages."""
    starts = [sum(config["depths"][:i]) for i in range(len(config["depths"]))]

    def through(match: re.Match[str]) -> str:
        return f"blocks.{starts[int(match[1])] + int(match[2])}."

    return {re.sub(r"^stages\.(\d+)\.layers\.(\d+)\.", through, name): t for name, t in tensors.items()}


def _flat_gamma(tensors: Tensors, config: Config) -> Tensors:
    return {name: t.flatten() if ".grn." in name else t for name, t in tensors.items()}


_ATTENTION: Renames = (
    (r"(?:self_attn|attention)\.(?:self\.|attention\.)?(?:q_proj|query)\.", "attn.q."),
    (r"(?:self_attn|attention)\.(?:self\.|attention\.)?(?:k_proj|key)\.", "attn.k."),
    (r"(?:self_attn|attention)\.(?:self\.|attention\.)?(?:v_proj|value)\.", "attn.v."),
    (r"(?:self_attn|attention)\.(?:out_proj|o_proj|output\.dense)\.", "attn.proj."),
)
_TOWER: Renames = (  # CLIP's and SigLIP's vision towers
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.attention\.", "attn_pool."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.", "attn_pool."),
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^post_layernorm\.", "norm."),
    (r"^encoder\.layers\.", "blocks."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    *_ATTENTION,
)
_TOWER_ASIDE = (
    r"(?:text_model|text_projection|visual_projection|logit_scale|logit_bias|classifier)|embeddings\.position_ids"
)
_CLIP = Family(
    "vit_base_patch32_clip_224",
    r"(?P<prefix>(?:.+\.)?)embeddings\.class_embedding",
    {
        **{"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
        **{"image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    },
    _clip,
    _TOWER,
    _TOWER_ASIDE,
    _positions_first,
)
_SIGLIP_DEFAULTS = {
    **{"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    **{"patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
}
_SIGLIP = Family(
    "vit_base_patch16_siglip_224",
    r"(?P<prefix>(?:.+\.)?)embeddings\.patch_embedding\.weight",
    {**_SIGLIP_DEFAULTS, "image_size": 224},
    _siglip,
    _TOWER,
    _TOWER_ASIDE,
    _positions_first,
)
_SIGLIP2 = replace(_SIGLIP, defaults={**_SIGLIP_DEFAULTS, "num_patches": 256})
_AIMV2 = Family(
    "aimv2_large_patch14_224",
    r"(?P<prefix>(?:.+\.)?)embeddings\.patch_embed\.weight",
    {
        **{"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24, "num_attention_heads": 8},
        **{"image_size": 224, "patch_size": 14, "hidden_act": "silu", "rms_norm_eps": 1e-5},
        **{"qkv_bias": False, "mlp_bias": False, "is_native": False},
    },
    _aimv2,
    (
        (r"^embeddings\.patch_embed\.", "patch_embed.proj."),
        (r"^embeddings\.rms_norm\.", "patch_embed.norm."),
        (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
        (r"^rms_norm\.", "norm."),
        (r"^encoder\.layers\.", "blocks."),
        (r"\.rms_norm(\d)\.", r".norm\1."),
        (r"\.ffn\.gate_proj\.", ".mlp.fc1_g."),
        (r"\.ffn\.up_proj\.", ".mlp.fc1_x."),
        (r"\.ffn\.down_proj\.", ".mlp.fc2."),
        *_ATTENTION,
    ),
    # Its pooling by attention, which the language model is trained with, has no counterpart.
    rf"head\.|embeddings\.position_ids|{_TOWER_ASIDE}",
    _positions_first,
)
_DINOV2_SWIGLU = Family(
    "vit_giant_patch14_dinov2",
    r"(?P<prefix>(?:.+\.)?)embeddings\.patch_embeddings\.projection\.weight",
    {
        **{"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 224, "patch_size": 14},
        **{"layer_norm_eps": 1e-6},
    },
    _dinov2_swiglu,
    (
        (r"^embeddings\.cls_token$", "cls_token"),
        (r"^embeddings\.register_tokens$", "reg_token"),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^layernorm\.", "norm."),
        (r"^encoder\.layer\.", "blocks."),
        (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
        (r"\.mlp\.weights_in\.", ".mlp.fc1."),
        (r"\.mlp\.(?:weights_out|down_proj)\.", ".mlp.fc2."),
        *_ATTENTION,
    ),
    r"embeddings\.mask_token|classifier\.",
    _dinov2_pieces,
)
_DINOV3 = Family(
    "vit_small_patch16_dinov3_qkvb",
    r"(?P<prefix>(?:.+\.)?)embeddings\.patch_embeddings\.weight",
    {
        **{"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 6},
        **{"image_size": 224, "patch_size": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-5, "rope_theta": 100.0},
        **{"query_bias": True, "key_bias": False, "value_bias": True, "use_gated_mlp": False, "num_register_tokens": 0},
    },
    _dinov3,
    (
        (r"^embeddings\.cls_token$", "cls_token"),
        (r"^embeddings\.register_tokens$", "reg_token"),
        (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
        (r"^(?:model\.)?layer\.", "blocks."),
        (r"\.layer_scale(\d)\.lambda1$", r".gamma_\1"),
        (r"\.mlp\.gate_proj\.", ".mlp.fc1_g."),
        *_ATTENTION,
    ),
    r"embeddings\.mask_token|rope_embeddings\.",
    lambda tensors, config: {
        rename(
            name,
            (
                (r"\.mlp\.up_proj\.", ".mlp.fc1_x." if config["use_gated_mlp"] else ".mlp.fc1."),
                (r"\.mlp\.down_proj\.", ".mlp.fc2."),
            ),
        ): t
        for name, t in fused(tensors).items()
    },
)
_SWIN = Family(
    "swin_tiny_patch4_window7_224",
    r"(?P<prefix>(?:.+\.)?)embeddings\.patch_embeddings\.projection\.weight",
    {
        **{"image_size": 224, "patch_size": 4, "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]},
        **{"window_size": 7, "mlp_ratio": 4.0, "qkv_bias": True, "hidden_act": "gelu", "layer_norm_eps": 1e-5},
        **{"use_absolute_embeddings": False},
    },
    _swin,
    (
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^embeddings\.norm\.", "patch_embed.norm."),
        (r"^layernorm\.", "norm."),
        (r"^encoder\.layers\.", "layers."),
        (r"\.(?:attention|attn)\.(?:self\.)?relative_position_bias_table$", ".attn.relative_position_bias_table"),
        *_ATTENTION,
        (r"\.(?:intermediate\.dense|mlp\.fc1)\.", ".mlp.fc1."),
        (r"(\.blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
    ),
    r"classifier\.|embeddings\.mask_token|.*relative_position_index",
    # transformers downsamples at the end of a stage, timm at the beginning of the next.
    lambda tensors, config: {
        re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) + 1}.downsample.", name): t
        for name, t in fused(tensors).items()
    },
)
_CONVNEXT = Family(
    "convnext_tiny",
    r"(?P<prefix>(?:.+\.)?)embeddings\.patch_embeddings\.weight",
    {
        **{"hidden_sizes": [96, 192, 384, 768], "depths": [3, 3, 9, 3], "patch_size": 4, "hidden_act": "gelu"},
        **{"layer_norm_eps": 1e-12, "image_size": 224},
    },
    _convnext,
    (
        (r"^embeddings\.patch_embeddings\.", "stem.0."),
        (r"^embeddings\.layernorm\.", "stem.1."),
        (r"^layernorm\.", "head.norm."),
        (r"^encoder\.stages\.", "stages."),
        (r"\.downsampling_layer\.", ".downsample."),
        (r"\.layers\.", ".blocks."),
        (r"\.layer_scale_parameter$", ".gamma"),
        (r"\.dwconv\.", ".conv_dw."),
        (r"\.layernorm\.", ".norm."),
        (r"\.pwconv(\d)\.", r".mlp.fc\1."),
        (r"\.grn\.", ".mlp.grn."),
    ),
    r"classifier\.",
    _flat_gamma,
)
_CONVNEXT2 = replace(_CONVNEXT, base="convnextv2_tiny")
_DINOV3_CONVNEXT = Family(
    _CONVNEXT.base,
    r"(?P<prefix>(?:.+\.)?)stages\.0\.downsample_layers\.0\.weight",
    {**_CONVNEXT.defaults, "layer_norm_eps": 1e-6},
    _convnext,
    (
        (r"^stages\.0\.downsample_layers\.", "stem."),
        (r"\.downsample_layers\.", ".downsample."),
        (r"^layer_norm\.", "head.norm."),
        (r"\.layers\.", ".blocks."),
        (r"\.depthwise_conv\.", ".conv_dw."),
        (r"\.layer_norm\.", ".norm."),
        (r"\.pointwise_conv(\d)\.", r".mlp.fc\1."),
    ),
)
_HIERA = Family(
    "hiera_tiny_224",
    r"(?P<prefix>(?:.+\.)?)embeddings\.patch_embeddings\.projection\.weight",
    {
        **{"image_size": [224, 224], "embed_dim": 96, "depths": [2, 3, 16, 3], "num_heads": [1, 2, 4, 8]},
        **{"patch_size": [7, 7], "patch_stride": [4, 4], "patch_padding": [3, 3], "mlp_ratio": 4.0},
        **{"embed_dim_multiplier": 2.0, "num_query_pool": 3, "query_stride": [2, 2], "masked_unit_size": [8, 8]},
        **{"masked_unit_attention": [True, True, False, False], "hidden_act": "gelu", "layer_norm_eps": 1e-6},
    },
    _hiera,
    (
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^encoder\.stages\.", "stages."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"^pooler\.layernorm\.", "head.norm."),
    ),
    r"classifier\.|decoder|multiscale_fusion|mask_token",
    _hiera_blocks,
)
FAMILIES: dict[str, Family] = {
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "siglip2": _SIGLIP2,
    "siglip2_vision_model": _SIGLIP2,
    "aimv2": _AIMV2,
    "aimv2_vision_model": _AIMV2,
    "dinov3_vit": _DINOV3,
    "dinov3_convnext": _DINOV3_CONVNEXT,
    "swin": _SWIN,
    "convnext": _CONVNEXT,
    "convnextv2": _CONVNEXT2,
    "hiera": _HIERA,
}
PLAIN = ("vit", "vit_mae", "deit", "beit", "data2vec-vision", "dinov2", "dinov2_with_registers")
"""``model_type`` of the classes that are plain ViTs."""


def _first(names: Tensors) -> str:
    return ", ".join(list(names)[:3]) + " …"
