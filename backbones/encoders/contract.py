"""The contract between encoders and what measures them: any net under timm's calls, and its preprocessing. No files, no tasks.

Tasks ask an `Encoder` and never the net's class. `net` is timm's model as timm builds it (or a user's module, `Encoder.wrap`);
whoever needs what only MAE's plain ViT has (windows, masks) asks `plain`.
Shapes: N images, T tokens, L patches, C width, h x w positions of a map.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.models._manipulate import group_with_matcher
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from backbones.encoders.preprocessing import Preprocessing
from backbones.errors import UserError, unknown
from backbones.vit.param_groups import layer_id

POOLINGS = ("cls", "mean", "own")


@dataclass(frozen=True)
class Stage:
    """One of the outputs that maps can be taken of: a block of a ViT, a stage of a hierarchical net."""

    width: int
    stride: int  # pixels of the input between neighbouring positions


class Encoder(nn.Module):
    """An image encoder; ``encoder(images)`` is `forward_features`.

    Attributes:
        net: the module with timm's calls (``forward_features``, ``forward_intermediates``, ``forward_head``, ``feature_info``).
        arch: its name, for records and tables.
        preprocessing: what images have to go through before, and where that is known from.
        img_size: pixels, (height, width), of the images that it takes now.
        stages: every output that `maps` gives, in order.
        width: of a pooled feature by ``cls`` and ``mean``.
        prefix_tokens: class token and registers, before the patches.
        class_token: whether the first of them is a class token.
        layer_of: parameter's name (as in ``named_parameters``) -> its layer, from 0, in the order of computation.
        head_layer: layer of what a task puts behind the encoder, as timm's layer decay counts a head.
    """

    def __init__(
        self,
        net: nn.Module,
        preprocessing: Preprocessing,
        *,
        arch: str,
        plain: bool = False,
        img_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.net: Any = net
        self._plain = plain
        self.arch = arch
        self.preprocessing = preprocessing
        self.img_size = img_size or preprocessing.img_size
        timms: Any = net
        # A list of dicts, or timm's `FeatureInfo` around one; timm < 1.0.31 has none of nets that give no maps.
        info = getattr(timms, "feature_info", [])
        self.stages = [Stage(f["num_chs"], f["reduction"]) for f in getattr(info, "info", info)]
        self.width = int(timms.num_features)
        self.class_token = _has_class_token(net)
        self.prefix_tokens = int(getattr(timms, "num_prefix_tokens", self.class_token))
        layers = _layers(net, plain)
        self.head_layer = layers.pop(_HEAD)
        self.layer_of = {f"net.{name}": layer for name, layer in layers.items()}

    def __getattr__(self, name: str) -> Any:
        """What timm's model has beside, such as ``blocks``."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("net"), name)

    @property
    def plain(self) -> VisionTransformer | None:
        """The plain ViT of MAE, windows and ViTDet (`backbones.vit.encoder`); None when it is another net."""
        return self.net if self._plain else None

    @property
    def hierarchical(self) -> bool:
        """Whether maps of several strides come out, as an FPN takes them; a ViT's need a pyramid made of them."""
        return len({stage.stride for stage in self.stages}) > 1

    @property
    def layer_count(self) -> int:
        """Layers of `layer_of`, embeddings included."""
        return 1 + max(self.layer_of.values())

    @property
    def layer_rules(self) -> dict[str, Any]:
        """Which layer each parameter belongs to, as `backbones.vit.param_groups.param_groups` takes it."""
        if self.plain is not None:
            return {"depth": len(self.plain.blocks)}
        spared: set[str] = getattr(self.net, "no_weight_decay", set)()
        return {
            "depth": self.head_layer - 1,
            "layer_of": dict(self.layer_of),
            "spared": frozenset(f"net.{name}" for name in spared),
        }

    @property
    def own_pooling(self) -> tuple[str, ...]:
        """How names of parameters begin that the pooling ``own`` alone uses: by any other they get no gradient."""
        return tuple(f"net.{name}" for name in _OWN_POOLING)

    @property
    def poolings(self) -> tuple[str, ...]:
        """Those of `POOLINGS` that there are."""
        return tuple(kind for kind in POOLINGS if kind != "cls" or self.class_token)

    @property
    def own_width(self) -> int:
        """Width of a feature pooled by ``own``."""
        return int(getattr(self.net, "head_hidden_size", None) or self.width)

    def forward(self, images: Tensor) -> Tensor:
        """As `forward_features`."""
        return self.forward_features(images)

    def forward_features(self, images: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) -> what the net gives: tokens (N, T, C), or a map (N, C, h, w) or (N, h, w, C)."""
        found = self.net.forward_features(images)
        if not isinstance(found, Tensor):
            raise UserError(
                f"{self.arch} gives several features for an image (CrossViT does): such nets are not measured"
            )
        return found

    def maps(self, images: Tensor, stages: Sequence[int] | None = None, *, norm: bool = False) -> list[Tensor]:
        """A map (N, C, h, w) of each of `stages` (indices, negative ones from the end; default all).

        Args:
            norm: apply the net's final norm, where it has one that fits.
        """
        indices = None if stages is None else [i % len(self.stages) for i in stages]
        found = self.net.forward_intermediates(
            images, indices=indices, norm=norm, stop_early=not norm, output_fmt="NCHW", intermediates_only=True
        )
        if indices is None:
            return list(found)
        by_index = dict(zip(sorted(set(indices)), found, strict=True))  # timm gives them in the order of computation
        return [by_index[i] for i in indices]

    def tokens(self, images: Tensor, stages: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """(patch tokens (N, L, C), prefix tokens (N, T, C)) of each of `stages` (ascending indices), not normalised."""
        if not self.prefix_tokens:
            maps = self.maps(images, stages)
            return [
                (found.flatten(2).transpose(1, 2), found.new_empty(len(found), 0, found.shape[1])) for found in maps
            ]
        return list(
            self.net.forward_intermediates(
                images,
                indices=list(stages),
                return_prefix_tokens=True,
                stop_early=True,
                output_fmt="NLC",
                intermediates_only=True,
            )
        )

    def patches(self, features: Tensor) -> Tensor:
        """Output of `forward_features` -> patch tokens (N, L, C), row by row, without class token and registers."""
        if features.ndim == 3:
            return features[:, self.prefix_tokens :]
        if str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC"):
            return features.flatten(1, 2)
        return features.flatten(2).transpose(1, 2)

    def pool(self, features: Tensor, kind: str) -> Tensor:
        """Output of `forward_features` -> (N, C).

        Args:
            kind: ``cls``: the class token. ``mean``: mean of the patches. ``own``: as the net itself pools for its head
                (attention pooling, ``fc_norm``, the class token …); its width is `own_width`.

        Raises:
            UserError: unknown kind, or no class token.
        """
        if kind not in POOLINGS:
            raise unknown("pooling", kind, POOLINGS)
        if kind not in self.poolings:
            raise UserError(f"{self.arch} has no class token: give one of {', '.join(self.poolings)}")
        if kind == "cls":
            return features[:, 0]
        if kind == "own":
            return self.net.forward_head(features, pre_logits=True)
        if not self.patches(features).shape[1]:
            raise UserError(f"{self.arch} gives its class token alone: give cls or own")
        return self.patches(features).mean(dim=1)

    def trained_by(self, layers: int) -> list[nn.Parameter]:
        """Parameters of the last `layers` layers and of what comes behind them, for partial fine-tuning; freezes nothing."""
        if not 0 <= layers <= self.layer_count:
            raise UserError(f"{self.arch} has {self.layer_count} layers: give 0 to {self.layer_count}")
        first = self.layer_count - layers
        return [p for name, p in self.named_parameters() if self.layer_of[name] >= first]

    @staticmethod
    def wrap(net: nn.Module, **told: Any) -> Encoder:
        """A module of the user's as an encoder; see `backbones.encoders.plugin.wrap`."""
        from backbones.encoders.plugin import wrap  # imports this module

        return wrap(net, **told)


def _has_class_token(net: nn.Module) -> bool:
    holder = getattr(net, "embeds", net)  # NaFlexViT keeps its tokens there
    return getattr(holder, "cls_token", None) is not None


# Parameters of the input that timm's matchers of ViTs leave unnamed, and so would count to the head.
_INPUT = re.compile(r"(?:reg_token|dist_token|norm_pre\.|rope\.|embeds\.)")


_OWN_POOLING = ("attn_pool.", "fc_norm.", "head.", "head_norm.", "norm_head.", "norm_pool.")
_HEAD = "head of the task"  # a name that no parameter has


def _layers(net: Any, plain: bool) -> dict[str, int]:
    """timm's grouping, as its `param_groups_layer_decay` has it; the plain ViT's is the official one. `_HEAD` is among them."""
    names = [name for name, _ in net.named_parameters()]
    if plain:
        return {name: layer_id(name, len(net.blocks)) for name in [*names, _HEAD]}
    if not hasattr(net, "group_matcher"):
        return {**dict.fromkeys(names, 0), _HEAD: 1}  # `param_groups` refuses layer decay then
    matcher = net.group_matcher()
    found = group_with_matcher([(name, None) for name in [*names, _HEAD]], matcher, reverse=True)
    layers = {name: 0 if _INPUT.match(name) else int(found[name]) for name in names}
    return {**layers, _HEAD: 1 + max(layers.values()) if callable(matcher) else int(found[_HEAD])}


_ALONE = 1e-3  # relative error of an image's features alone and in a batch, of float32; of shorter numbers:
_ALONE_SHORT = 5e-2


@torch.no_grad()
def check_output(encoder: Encoder, path: object) -> None:
    """Two random images through the net: tokens or maps of the width that it says, finite, and of each image alone.

    Raises:
        UserError: the net raises, gives something else, or an image's features hang on the rest of its batch or on chance.
    """
    size = encoder.preprocessing.img_size
    images = torch.rand(2, 3, *size)
    images[1] *= 0.1  # of other statistics, so that those of a batch show
    try:
        both = encoder.eval().forward_features(images)
        pooled = encoder.pool(both, "mean")
        alone = encoder.pool(encoder.forward_features(images[:1]), "mean")
    except Exception as e:  # whatever a user's module raises
        reason = (str(e).splitlines() or [""])[0][:160]
        raise UserError(f"{path}: images of {size[0]} x {size[1]} px: {type(e).__name__}: {reason}") from e
    if pooled.shape != (2, encoder.width) or alone.shape != (1, encoder.width) or not torch.isfinite(pooled).all():
        raise UserError(
            f"{path}: its mean features of two images have shape {tuple(pooled.shape)}, not (2, {encoder.width}), or are not "
            "finite: see to prefix_tokens and the order of the axes"
        )
    error = (pooled[:1] - alone).float().norm() / alone.float().norm().clamp_min(1e-12)
    if error > (_ALONE if both.dtype == torch.float32 else _ALONE_SHORT):
        raise UserError(
            f"{path}: an image's features alone and in a batch of two differ by {error:.0%}: in evaluation mode they must hang "
            "on the image alone (see to BatchNorm and dropout that stay in training mode)"
        )
