"""``module:package.file:function``: an encoder that the user's own code makes. The one place that runs code of the user's."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from backbones.encoders.contract import Encoder, check_output
from backbones.encoders.preprocessing import FACTS, Preprocessing
from backbones.errors import UserError

PREFIX = "module:"


@dataclass(frozen=True)
class Plugin:
    """What `Checkpoint.architecture` is for a plug-in: its name, and how to make it anew."""

    source: str
    arch: str
    img_size: tuple[int, int]

    def open(self) -> Encoder:
        """A fresh one: the function is called again."""
        return load_plugin(self.source)


Features = Callable[[nn.Module, Tensor], Any]


class WrappedNet(nn.Module):
    """A user's module under timm's calls: what `Encoder` asks of a net, and no more.

    Args:
        net: the module.
        features: (net, images) -> tokens (N, T, C), a map (N, C, h, w), or a list of maps, the last being the features.
        prefix_tokens: tokens before the patches.
        class_token: whether the first of them is a class token.
        layers: names of submodules in the order of computation; parameters of the same submodule are one layer.
    """

    def __init__(
        self, net: nn.Module, features: Features, prefix_tokens: int, class_token: bool, layers: Sequence[str]
    ) -> None:
        super().__init__()
        self.net = net
        self.features = features
        self.num_prefix_tokens = prefix_tokens
        self.cls_token = True if class_token else None
        self.layers = tuple(layers)
        self.num_features = 0  # measured by `wrap`
        self.feature_info: list[dict[str, Any]] = []

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_features(images)

    def forward_features(self, images: Tensor) -> Tensor:
        found = self.features(self.net, images)
        last: Tensor = found[-1] if isinstance(found, (list, tuple)) else found
        return last

    def forward_intermediates(self, images: Tensor, indices: Any = None, **_: Any) -> list[Tensor]:
        """As timm's, for maps alone."""
        found = self.features(self.net, images)
        maps = list(found) if isinstance(found, (list, tuple)) else [self._as_map(found, images)]
        return maps if indices is None else [maps[i] for i in sorted(set(indices))]

    def forward_head(self, features: Tensor, pre_logits: bool = True) -> Tensor:
        """A module without a head of its own is pooled by its class token, else by the mean of its patches."""
        if features.ndim == 4:
            return features.mean(dim=(2, 3))
        return features[:, 0] if self.cls_token else features[:, self.num_prefix_tokens :].mean(dim=1)

    def group_matcher(self, coarse: bool = False) -> Callable[[str], tuple[int, ...]]:
        """Layers by the names that `wrap` was given."""
        starts = [f"net.{layer}" for layer in self.layers]

        def layer(name: str) -> tuple[int, ...]:
            inside = [i for i, start in enumerate(starts) if name == start or name.startswith(f"{start}.")]
            return (1 + inside[0] if inside else 0,)

        return layer

    def _as_map(self, tokens: Tensor, images: Tensor) -> Tensor:
        if tokens.ndim == 4:
            return tokens
        patches = tokens[:, self.num_prefix_tokens :].transpose(1, 2)
        height, width = images.shape[-2:]
        rows = round((patches.shape[2] * height / width) ** 0.5)
        return patches.unflatten(2, (rows, -1))


def wrap(
    net: nn.Module,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    img_size: int | tuple[int, int],
    interpolation: str,
    crop_pct: float,
    features: Features | None = None,
    prefix_tokens: int = 0,
    class_token: bool = False,
    layers: Sequence[str] = (),
    name: str = "",
) -> Encoder:
    """A module as an encoder. Its preprocessing has to be said: nothing is taken for granted.

    Args:
        mean: RGB, of pixels in 0..1; `std` likewise.
        img_size: pixels; two images of this size are put through the net to see what comes out.
        interpolation: ``bicubic``, ``bilinear``, ``lanczos`` or ``nearest``, of the evaluation transform.
        crop_pct: side of the evaluation crop as a share of the resized image.
        features: (net, images) -> tokens (N, T, C), a map (N, C, h, w), or a list of maps from fine to coarse. Default:
            ``net(images)``.
        prefix_tokens: tokens before the patches: class token (first, then say `class_token`) and registers.
        layers: submodules in the order of computation, such as ``["blocks.0", "blocks.1"]``: for layer-wise learning-rate
            decay and partial fine-tuning. What is in none of them is the first layer.
        name: in records and tables; default the class's.

    Raises:
        UserError: a fact that cannot be, or the net raises or gives something else.
    """
    label = name or type(net).__name__
    size = (img_size, img_size) if isinstance(img_size, int) else (img_size[0], img_size[1])
    told = "the plug-in (Encoder.wrap)"
    preprocessing = Preprocessing(
        (mean[0], mean[1], mean[2]) if len(mean) == 3 else tuple(mean),  # type: ignore[arg-type]
        (std[0], std[1], std[2]) if len(std) == 3 else tuple(std),  # type: ignore[arg-type]
        interpolation,
        crop_pct,
        size,
        source=dict.fromkeys(FACTS, told),
    )
    wrapped = WrappedNet(net, features or _call, prefix_tokens, class_token, layers)
    if unknown_layers := [layer for layer in layers if layer not in dict(net.named_modules())]:
        raise UserError(f"{label}: layers={unknown_layers}: no such submodules")
    _measure(wrapped, size, label)
    encoder = Encoder(wrapped, preprocessing, arch=label)
    check_output(encoder, label)
    return encoder


def load_plugin(source: str) -> Encoder:
    """The encoder of ``module:package.file:function``; the current folder is looked in, too.

    Raises:
        UserError: no such module or function, it raises, or it returns no encoder that says its preprocessing.
    """
    module, _, function = source.removeprefix(PREFIX).partition(":")
    if not module or not function:
        raise UserError(f"{source}: give module:package.file:function, such as module:my_nets.vit:encoder")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = importlib.import_module(module)
        make = getattr(found, function)
        made = make()
    except UserError:
        raise
    except Exception as e:  # whatever the user's code raises
        reason = (str(e).splitlines() or [""])[0][:200]
        raise UserError(f"{source}: {type(e).__name__}: {reason}") from e
    if isinstance(made, Encoder):
        if not isinstance(made.net, WrappedNet):  # `wrap` has looked already
            check_output(made, source)
        return made
    if not isinstance(made, nn.Module):
        raise UserError(f"{source} returns {type(made).__name__}: return mae_bench.Encoder.wrap(net, mean=…, std=…, …)")
    if not isinstance(getattr(made, "preprocessing", None), Preprocessing):
        raise UserError(
            f"{source} returns a module that does not say its preprocessing: return mae_bench.Encoder.wrap(net, mean=…, "
            "std=…, img_size=…, interpolation=…, crop_pct=…)"
        )
    encoder = Encoder(made, made.preprocessing, arch=type(made).__name__)  # type: ignore[arg-type]
    check_output(encoder, source)
    return encoder


def plugin_digest(encoder: Encoder) -> str:
    """sha256 over the weights and the source of the net's class: the part of a job's identity that a file's digest is."""
    net = encoder.net.net if isinstance(encoder.net, WrappedNet) else encoder.net
    digest = hashlib.sha256()
    try:
        digest.update(inspect.getsource(type(net)).encode())
    except (OSError, TypeError):  # made in a notebook
        digest.update(repr(net).encode())
    for name, tensor in net.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _call(net: nn.Module, images: Tensor) -> Any:
    return net(images)


@torch.no_grad()
def _measure(wrapped: WrappedNet, size: tuple[int, int], label: str) -> None:
    """Widths and strides, by two random images."""
    wrapped.eval()
    images = torch.rand(2, 3, *size)  # two, so that a net that mixes up images and tokens is seen
    try:
        found = wrapped.features(wrapped.net, images)
    except Exception as e:  # whatever the user's code raises
        reason = (str(e).splitlines() or [""])[0][:200]
        raise UserError(f"{label}: two images of {size[0]} x {size[1]} px: {type(e).__name__}: {reason}") from e
    outputs = list(found) if isinstance(found, (list, tuple)) else [found]
    wanted = (4,) if isinstance(found, (list, tuple)) else (3, 4)
    for each in outputs:
        if not isinstance(each, Tensor) or each.ndim not in wanted or len(each) != len(images):
            got = tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__
            raise UserError(
                f"{label}: features of two images gave {got}: give tokens (N, T, C), a map (N, C, h, w) or a list of maps"
            )
    if outputs[0].ndim == 3 and outputs[0].shape[1] <= wrapped.num_prefix_tokens:
        raise UserError(f"{label}: {outputs[0].shape[1]} tokens, {wrapped.num_prefix_tokens} of them prefix tokens")
    try:
        maps = [wrapped._as_map(each, images) for each in outputs]
    except RuntimeError as e:
        count = outputs[0].shape[1] - wrapped.num_prefix_tokens
        raise UserError(
            f"{label}: {count} patch tokens make no grid: see to prefix_tokens={wrapped.num_prefix_tokens}"
        ) from e
    wrapped.feature_info = [{"num_chs": m.shape[1], "reduction": -(-size[0] // m.shape[2])} for m in maps]
    wrapped.num_features = maps[-1].shape[1]
