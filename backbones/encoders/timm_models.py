"""timm's own models as encoders: built by timm from a name and arguments, loaded whole, resized by timm's own calls.

What a file of other names becomes (official DINOv3, EVA-02, Perception Encoder, OpenCLIP …) is timm's business too: each of its
models brings a filter for the files that its authors published. Nothing here reads files.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import isqrt
from typing import Any, cast
from unittest import mock

import timm
import torch
from timm.data import resolve_data_config
from timm.layers import LayerNorm, RmsNorm
from timm.models import _builder
from torch import Tensor, nn

from backbones.encoders.preprocessing import Preprocessing
from backbones.errors import UserError, some
from backbones.vit.pos_embed import resample_grid

PREFIX = "timm:"

Tensors = dict[str, Tensor]
_NORMS = {"LayerNorm": LayerNorm, "RmsNorm": RmsNorm}
Filter = Callable[[Tensors, nn.Module], Tensors]


@dataclass(frozen=True)
class TimmModel:
    """A model of timm's: what `timm.create_model` has to be told, without classifier.

    Attributes:
        name: timm's, without tag.
        args: of the model's constructor, beside what the name says (``model_args`` of ``config.json``); plain data, a norm with
            its epsilon by `norm`.
        cfg: timm's ``pretrained_cfg``: preprocessing, name of the classifier.
        told_by: where all of that is known from.
        label: instead of the name, where `name` is but what `args` vary.
        resized_to: pixels, where timm's `set_input_size` made another net of it (Swin's windows follow the image).
        final_norm_eps: of the norm before the classifier, where it is not the others' (ConvNeXt of transformers).
    """

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)
    cfg: Mapping[str, Any] = field(default_factory=dict)
    told_by: str = "timm's registry"
    label: str = ""
    final_norm_eps: float | None = None
    resized_to: int | None = field(default=None, repr=False)

    @property
    def arch(self) -> str:
        """As records and recipes call it; only a name that begins with ``timm:`` can be built from scratch."""
        return self.label or PREFIX + self.name

    @property
    def img_size(self) -> tuple[int, int]:
        """Pixels, (height, width), that it was trained at."""
        size = self.resized_to or self.args.get("img_size")
        if size is None:
            size = self.cfg.get("input_size", (3, 224, 224))[-2:]
        return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

    @property
    def classifier(self) -> tuple[str, ...]:
        """Names of the layers that make classes of features."""
        names = self.cfg.get("classifier") or ()
        return (names,) if isinstance(names, str) else tuple(names)

    def preprocessing(self) -> Preprocessing:
        """As `timm.data.resolve_data_config` has it; what the configuration leaves out is timm's default, and said so."""
        found = resolve_data_config(pretrained_cfg=dict(self.cfg) or {"architecture": self.name}, args={})
        source = {k: self.told_by if k in self.cfg else "timm's default" for k in found if k != "input_size"}
        size = self.img_size
        return Preprocessing(
            tuple(found["mean"]),
            tuple(found["std"]),
            found["interpolation"],
            found["crop_pct"],
            size,
            found["crop_mode"],
            {**source, "img_size": self.told_by},
        )

    def create(self, *, drop_path: float = 0.0, **more: Any) -> nn.Module:
        """A fresh model with random weights, at its own image size.

        Raises:
            UserError: timm cannot make it of these arguments.
        """
        args = {k: _norm_layer(v) if k.endswith("norm_layer") else v for k, v in self.args.items()}
        options = {**args, "num_classes": 0, **more, **({"drop_path_rate": drop_path} if drop_path else {})}
        try:
            net: Any = timm.create_model(self.name, pretrained_cfg=self._cfg(), **options)
        except (TypeError, ValueError, RuntimeError, AssertionError, KeyError) as e:
            raise UserError(f"{self.arch}: timm cannot build it with {options} ({_first_line(e)})") from e
        if self.final_norm_eps is not None:
            net.head.norm.eps = self.final_norm_eps
        if self.resized_to is not None:
            net.set_input_size(img_size=self.img_size)
        return cast(nn.Module, net)

    def open(self, state: Tensors | None, img_size: tuple[int, int], *, drop_path: float, dynamic: bool) -> nn.Module:
        """A model with these weights, for images of `img_size`; positions and relative tables are resampled by timm.

        Args:
            state: None for random weights.
            dynamic: let every size that the strides divide through, not this one alone.

        Raises:
            UserError: a net of fixed size that timm cannot resize.
        """
        net = self._flexible(drop_path) if dynamic else self.create(drop_path=drop_path)
        if state is not None:
            net.load_state_dict(state)
        return net if img_size == self.img_size else self._resized(net, img_size, drop_path)

    def _flexible(self, drop_path: float) -> nn.Module:
        for option in ({"dynamic_img_size": True}, {"strict_img_size": False}):
            try:
                return self.create(drop_path=drop_path, **option)
            except UserError:
                continue
        return self.create(drop_path=drop_path)

    def _resized(self, net: Any, img_size: tuple[int, int], drop_path: float) -> nn.Module:
        """`net` for another image size; where timm has no call for that, one that is made for it, positions resampled."""
        if not self.cfg.get("fixed_input_size", False) or (
            not hasattr(net, "set_input_size") and _takes(net, img_size)
        ):
            return net
        if not hasattr(net, "set_input_size"):
            return self._made_anew(net, img_size, drop_path)
        try:
            net.set_input_size(img_size=img_size)
        except (AssertionError, ValueError, RuntimeError) as e:
            raise UserError(
                f"{self.arch} cannot take images of {img_size[0]} x {img_size[1]} px: {_first_line(e)}"
            ) from e
        return net

    def _made_anew(self, net: nn.Module, img_size: tuple[int, int], drop_path: float) -> nn.Module:
        height, width = self.img_size
        reason = f"{self.arch} takes images of {height} x {width} px alone: give --set encoder.img_size={height}"
        try:
            new = self.create(drop_path=drop_path, img_size=img_size)
        except UserError as e:
            raise UserError(reason) from e
        state = net.state_dict()
        for name, wanted in new.state_dict().items():
            found = state[name]
            if found.shape == wanted.shape:
                continue
            shrunk = found.shape[1] * img_size[0] * img_size[1] == wanted.shape[1] * height * width
            if name != "pos_embed" or found.ndim != 3 or height != width or not shrunk:
                raise UserError(reason)
            side = isqrt(found.shape[1])
            state[name] = resample_grid(
                found, (side, side), (side * img_size[0] // height, side * img_size[1] // width)
            )
        new.load_state_dict(state)
        return new

    def as_config(self, img_size: int | None = None) -> dict[str, Any]:
        """As `of_config` reads it: what our own files say of a model that is no plain ViT, which was resized to `img_size`."""
        args, cfg = dict(self.args), self._cfg()
        if img_size is not None:
            cfg["input_size"] = (3, img_size, img_size)
        resized = None
        if img_size is not None and self.cfg.get("fixed_input_size", False):
            if not hasattr(self.outline()[0], "set_input_size"):
                args["img_size"] = img_size
            elif (img_size, img_size) != replace(self, resized_to=None).img_size:
                resized = img_size
        config = {"architecture": self.name, "model_args": args, "pretrained_cfg": cfg}
        more = {} if resized is None else {"resized_to": resized}
        return {**config, "label": self.label, "final_norm_eps": self.final_norm_eps, **more}

    def _cfg(self) -> dict[str, Any]:
        return {k: v for k, v in self.cfg.items() if k not in ("architecture", "source", "file")}

    def outline(self) -> tuple[nn.Module, Filter | None]:
        """(the model without weights, what timm puts the files of its authors through).

        timm hands its filters to its loader and shows them nowhere else.
        """
        with mock.patch.object(_builder, "load_pretrained") as load, torch.device("meta"):
            net = self.create(pretrained=True)
        return net, load.call_args.kwargs["filter_fn"] if load.call_args else None


def registered(name: str) -> TimmModel:
    """The model that ``timm:NAME`` names, with or without the tag of its weights.

    Raises:
        UserError: timm has no such model.
    """
    base = name.partition(".")[0]
    try:
        cfg = timm.get_pretrained_cfg(name, allow_unregistered=False) if timm.is_model(base) else None
    except RuntimeError:  # no such tag
        cfg = None
    if cfg is None:
        near = timm.list_models(f"*{base[:12]}*")[:3]
        if timm.is_model(base):
            near = [f"{base}.{t}" for t in timm.models.get_arch_pretrained_cfgs(base) if "." not in t][:3]
        raise UserError(f"{PREFIX}{name}: timm has no such model" + (f"; near: {', '.join(near)}" if near else ""))
    model = TimmModel(base, {}, cfg.to_dict(), f"timm's registry ({name})")
    _check_channels(model)
    return model


def norm(kind: str, eps: float) -> str:
    """A norm with its epsilon, as plain data: ``LayerNorm:1e-05``."""
    return f"{kind}:{eps!r}"


def _norm_layer(told: Any) -> Any:
    kind, separator, eps = told.partition(":") if isinstance(told, str) else ("", "", "")
    return partial(_NORMS[kind], eps=float(eps)) if separator and kind in _NORMS else told


def of_config(config: Mapping[str, Any], path: object, told_by: str = "config.json") -> TimmModel:
    """The model of a ``config.json`` that timm wrote beside weights (`timm.models.save_for_hf`), or of `TimmModel.as_config`.

    Raises:
        UserError: timm has no such model, or it takes other than three channels.
    """
    from timm.models._hub import _parse_model_cfg

    try:
        cfg, name, args = _parse_model_cfg(copy.deepcopy(dict(config)), {})
    except (KeyError, TypeError, AttributeError) as e:
        raise UserError(f"{path}: config.json is no model configuration of timm's ({_first_line(e)})") from e
    if not timm.is_model(name):
        raise UserError(f'{path}: config.json names "{name}", which this timm ({timm.__version__}) does not have')
    label, eps, resized = (config.get(key) for key in ("label", "final_norm_eps", "resized_to"))
    model = TimmModel(name, args or {}, cfg, told_by, str(label or ""), eps, resized)
    _check_channels(model)
    return model


def fit(model: TimmModel, tensors: Tensors, path: object) -> tuple[Tensors, Tensors, str]:
    """(tensors of the encoder, of the classifier, whose names the file had): every tensor has its place, and none is made up.

    Args:
        tensors: as in the file, under timm's names or those of the model's authors.

    Raises:
        UserError: tensors missing, left over or of another shape: the file holds another model.
    """
    net, found = model.outline()
    wanted = {k: v.shape for k, v in net.state_dict().items()}
    state, head = _without_head(tensors, model.classifier, wanted)
    reason = _misfit(state, wanted)
    if not reason:
        return state, head, "timm"
    filtered = _filtered(model, found, tensors, net)
    if filtered is not None:
        state, head = _without_head(filtered, model.classifier, wanted)
        if not _resampled(tensors, state) and not _misfit(state, wanted):
            if lost := _lost_biases(tensors, state):
                raise UserError(
                    f"{path}: {model.name} has no place for {lost}, which is not zero: give {model.arch}_qkvb"
                )
            return state, head, "authors"
    raise UserError(f"{path} is no whole {model.name} ({model.told_by}): {reason}")


def _filtered(model: TimmModel, found: Filter | None, tensors: Tensors, net: nn.Module) -> Tensors | None:
    if found is None:
        return None
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # DINOv3's prints what it finds
            return dict(found(dict(tensors), net))
    except Exception as e:  # filters expect the files of their authors, and fail on others in any way
        logging.getLogger(__name__).debug("%s: timm's filter: %s", model.name, e)
        return None


def _resampled(tensors: Tensors, state: Tensors) -> bool:
    """Whether a filter made what fits of another size: positions and kernels that are no tensor of the file (less one row)."""
    if any(k in tensors and tensors[k].numel() != v.numel() for k, v in state.items()):
        return True
    counts = {t.numel() for t in tensors.values()}
    for name in ("pos_embed", "patch_embed.proj.weight"):
        found = state.get(name)
        if found is not None and not counts & {found.numel(), found.numel() + found.shape[-1]}:
            return True
    return False


def _lost_biases(tensors: Tensors, state: Tensors) -> str:
    """DINOv3's filter passes over the biases of a model without; theirs were trained to zero in some sizes only."""
    if any(name.endswith(("q_bias", "qkv.bias")) for name in state):
        return ""
    biases = {k: t for k, t in tensors.items() if k.endswith("attn.qkv.bias") and not t.is_meta}
    return next((name for name, t in biases.items() if t.chunk(3)[0].any() or t.chunk(3)[2].any()), "")


def _without_head(tensors: Tensors, classifier: Iterable[str], wanted: Mapping[str, Any]) -> tuple[Tensors, Tensors]:
    starts = tuple(f"{name}." for name in classifier)
    head = {k: v for k, v in tensors.items() if starts and k.startswith(starts) and k not in wanted}
    return {k: v for k, v in tensors.items() if k not in head}, head


def _misfit(state: Tensors, wanted: Mapping[str, torch.Size]) -> str:
    """Why these tensors are not this model's; empty when they are."""
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or extra:
        return f"missing {some(missing, 4)}; unexpected {some(extra, 4)}"
    for name, shape in wanted.items():
        if state[name].shape != shape:
            return f"{name} has shape {tuple(state[name].shape)}, it wants {tuple(shape)}"
    return ""


def _check_channels(model: TimmModel) -> None:
    channels = model.args.get("in_chans", model.cfg.get("input_size", (3,))[0])
    if channels != 3:
        raise UserError(
            f"{model.arch} takes {channels} channels ({model.told_by}), images here have three (RGB): adapt its first layer "
            "(timm.create_model(…, in_chans=3)) and save that"
        )


def _takes(net: Any, img_size: tuple[int, int]) -> bool:
    device = next(net.parameters()).device
    training = net.training
    try:
        with torch.no_grad():
            net.eval().forward_features(torch.zeros(1, 3, *img_size, device=device))
    except (AssertionError, ValueError, RuntimeError):
        return False
    finally:
        net.train(training)
    return True


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
