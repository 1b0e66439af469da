"""Files as their authors publish them, told by names that only one family has: which of timm's models they are.

Which size a file is, its tensors tell: the model that every tensor has its place in. Where two models of timm's fit alike (GELU
or quick GELU), or weights of one model were trained with other preprocessing, that is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import timm
from timm.data import resolve_data_config
from timm.models import get_arch_pretrained_cfgs

from backbones.encoders.preprocessing import Preprocessing, not_told
from backbones.encoders.timm_models import Tensors, TimmModel, fit, registered
from backbones.errors import UserError

OPEN_CLIP = "open_clip_config.json"


@dataclass(frozen=True)
class Published:
    """A family's files.

    Attributes:
        name: for people.
        marks: each matches the name of some tensor.
        models: patterns of timm's names among which the file is.
    """

    name: str
    marks: tuple[str, ...]
    models: tuple[str, ...]


# The first whose marks are all found.
FAMILIES = (
    Published("DINOv3", (r"storage_tokens$", r"blocks\.0\."), ("vit_*_dinov3*",)),
    Published(
        "DINOv2 with SwiGLU", (r"blocks\.0\.mlp\.w12\.weight$", r"blocks\.0\.ls1\.gamma$"), ("vit_giant_*_dinov2",)
    ),
    Published("EVA-02", (r"(?:.+\.)?blocks\.0\.mlp\.w12?\.weight$", r"(?:.+\.)?pos_embed$"), ("eva02_*",)),
    Published("SigLIP", (r"attn_pool\.latent$", r"blocks\.0\.attn\.qkv\."), ("vit_*_siglip_*",)),
    Published(
        "OpenCLIP and Perception Encoder",
        (r"(?:module\.)?(?:visual\.)?conv1\.weight$", r"(?:module\.)?(?:visual\.)?transformer\.resblocks\.0\."),
        ("vit_*_clip_*", "vit_pe_*"),
    ),
)
_TEXT = r"(?:.*\.)?(?:token_embedding|text_model|word_embeddings)\b"


def recognise(tensors: Tensors, path: object, open_clip: Mapping[str, Any]) -> TimmModel | None:
    """The model that a published file holds; None for a file of another kind.

    Args:
        open_clip: the ``open_clip_config.json`` beside it, empty where there is none.

    Raises:
        UserError: of a family that is known, but of no size that timm has, or of several; a text tower.
    """
    told = open_clip.get("model_cfg", {}).get("vision_cfg", {})
    if name := told.get("timm_model_name"):
        return replace(registered(name), told_by=OPEN_CLIP)
    family = next((f for f in FAMILIES if all(_any(mark, tensors) for mark in f.marks)), None)
    if family is None:
        if _any(_TEXT, tensors) and not _any(r".*(?:patch_embed|conv1|visual|vision)", tensors):
            raise UserError(f"{path} is a text encoder: give the image encoder")
        return None
    fitting = _fitting(family, tensors, path)
    if not fitting:
        raise UserError(
            f"{path} has the names of {family.name}, but no size that timm has: say the model (--arch timm:NAME)"
        )
    quick = open_clip.get("model_cfg", {}).get("quick_gelu", False) if open_clip else None
    chosen = [name for name in fitting if quick is None or ("quickgelu" in name) == quick]
    if len(chosen) != 1:
        raise UserError(
            f"{path} may be {' or '.join(chosen or fitting)}, whose tensors are alike: say which (--arch timm:NAME)"
        )
    return replace(registered(chosen[0]), told_by=f"names and shapes of {family.name}'s files")


def preprocessing(model: TimmModel, stem: str, open_clip: Mapping[str, Any]) -> Preprocessing:
    """Of a recognised file: its configuration's, else what all weights of the model were published with.

    Args:
        stem: the file's name, which may tell which of several weights it is, as ``dinov3_vitl16_pretrain_sat493m-…`` does.
    """
    found = model.preprocessing()
    if said := open_clip.get("preprocess_cfg"):
        modes = {"shortest": "center", "squash": "squash", "longest": "border"}
        told = {key: said.get(key) for key in ("mean", "std", "interpolation")}
        mode = modes.get(said.get("resize_mode", "shortest"), "center")
        source = {**found.source, **dict.fromkeys((*(k for k, v in told.items() if v), "crop_mode"), OPEN_CLIP)}
        return replace(found.overridden(**told), crop_mode=mode, crop_pct=1.0, source={**source, "crop_pct": OPEN_CLIP})
    variants = dict(get_arch_pretrained_cfgs(model.name))
    facts = {tag: _statistics(cfg) for tag, cfg in variants.items()}
    if len(set(facts.values())) <= 1:
        return found
    named = [
        full for full in variants if (tag := full.partition(".")[2]) and any(part in stem for part in tag.split("_"))
    ]
    if len({facts[full] for full in named}) == 1:
        return replace(registered(named[0]), told_by=f"the file's name ({named[0]})").preprocessing()
    return not_told(found.img_size, f"weights of {model.name} were published with several")


def _statistics(cfg: Any) -> tuple[Any, ...]:
    found = resolve_data_config(pretrained_cfg=cfg.to_dict(), args={})
    return tuple(found["mean"]), tuple(found["std"])


def _any(mark: str, names: Iterable[str]) -> bool:
    return any(re.match(mark, name) for name in names)


def _fitting(family: Published, tensors: Tensors, path: object) -> list[str]:
    """The models that have a place for most of the file: more than one only when their tensors are alike."""
    shapes = {name: t.to("meta") for name, t in tensors.items()}
    first_block = {name: t for name, t in shapes.items() if not re.search(r"blocks\.[1-9]\d*\.", name)}
    used: dict[str, int] = {}
    for name in sorted({name for pattern in family.models for name in timm.list_models(pattern)}):
        cfg = registered(name).cfg
        # Of one block first: most are of another width, and a whole model takes a second to make.
        if _uses(TimmModel(name, {"depth": 1}, cfg), first_block, path):
            used[name] = _uses(TimmModel(name, {}, cfg), shapes, path)
    return [name for name, count in used.items() if count and count == max(used.values())]


def _uses(model: TimmModel, tensors: Tensors, path: object) -> int:
    """Numbers that the model takes of the file; 0 when it is another model's."""
    try:
        return sum(t.numel() for t in fit(model, tensors, path)[0].values())
    except UserError:
        return 0
