"""Whose names a checkpoint's tensors bear, and how those become ours (timm's `VisionTransformer`, official MAE decoder).

A layout is data: how to recognise it, what each name becomes, what is left aside. Reading files is
`backbones.files.tensor_files`'s;
what the tensors amount to, `backbones.checkpoints.architecture`'s.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from backbones.checkpoints.not_plain import SAY_MODEL
from backbones.errors import UserError
from backbones.vit.relative import tables_of_beit

Renames = tuple[tuple[str, str], ...]  # (regular expression, replacement), applied in turn

OFFICIAL_DECODER_HEADS = 16  # of every size (models_mae.py); official files say nothing of them
_BLOCK = r"^blocks\.(\d+)\."


@dataclass(frozen=True)
class Layout:
    """One project's names.

    Attributes:
        name: for people; ``layout`` in records.
        anchor: matches the name of the patch embedding's weight; group ``prefix`` stands before all of the encoder's names.
        marks: each matches some name of the file, in addition; tells layouts apart that share an anchor.
        encoder: renames of what stands behind the prefix.
        rest: renames of the other names, to those of a decoder or head; what they leave as it is is left aside.
        aside: names behind the prefix that are known and are not the encoder's.
    """

    name: str
    anchor: str
    marks: tuple[str, ...] = ()
    encoder: Renames = ()
    rest: Renames = ()
    aside: str = "(?!)"


@dataclass
class Named:
    """A checkpoint's tensors under our names."""

    layout: str
    encoder: dict[str, Tensor]
    decoder: dict[str, Tensor] = field(default_factory=dict)
    head: dict[str, Tensor] = field(default_factory=dict)
    heads: dict[str, Tensor] = field(default_factory=dict)  # of a detector or segmenter, and `REL_POS` tables
    task: str | None = None  # detection or segmentation, by the heads' names
    aside: list[str] = field(default_factory=list)  # names in the file that nothing was made of


_TIMM_ANCHOR = r"(?P<prefix>(?:.+\.)?)patch_embed\.proj\.weight"
_HF_BLOCK: Renames = (
    (r"(?:encoder\.layer|decoder_encoder\.layer|decoder_layers|layers)\.(\d+)\.", r"blocks.\1."),
    (r"attention\.(?:attention\.query|q_proj)\.", "attn.q."),
    (r"attention\.(?:attention\.key|k_proj)\.", "attn.k."),
    (r"attention\.(?:attention\.value|v_proj)\.", "attn.v."),
    (r"attention\.(?:output\.dense|o_proj)\.", "attn.proj."),
    (r"intermediate\.dense\.", "mlp.fc1."),
    (r"(blocks\.\d+\.)output\.dense\.", r"\1mlp.fc2."),
    (r"(blocks\.\d+\.)layernorm_before\.", r"\1norm1."),
    (r"(blocks\.\d+\.)layernorm_after\.", r"\1norm2."),
    (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
    (r"lambda_(\d)$", r"ls\1.gamma"),
    (
        r"(?:attention\.attention\.)?relative_position_bias\.relative_position_bias_table",
        "attn.relative_position_bias_table",
    ),
)
_MM_BLOCK: Renames = (
    (r"(?<!ffn\.)layers\.(\d+)\.", r"blocks.\1."),
    (r"\.attn\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.attn\.out_proj\.", ".attn.proj."),
    (r"(blocks\.\d+\.)(?:ln|norm)(\d)\.", r"\1norm\2."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"(blocks\.\d+\.)(?:attn\.)?gamma_?1(?:\.weight)?$", r"\1ls1.gamma"),
    (r"(blocks\.\d+\.)(?:ffn\.)?gamma_?2(?:\.weight)?$", r"\1ls2.gamma"),
)
_BEIT_ASIDE = r"mask_token$|lm_head\.|.*relative_position_index$"

# The first whose anchor and mark are found. Names are those of the files that these projects publish; tests write them.
LAYOUTS = (
    Layout(
        "huggingface",
        anchor=r"(?P<prefix>(?:.+\.)?)embeddings\.patch_embeddings\.projection\.weight",
        encoder=(
            (r"^embeddings\.cls_token$", "cls_token"),
            (r"^embeddings\.distillation_token$", "dist_token"),
            (r"^embeddings\.register_tokens$", "register_tokens"),
            (r"^embeddings\.position_embeddings$", "pos_embed"),
            (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
            (r"^encoder\.relative_position_bias\.", "rel_pos_bias."),
            *_HF_BLOCK,
            (r"^layernorm\.", "norm."),
            (r"^pooler\.layernorm\.", "fc_norm."),
        ),
        rest=(
            (r"^decoder\.(?=decoder_|mask_token)", ""),
            *_HF_BLOCK,
            (r"^(?:decoder\.)?blocks\.", "decoder_blocks."),
            (r"^classifier\.", "head."),
        ),
        aside=r"pooler\.dense\.|embeddings\.mask_token$|.*relative_position_index$",
    ),
    Layout(
        "openmmlab",
        anchor=r"(?P<prefix>(?:.+\.)?)patch_embed\.projection\.weight",
        encoder=(
            (r"^patch_embed\.projection\.", "patch_embed.proj."),
            *_MM_BLOCK,
            (r"^ln1\.", "norm."),
            (r"^ln2\.", "fc_norm."),
        ),
        rest=(
            (r"^neck\.(?:ln1|decoder_norm)\.", "decoder_norm."),
            (r"^neck\.decoder_blocks\.", "neck.layers."),
            *_MM_BLOCK,
            (r"^neck\.blocks\.", "decoder_blocks."),
            (r"^neck\.(?=mask_token|decoder_)", ""),
            (r"^head\.(?:layers\.head|fc)\.", "head."),
            (r"^(?=(?:neck|decode_head|auxiliary_head)\.)", "net."),
        ),
        aside=_BEIT_ASIDE,
    ),
    Layout("vitdet", anchor=r"(?P<prefix>(?:.+\.)?net\.)patch_embed\.proj\.weight"),
    Layout("moco_v3", anchor=r"(?P<prefix>(?:.+\.)?base_encoder\.)patch_embed\.proj\.weight", aside=r"head\."),
    Layout("dinov2", anchor=_TIMM_ANCHOR, marks=(r"(?:.+\.)?register_tokens$",), aside=r"mask_token$"),
    Layout(
        "dinov2",
        anchor=_TIMM_ANCHOR,
        marks=(r"(?:.+\.)?mask_token$", r"(?:.+\.)?blocks\.(?:\d+\.)*ls1\.gamma$"),
        aside=r"mask_token$",
    ),
    Layout(
        "dino",
        anchor=r"(?P<prefix>(?:.+\.)?backbone\.)patch_embed\.proj\.weight",
        marks=(r"(?:.+\.)?(?:dino_)?head\.(?:mlp|last_layer)\.",),
    ),
    Layout("beit", anchor=_TIMM_ANCHOR, marks=(r".*(?:relative_position_bias_table|\.q_bias)$",), aside=_BEIT_ASIDE),
    Layout("mae", anchor=_TIMM_ANCHOR, marks=(r"(?:.+\.)?decoder_embed\.weight$",), aside="tokenizer\\."),
    Layout("timm", anchor=_TIMM_ANCHOR, aside=r"mask_token$|pre_logits\."),
)
_HEAD = r"head\.|fc_norm\.|attn_pool\.|head_dist\."
_DECODER = r"decoder_|mask_token$"
REL_POS = r"blocks\.\d+\.attn\.rel_pos_[hw]"  # decomposed relative positions, which only dense tasks have
# Names that a trained model of a dense task has; all that lies outside its encoder is then its heads.
_DENSE_TASKS = {"detection": r"(?:proposal_generator|roi_heads)\.", "segmentation": r"net\.decode_head\."}
_STATISTICS = r"pixel_(?:mean|std)$|net\.data_preprocessor\.|data_preprocessor\."


def read_names(path: object, tensors: Mapping[str, Tensor]) -> Named:
    """Tensors under our names.

    Args:
        path: for messages.

    Raises:
        UserError: no layout that is known; says so when it is a convolutional net.
    """
    tensors = _unwrap(path, tensors)
    layout, prefix = _recognise(path, tensors)
    named = Named(layout.name, {}, task=_dense_task(tensors, layout))
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        inside = name.startswith(prefix)
        ours = rename(name.removeprefix(prefix) if inside else name, layout.encoder if inside else layout.rest)
        if inside and re.match(layout.aside, name.removeprefix(prefix)):
            named.aside.append(name)
        elif re.fullmatch(REL_POS, ours) if inside else named.task and not re.match(_STATISTICS, ours):
            named.heads[ours] = tensor
        elif _is_decoder(ours, layout):
            named.decoder[ours] = tensor
        elif re.match(_HEAD, ours) and (inside or layout.rest or layout.name in ("timm", "mae", "beit")):
            named.head[ours] = tensor
        elif inside:
            found[ours] = tensor
        else:
            named.aside.append(name)
    if layout.name == "openmmlab" and "patch_embed.proj.weight" in found:
        # mmseg's VisionTransformer has no bias there unless told to.
        found.setdefault("patch_embed.proj.bias", torch.zeros(len(found["patch_embed.proj.weight"])))
    named.encoder = _canonical(path, found)
    named.decoder = _merge_qkv(named.decoder)
    return named


def _dense_task(tensors: Mapping[str, Tensor], layout: Layout) -> str | None:
    names = [rename(name, layout.rest) for name in tensors]
    return next((task for task, mark in _DENSE_TASKS.items() if any(re.match(mark, name) for name in names)), None)


def _is_decoder(name: str, layout: Layout) -> bool:
    return layout.name in ("mae", "huggingface", "openmmlab") and re.match(_DECODER, name) is not None


def _unwrap(path: object, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without what DDP (``module.``) and torch.compile (``_orig_mod.``) put among them."""
    bare = {".".join(p for p in name.split(".") if p not in ("module", "_orig_mod")): t for name, t in tensors.items()}
    if len(bare) != len(tensors):
        raise UserError(f"{path} holds the same tensors with and without module. or _orig_mod.: give one of the two")
    return bare


def _recognise(path: object, tensors: Mapping[str, Tensor]) -> tuple[Layout, str]:
    """The layout, and what stands before the encoder's names."""
    for layout in LAYOUTS:
        prefixes = [m["prefix"] for name in tensors if (m := re.fullmatch(layout.anchor, name))]
        if not prefixes or not all(any(re.match(mark, name) for name in tensors) for mark in layout.marks):
            continue
        # Self-distillation keeps two encoders in one file; the teacher is the one that is evaluated.
        prefix = next((p for p in prefixes if "teacher" in p), prefixes[0])
        if len(prefixes) > 1 and "teacher" not in prefix:
            raise UserError(f"{path} holds several encoders ({', '.join(prefixes)}): give a file with one")
        return layout, prefix
    first = ", ".join(list(tensors)[:3]) or "nothing"
    kernels = [n for n, t in tensors.items() if t.ndim == 4 and t.shape[-1] > 1]
    if len(kernels) > 1:
        raise UserError(f"{path} is a convolutional net, or begins with one (it begins with {first}): {SAY_MODEL}")
    raise UserError(f"{path} is not a ViT in a layout that is known (it begins with {first}): {SAY_MODEL}")


def rename(name: str, renames: Renames) -> str:
    """`name` after each of `renames` in turn."""
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def _canonical(path: object, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What projects store in other pieces than timm's ViT, put together as timm's ViT has it."""
    # FSDP of DINOv2 counts blocks within chunks: blocks.CHUNK.BLOCK.
    state = {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name): t for name, t in state.items()}
    state = {re.sub(r"(blocks\.\d+\.)gamma_(\d)$", r"\1ls\2.gamma", name): t for name, t in state.items()}
    state = _separate_positions(_merge_qkv(state))
    shared = state.pop("rel_pos_bias.relative_position_bias_table", None)
    state = {name: t for name, t in state.items() if not name.endswith("relative_position_index")}
    for block in sorted({m[0] for name in state if (m := re.match(_BLOCK, name))}):
        own = state.pop(f"{block}attn.relative_position_bias_table", None)
        table = own if own is not None else shared
        if table is not None:
            state[f"{block}attn.rel_bias"], state[f"{block}attn.rel_bias_cls"] = tables_of_beit(table)
    return state


def _merge_qkv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Separate query, key and value projections as one ``qkv``; a key bias that is not there is zero (BEiT)."""
    merged = dict(state)
    for name in state:
        stem = name.removesuffix("q.weight")
        if name.endswith("attn.q.weight") and all(f"{stem}{x}.weight" in state for x in "kv"):
            merged[f"{stem}qkv.weight"] = torch.cat([merged.pop(f"{stem}{x}.weight") for x in "qkv"])
            if f"{stem}q.bias" in state and f"{stem}v.bias" in state:
                merged[f"{stem}q_bias"], merged[f"{stem}v_bias"] = (
                    merged.pop(f"{stem}q.bias"),
                    merged.pop(f"{stem}v.bias"),
                )
                merged[f"{stem}k_bias"] = merged.pop(f"{stem}k.bias", torch.zeros_like(merged[f"{stem}q_bias"]))
    for name in [name for name in merged if name.endswith("attn.q_bias")]:
        stem = name.removesuffix("q_bias")
        if f"{stem}v_bias" not in merged:
            continue
        query, value = merged.pop(name), merged.pop(f"{stem}v_bias")
        merged[f"{stem}qkv.bias"] = torch.cat([query, merged.pop(f"{stem}k_bias", torch.zeros_like(query)), value])
    return merged


def _separate_positions(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Registers bear no positions in timm; a distillation token is a register that does."""
    if "register_tokens" in state:
        pos = state["pos_embed"]
        state["reg_token"] = state.pop("register_tokens")
        state["cls_token"], state["pos_embed"] = state["cls_token"] + pos[:, :1], pos[:, 1:]
    if "dist_token" in state:
        state["reg_token"] = state.pop("dist_token")
    positions = state.get("pos_embed")
    if positions is not None and "cls_token" not in state and _is_square(positions.shape[1] - 1):
        # detectron2's ViT keeps the class token's position, and does not use it (modeling/backbone/vit.py).
        state["pos_embed"] = positions[:, 1:]
    return state


def block_count(state: Mapping[str, Tensor], prefix: str = "blocks.") -> int:
    """How many Transformer blocks tensors under our names have, counting to the last one's number.

    Numbers beyond 999 are no block's: whoever checks the names finds them left over.
    """
    numbers = (re.match(re.escape(prefix) + r"([0-9]{1,3})\.", name) for name in state)
    return 1 + max((int(m[1]) for m in numbers if m), default=-1)


def _is_square(count: int) -> bool:
    return count > 0 and math.isqrt(count) ** 2 == count
