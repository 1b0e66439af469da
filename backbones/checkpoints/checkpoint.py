"""Checkpoints in and out: a file becomes an encoder, what else it holds, and what is known of it.

Files are read by `backbones.files.tensor_files`, names by `backbones.checkpoints.read_layouts`, the
architecture by `backbones.checkpoints.architecture`; other
projects' layouts are written by `backbones.checkpoints.write_layouts`. Run-time state (optimiser, progress) is
`mae_bench.engine`'s.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from timm.layers import resize_rel_pos_bias_table
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from backbones.checkpoints import not_plain, shipped, told
from backbones.checkpoints.architecture import Architecture, fixed_positions, read_architecture
from backbones.checkpoints.hub import PLAIN, is_remote, resolve_remote
from backbones.checkpoints.read_layouts import OFFICIAL_DECODER_HEADS, Named, block_count, read_names
from backbones.encoders import huggingface, image_processor, published
from backbones.encoders.contract import Encoder
from backbones.encoders.plugin import PREFIX as MODULE
from backbones.encoders.plugin import Plugin, load_plugin, plugin_digest
from backbones.encoders.preprocessing import ASSUMED, Preprocessing, family_default
from backbones.encoders.timm_models import PREFIX as TIMM
from backbones.encoders.timm_models import TimmModel, fit, of_config, registered
from backbones.errors import UserError, some
from backbones.files.facts import check_config
from backbones.files.tensor_files import TensorFile, read_tensors
from backbones.mae.model import MaskedAutoencoder
from backbones.mae.targets import create_target
from backbones.vit.arch import parse_arch
from backbones.vit.dense import takes_windows
from backbones.vit.encoder import create_encoder
from backbones.vit.pos_embed import resample_grid

_SAME = 1e-5  # relative error of features between the plain ViT and timm's own class


class EncoderSettings(Protocol):
    """What `open_encoder` reads of a recipe (`tasks.recipe.EncoderConfig`)."""

    arch: str
    img_size: int
    drop_path: float
    mean: list[float] | None
    std: list[float] | None
    interpolation: str | None
    crop_pct: float | None


@dataclass(frozen=True)
class Checkpoint:
    """An encoder's tensors under timm's names, what came with them, and where they come from.

    Attributes:
        sha256: of the file.
        layout: whose names the file has: a name of `backbones.checkpoints.read_layouts.LAYOUTS`, or ``mae_bench``
        for our own files.
        method: row of the tables, such as "MAE"; the file's name where nothing tells.
        state: the encoder, float32.
        decoder: MAE's decoder under the official names, empty if there is none.
        head: ``fc_norm.*`` and ``head.*``, empty if there are none.
        heads: all of a detector or segmenter beside its encoder, under the names of our task's model, and the encoder's
            decomposed relative positions (``blocks.0.attn.rel_pos_h``, …); `backbones.checkpoints.dense_heads`
            puts them to use.
        task: what the file was trained for: ``classification``, ``detection`` or ``segmentation``; None where no head tells.
        aside: names in the file that nothing was made of.
        metadata: what our own files say of themselves.
        target_normalised: whether the decoder predicts normalised pixels; None where nothing tells.
        decoder_heads: attention heads of the decoder.
        foreign: names of objects in the file that only code of theirs could make; they were passed over, nothing was run.
        preprocessing: what images have to go through, and where that is known from.
        sources: fact of the architecture that tensors do not tell (``net``, ``heads``) -> where it is known from; what begins
            with "family default" was told by nothing.
        source: what to give to `load_checkpoint` to have it again.
    """

    path: Path
    sha256: str
    layout: str
    method: str
    architecture: Architecture | TimmModel | Plugin
    state: dict[str, Tensor]
    decoder: dict[str, Tensor] = field(default_factory=dict)
    head: dict[str, Tensor] = field(default_factory=dict)
    heads: dict[str, Tensor] = field(default_factory=dict)
    task: str | None = None
    aside: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    target_normalised: bool | None = None
    decoder_heads: int = OFFICIAL_DECODER_HEADS
    foreign: tuple[str, ...] = ()
    preprocessing: Preprocessing = field(default_factory=lambda: family_default((224, 224), "nothing tells"))
    sources: Mapping[str, str] = field(default_factory=dict)
    source: str = ""

    @property
    def plain(self) -> Architecture | None:
        """The architecture, when it is the plain ViT that MAE, windows and ViTDet need; None for every other net."""
        return self.architecture if isinstance(self.architecture, Architecture) else None

    def require_plain(self) -> Architecture:
        """`plain`, or a UserError."""
        if not isinstance(self.architecture, Architecture):
            raise UserError(f"{self.path} holds a {self.arch}: this is for the plain ViT that MAE has")
        return self.architecture

    @property
    def assumed(self) -> dict[str, str]:
        """Those of `sources` that nothing tells: what runs, records and tables have to say."""
        return {fact: where for fact, where in self.sources.items() if where.startswith(ASSUMED)}

    @property
    def identity(self) -> str:
        """What a job's identity has of it: the file's sha256, with what a config beside it adds to the tensors."""
        if self.plain is not None and self.preprocessing.is_imagenet:
            return self.sha256
        parts = [self.sha256, repr(self.architecture), json.dumps(self.preprocessing.as_dict(), sort_keys=True)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def dense_alone(self) -> bool:
        """Whether this is a trained detector or segmenter that nothing but its own task's evaluation can take (`heads`)."""
        return bool(self.heads) and not self.state

    @property
    def arch(self) -> str:
        """Such as ``vit_base_patch16``."""
        return self.architecture.arch

    @property
    def img_size(self) -> tuple[int, int]:
        """Pixels, (height, width)."""
        return self.architecture.img_size

    def encoder(
        self,
        *,
        img_size: int | tuple[int, int] | None = None,
        drop_path: float = 0.0,
        positions: str = "regenerate",
    ) -> VisionTransformer:
        """A fresh timm ViT with these weights, for tasks that need the plain one; `open` is for every encoder.

        Args:
            img_size: pixels; default: the checkpoint's. Learnt positions and relative tables are resampled to another one.
            positions: what becomes of fixed sin-cos positions at another size: ``regenerate`` makes them anew; ``resample``
                treats them as learnt ones, as every transfer protocol does (util/pos_embed.py, mmseg's MAE, detectron2's
                ViT): fine-tuning then meets no coordinates that pre-training never saw.
        """
        architecture = self.require_plain()
        encoder = architecture.build(img_size, drop_path)
        state = dict(self.state)
        grid = encoder.patch_embed.grid_size
        if grid != architecture.grid:
            state |= _resized(state, architecture, grid, regenerate=positions == "regenerate")
        encoder.load_state_dict(state)
        return encoder

    def open(
        self,
        *,
        img_size: int | tuple[int, int] | None = None,
        drop_path: float = 0.0,
        positions: str = "regenerate",
        dynamic: bool = False,
    ) -> Encoder:
        """A fresh encoder with these weights, whatever its family.

        Args:
            img_size: pixels; default: the checkpoint's. Positions and relative tables are resampled to another one.
            drop_path: stochastic depth; a plug-in keeps its own.
            positions: as in `encoder`.
            dynamic: take images of every size that the strides divide through, as dense tasks need them (not the plain ViT,
                whose dense form is `backbones.vit.dense`).

        Raises:
            UserError: the net takes no other size.
        """
        size = (img_size, img_size) if isinstance(img_size, int) else img_size or self.img_size
        if isinstance(self.architecture, Plugin):
            return self.architecture.open()
        if isinstance(self.architecture, TimmModel):
            if self.dense_alone and not dynamic:
                raise UserError(
                    f"{self.path} holds a trained {self.task} model, whose encoder is not whole: give the checkpoint that it "
                    f"started from, or --tasks {self.task} --set schedule.iterations=0 to evaluate it"
                )
            net = self.architecture.open(self.state or None, size, drop_path=drop_path, dynamic=dynamic)
            return Encoder(net, self.preprocessing, arch=self.arch, img_size=size)
        vit = self.encoder(img_size=size, drop_path=drop_path, positions=positions)
        net = _own_pooling(vit, self.head)
        return Encoder(net, self.preprocessing, arch=self.arch, plain=True, img_size=size)

    def masked_autoencoder(self, *, img_size: int | tuple[int, int] | None = None) -> MaskedAutoencoder:
        """The encoder with its decoder; what nothing tells is the paper's default (normalised pixels).

        Raises:
            UserError: the file holds no decoder.
        """
        if not self.decoder:
            raise UserError(
                f"{self.path} holds an encoder without a decoder: reconstruction needs a file with both "
                "(mae_visualize_vit_*.pth, mae_pretrain_vit_*_full.pth, or mae.safetensors of a pre-training run)"
            )
        encoder = self.encoder(img_size=img_size)
        patch = encoder.patch_embed.patch_size[0]
        width = self.decoder["decoder_embed.weight"].shape[0]
        architecture = self.require_plain()
        model = MaskedAutoencoder(
            encoder,
            decoder_embed_dim=width,
            decoder_depth=block_count(self.decoder, "decoder_blocks."),
            decoder_num_heads=self.decoder_heads,
            encoder_mask_tokens=self._setting("mae.encoder_mask_tokens", self.decoder["mask_token"].shape[-1] != width),
            mask_sampling=self._setting("mae.mask_sampling", "random"),
            mask_ratio=self._setting("mae.mask_ratio", 0.75),
            target=create_target(self.target, patch, **_target_sizes(self.decoder)),
        )
        state = {**self.decoder, **{f"encoder.{k}": v for k, v in encoder.state_dict().items()}}
        pos = state["decoder_pos_embed"]
        if pos.shape[1] != model.decoder_pos_embed.shape[1]:
            state["decoder_pos_embed"] = fixed_positions(architecture.positions, width, model.grid, prefix_tokens=1)
        model.load_state_dict(state)
        return model

    @property
    def target(self) -> str:
        """What the decoder predicts, as ``mae.target`` names it; normalised pixels where nothing tells."""
        if "decoder_target.components" in self.decoder:
            return "pca"
        if "decoder_target.tokenizer.codebook" in self.decoder:
            return "tokens"
        return "pixels" if self.target_normalised is False else "pixels_norm"

    def _setting(self, key: str, default: Any) -> Any:
        return told.settings(self.metadata).get(key, default)


def build_encoder(
    arch: str, img_size: int, drop_path: float, checkpoint: Checkpoint | None, *, positions: str = "resample"
) -> VisionTransformer:
    """The encoder of a task: from `checkpoint`, which must be of architecture `arch`, or from scratch.

    `positions` is `Checkpoint.encoder`'s: transfer resamples fixed ones, pre-training at another size has that size's own.
    """
    if checkpoint is None:
        return create_encoder(arch, img_size=img_size, drop_path=drop_path)
    if checkpoint.arch != arch:
        raise _other_arch(checkpoint, arch)
    return checkpoint.encoder(img_size=img_size, drop_path=drop_path, positions=positions)


def open_encoder(config: EncoderSettings, checkpoint: Checkpoint | None, **how: Any) -> Encoder:
    """The encoder of a task, whatever its family: from `checkpoint`, or from scratch.

    Args:
        config: what the recipe says of the encoder; its preprocessing goes before the checkpoint's.
        how: ``positions`` and ``dynamic`` of `Checkpoint.open`.

    Raises:
        UserError: another architecture than the recipe's, a size that the net cannot take, or preprocessing that nobody tells.
    """
    if checkpoint is None:
        encoder = _from_scratch(config, bool(how.get("dynamic")))
        path = f"--scratch {config.arch}"
    else:
        if checkpoint.arch != config.arch:
            raise _other_arch(checkpoint, config.arch)
        encoder = checkpoint.open(img_size=config.img_size, drop_path=config.drop_path, **how)
        path = checkpoint.source
    instead = {name: getattr(config, name) for name in ("mean", "std", "interpolation", "crop_pct")}
    encoder.preprocessing = encoder.preprocessing.overridden(**instead).known(path)
    return encoder


def open_dense(config: EncoderSettings, checkpoint: Checkpoint | None, size: int) -> Encoder:
    """The encoder of a dense task, whose images have `size` pixels a side at most.

    A ViT that takes windows keeps the recipe's size, its positions being resampled to each image; others are opened at `size`.
    """
    encoder = open_encoder(config, checkpoint, positions="resample", dynamic=True)
    if takes_windows(encoder.net) or config.img_size == size:
        return encoder
    return open_encoder(replace(config, img_size=size), checkpoint, dynamic=True)  # type: ignore[type-var]


def _from_scratch(config: EncoderSettings, dynamic: bool) -> Encoder:
    if config.arch.startswith(TIMM):
        model = registered(config.arch.removeprefix(TIMM))
        size = (config.img_size, config.img_size)
        net = model.open(None, size, drop_path=config.drop_path, dynamic=dynamic)
        return Encoder(net, model.preprocessing(), arch=config.arch, img_size=size)
    vit = create_encoder(config.arch, img_size=config.img_size, drop_path=config.drop_path)
    default = family_default((config.img_size, config.img_size), "from scratch")
    return Encoder(vit, default, arch=config.arch, plain=True)


def _other_arch(checkpoint: Checkpoint, arch: str) -> UserError:
    return UserError(
        f"{checkpoint.path} holds a {checkpoint.arch}, the recipe wants a {arch}: "
        f"give another recipe or --set encoder.arch={checkpoint.arch}"
    )


def load_checkpoint(path: str | os.PathLike[str], *, img_size: tuple[int, int] | None = None) -> Checkpoint:
    """Reads a checkpoint.

    Args:
        path: a file, a folder (Hugging Face, timm, a finished run), a shipped encoder's name, ``timm:NAME`` and
            ``hf:OWNER/NAME`` (fetched), ``timm:NAME=FILE`` and ``plain:ARCH=FILE`` (weights at hand) or
            ``module:package.file:function`` (the user's own code).
        img_size: pixels, (height, width), that it was trained at; asked for only when the positions form no square.

    Raises:
        UserError: no such file, not a checkpoint, no encoder that is known, or tensors missing, left over or not finite.
    """
    source = os.fspath(path)
    if source.startswith(MODULE):
        return _of_plugin(source)
    if source.startswith(TIMM):
        return _of_name(source.removeprefix(TIMM))
    if source.startswith(PLAIN):
        return _of_plain_name(source.removeprefix(PLAIN), img_size)
    ours = shipped.find(source)
    file = read_tensors(resolve_remote(source) if is_remote(source) else ours or Path(source))
    found = replace(_of_file(file, img_size), source=str(file.path.absolute()))
    if ours is not None:
        return replace(found, method=shipped.METHOD)
    if source.startswith("hf:") and found.method == file.path.absolute().parent.name:  # the cache's name of a folder
        return replace(found, method=source.rpartition("/")[2])
    return found


def _of_name(name: str) -> Checkpoint:
    """``NAME`` or ``NAME=FILE`` of timm's."""
    name, at_hand, local = name.partition("=")
    model = registered(name)
    file = read_tensors(Path(local) if at_hand else resolve_remote(f"{TIMM}{name}"))
    try:
        return replace(_of_timm(file, model, told.label_of_model(name)), source=f"{TIMM}{name}={file.path.absolute()}")
    except UserError:
        if at_hand:
            raise
        return replace(_of_file(file, None), source=str(file.path.absolute()))  # what was fetched speaks for itself


def _of_plain_name(name: str, img_size: tuple[int, int] | None) -> Checkpoint:
    """``ARCH=FILE``: a bare plain ViT whose user says what its tensors do not tell, its heads above all."""
    arch, _, local = name.partition("=")
    file = read_tensors(Path(local))
    if file.config or file.timm or file.metadata is not None:
        raise UserError(f"--arch {arch}: {file.path} says its model itself: leave --arch out")
    found = _of_plain(file, read_names(file.path, file.tensors), img_size, arch)
    return replace(found, source=f"{PLAIN}{arch}={file.path.absolute()}")


def _of_file(file: TensorFile, img_size: tuple[int, int] | None) -> Checkpoint:
    if isinstance(ours := (file.metadata or {}).get("timm"), dict):
        return _of_ours(file, of_config(check_config(file.path, ours), file.path, "mae_bench, which wrote the file"))
    if file.timm:
        model = of_config(file.timm, file.path)
        return _of_timm(file, model, _label(model))
    if file.config:
        return _of_hugging_face(file, img_size)
    open_clip = file.beside(published.OPEN_CLIP)
    if (known := published.recognise(file.tensors, file.path, open_clip)) is not None:
        found = _of_timm(file, known, told.label_of_file(file))
        return replace(found, preprocessing=published.preprocessing(known, file.path.stem, open_clip))
    return _of_plain(file, read_names(file.path, file.tensors), img_size)


# How names begin in trained detectors and segmenters of ours.
_DENSE = {"backbone.": "detection", "net.backbone.": "segmentation"}


def _of_ours(file: TensorFile, model: TimmModel) -> Checkpoint:
    """What a task of ours wrote of an encoder that is no plain ViT: its tensors, and those of what stood behind it."""
    for start, task in _DENSE.items():
        if any(name.startswith(start) for name in file.tensors):
            return _of_our_dense(file, model, task)
    wanted = model.outline()[0].state_dict().keys()
    found = _of_timm(file, model, told.label_of_file(file), {k: t for k, t in file.tensors.items() if k in wanted})
    head = _float({k: t for k, t in file.tensors.items() if k not in wanted})
    _check_finite(file.path, head)
    metadata = file.metadata or {}
    return replace(
        found,
        layout="mae_bench",
        method=str(metadata.get("method") or found.method),
        head=head,
        task="classification" if head else None,
        metadata=metadata,
        preprocessing=told.of_metadata(file, found.preprocessing),
    )


def _of_our_dense(file: TensorFile, model: TimmModel, task: str) -> Checkpoint:
    """A trained detector or segmenter: all is in `heads`, for its encoder lacks what a map of features does not need."""
    heads = _float(dict(file.tensors))
    _check_finite(file.path, heads)
    return Checkpoint(
        path=file.path,
        sha256=file.sha256,
        layout="mae_bench",
        method=str((file.metadata or {}).get("method") or told.label_of_file(file)),
        architecture=model,
        state={},
        heads=heads,
        task=task,
        metadata=file.metadata or {},
        preprocessing=told.of_metadata(file, model.preprocessing()),
        sources={"net": model.told_by, "heads": model.told_by},
    )


def _of_hugging_face(file: TensorFile, img_size: tuple[int, int] | None) -> Checkpoint:
    """A folder of Hugging Face's, by its ``model_type``."""
    kind = str(file.config["model_type"])
    if huggingface.family_of(file.config) is not None:
        model, tensors, aside = huggingface.convert(file.config, file.tensors, file.path)
        label = told.label_of_file(file)
        found = replace(_of_timm(file, model, label, tensors), layout="huggingface", aside=tuple(aside))
    elif kind in huggingface.PLAIN:
        if file.config.get("hidden_act", "gelu") != "gelu":
            raise UserError(f"{file.path}: config.json: hidden_act {file.config['hidden_act']}: the plain ViT has gelu")
        found = _of_plain(file, read_names(file.path, file.tensors), img_size)
    else:
        known = ", ".join([*huggingface.PLAIN, *huggingface.FAMILIES])
        raise UserError(f"{file.path}: config.json: model_type {kind} is no image encoder that is known: {known}")
    processor = file.beside(image_processor.FILE)
    size = found.img_size
    preprocessing = (
        image_processor.of_processor(processor, size, file.path) if processor else image_processor.of_family(kind, size)
    )
    return replace(found, preprocessing=preprocessing)


def _label(model: TimmModel) -> str:
    tag = model.cfg.get("tag")
    return told.label_of_model(f"{model.name}.{tag}" if tag else model.name)


def _of_plugin(source: str) -> Checkpoint:
    encoder = load_plugin(source)
    return Checkpoint(
        path=Path(source),
        sha256=plugin_digest(encoder),
        layout="plug-in",
        method=source.rpartition(":")[2],
        architecture=Plugin(source, encoder.arch, encoder.preprocessing.img_size),
        state=dict(encoder.net.state_dict()),
        preprocessing=encoder.preprocessing,
        source=source,
    )


def _of_timm(file: TensorFile, model: TimmModel, label: str, given: dict[str, Tensor] | None = None) -> Checkpoint:
    """A model of timm's; as the plain ViT where that computes the same, so that MAE's tools work on it.

    Args:
        given: the file's tensors under other names.
    """
    tensors = given or {
        name.removeprefix("timm_model."): t for name, t in file.tensors.items()
    }  # transformers' wrapper
    state, head, names = fit(model, tensors, file.path)
    state = _float(state)
    _check_finite(file.path, {**state, **_float(head)})
    found = Checkpoint(
        path=file.path,
        sha256=file.sha256,
        layout=names,
        method=label,
        architecture=model,
        state=state,
        head=_float(head),
        task="classification" if head else None,
        preprocessing=model.preprocessing(),
        sources={"net": model.told_by, "heads": model.told_by},
    )
    return _as_plain(file, found, model) or found


def _as_plain(file: TensorFile, checkpoint: Checkpoint, model: TimmModel) -> Checkpoint | None:
    """The same encoder as the plain ViT, when that gives the same features and the same pooled feature; else None.

    The same names of tensors may mean another net (rotary positions are in no file, post-norm is not either), so both compute.
    """
    outline: Any = model.outline()[0]
    if not isinstance(outline, (VisionTransformer, Beit)) or not hasattr(outline.blocks[0], "attn"):
        return None
    named = read_names(file.path, {**checkpoint.state, **checkpoint.head})
    if named.head.keys() - checkpoint.head.keys() - {"fc_norm.weight", "fc_norm.bias"}:
        return None
    try:
        architecture = read_architecture(
            file.path,
            named.encoder,
            heads=int(outline.blocks[0].attn.num_heads),
            img_size=model.img_size,
            norm_eps=float(outline.blocks[0].norm1.eps),
        )
        _check(file.path, named.encoder, architecture)
    except UserError:
        return None
    theirs: Any = model.create()
    theirs.load_state_dict(checkpoint.state)
    plain = replace(
        checkpoint,
        layout=named.layout,
        architecture=architecture,
        state=named.encoder,
        head=named.head,
        aside=tuple(named.aside),
    )
    return plain if _same_features(plain.open().net, theirs, model.img_size) else None


@torch.no_grad()
def _same_features(ours: Any, theirs: Any, img_size: tuple[int, int]) -> bool:
    image = torch.randn(1, 3, *img_size, generator=torch.Generator().manual_seed(0))
    for net in (ours, theirs):
        net.eval()
    a, b = ours.forward_features(image), theirs.forward_features(image)
    if a.shape != b.shape:
        return False
    pairs = [(a, b), (ours.forward_head(a, pre_logits=True), theirs.forward_head(b, pre_logits=True))]
    return all(bool((x - y).norm() <= _SAME * y.norm()) for x, y in pairs)


def _own_pooling(vit: VisionTransformer, head: dict[str, Tensor]) -> VisionTransformer:
    """Pools as its head does: through ``fc_norm``, where there is one, the mean of the patches."""
    if "fc_norm.weight" in head:
        vit.global_pool = "avg"
        vit.fc_norm = nn.LayerNorm(vit.embed_dim, eps=1e-6)
        vit.fc_norm.load_state_dict({k: head[f"fc_norm.{k}"] for k in ("weight", "bias")})
    return vit


def _of_plain(file: TensorFile, named: Named, img_size: tuple[int, int] | None, arch: str | None = None) -> Checkpoint:
    """The plain ViT, told by names and tensors; by the user, where `arch` is given."""
    state = _float(named.encoder)
    if file.metadata is None and not file.config:
        not_plain.refuse(file.path, {**state, **named.head}, told.way_out(file))
    sources: dict[str, str] = {}

    def from_file(positions: str, prefix_positions: bool) -> int | None:
        sources["net"] = told.net(file, named, positions, prefix_positions)
        found, sources["heads"] = told.heads(file, named, positions, sources["net"])
        return found

    def from_user(*_: object) -> int:
        sources.update(net="--arch", heads="--arch")
        return parse_arch(arch or "")[2]

    architecture = read_architecture(
        file.path,
        state,
        heads=from_user if arch else from_file,
        img_size=img_size or told.img_size(file),
        norm_eps=told.norm_eps(file),
    )
    if arch and parse_arch(arch) != parse_arch(architecture.arch):
        raise UserError(f"--arch {arch}: {file.path} holds a {architecture.arch}")
    _check(file.path, state, architecture)
    decoder, head, heads = _float(named.decoder), _float(named.head), _float(named.heads)
    _check_finite(file.path, {**decoder, **head, **heads})
    return Checkpoint(
        path=file.path,
        sha256=file.sha256,
        layout="mae_bench" if file.metadata is not None else named.layout,
        method=told.method(file, named),
        architecture=architecture,
        state=state,
        decoder=decoder,
        head=head,
        heads=heads,
        task=named.task or ("classification" if head else None),
        aside=tuple(named.aside),
        metadata=file.metadata or {},
        target_normalised=told.target_normalised(file),
        decoder_heads=told.decoder_heads(file),
        foreign=file.foreign,
        preprocessing=told.preprocessing(file, named, architecture),
        sources=sources,
    )


def _float(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def _target_sizes(decoder: dict[str, Tensor]) -> dict[str, Any]:
    outputs = decoder["decoder_pred.weight"].shape[0]
    return {"pca_components": outputs, "vocabulary": outputs}


def _resized(
    state: dict[str, Tensor], old: Architecture, grid: tuple[int, int], *, regenerate: bool
) -> dict[str, Tensor]:
    """Those tensors that hang on the grid of patches, for another grid."""
    resized = {}
    if "pos_embed" in state:
        pos = state["pos_embed"]
        prefix = pos.shape[1] - old.grid[0] * old.grid[1]
        if regenerate and old.positions != "learnt":
            patches = fixed_positions(old.positions, pos.shape[2], grid)
        else:
            patches = resample_grid(pos[:, prefix:], old.grid, grid)
        resized["pos_embed"] = torch.cat([pos[:, :prefix], patches], dim=1)
    size = (2 * grid[0] - 1, 2 * grid[1] - 1)
    for name, table in state.items():
        if name.endswith(".rel_bias"):
            new = (len(table), *size)
            # timm < 1.0.31 gives heads and rows in one.
            resized[name] = resize_rel_pos_bias_table(table, grid, new).reshape(new)
    return resized


def _check(path: Path, state: dict[str, Tensor], architecture: Architecture) -> None:
    """Every tensor that the architecture has, of its shape and kind, finite, and no other."""
    with torch.device("meta"):
        built = architecture.build().state_dict()
    wanted = {k: v.shape for k, v in built.items()}
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or extra:
        raise UserError(
            f"{path} is no whole {architecture.arch}: missing {some(missing, 5)}; unexpected {some(extra, 5)}"
        )
    for name, tensor in state.items():
        if tensor.shape != wanted[name]:
            raise UserError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, {architecture.arch} wants {tuple(wanted[name])}"
            )
        if built[name].is_floating_point():
            _check_kind(path, name, tensor)
    _check_finite(path, state)


def _check_kind(path: Path, name: str, tensor: Tensor) -> None:
    """Quantised weights are whole numbers without their scales: as floats they would be another net's."""
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise UserError(
            f"{path}: {name} holds {kind}, whole numbers: quantised weights mean nothing without their scales; give the "
            "checkpoint that they were made from"
        )


def _check_finite(path: Path, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if name.endswith((".weight", ".bias")):
            _check_kind(path, name, tensor)
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{path}: {name} holds NaN or Inf: the checkpoint is broken, take an earlier one")
