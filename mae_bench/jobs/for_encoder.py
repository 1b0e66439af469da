"""Recipes for the encoder at hand: what its net asks for beyond what `mae_bench.recipes.any_encoder` fits by numbers.

The net is looked at without its weights. What is found becomes a value of the recipe: plan, config.yaml and record show it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from backbones.checkpoints.checkpoint import Checkpoint
from backbones.encoders.contract import Encoder
from backbones.encoders.maps import pyramid_stages, windowed
from backbones.encoders.plugin import Plugin
from backbones.encoders.preprocessing import family_default
from backbones.encoders.timm_models import PREFIX, TimmModel, registered
from backbones.errors import UserError
from mae_bench.jobs.job import PlannedJob
from mae_bench.recipes.any_encoder import EncoderFacts, facts_of
from mae_bench.recipes.load import recipe_for
from tasks.recipe import Recipe

_PROBE_SIZES = ((64, 96), (96, 64))  # pixels: a net that takes both takes any


@dataclass(frozen=True)
class EncoderAtHand:
    """The start of jobs, a checkpoint or an architecture by name, as recipes have to know it."""

    arch: str
    source: Checkpoint | None = None

    @cached_property
    def facts(self) -> EncoderFacts:
        """For `recipe_for`."""
        if self._plain:
            size = max(self.source.img_size) if self.source else None
            named = facts_of(self.arch)
            return EncoderFacts(self.arch, named.width, named.depth, named.patch, size)
        net = self._outline
        parameters = sum(p.numel() for p in net.parameters())
        stride = max(stage.stride for stage in net.stages)
        fits = windowed(net) is not None
        size = max(net.preprocessing.img_size)
        return EncoderFacts(self.arch, net.width, len(net.stages), stride, size, parameters, plain=fits)

    def recipe(self, protocol: str, data: str, overrides: Sequence[str] = ()) -> Recipe:
        """The recipe of a protocol on a data set, with `overrides` last."""
        made = recipe_for(protocol, data, self.facts)
        fitted = [*self._of_plain(made)] if self._plain else [*self._of_any(made)]
        return recipe_for(protocol, data, self.facts, [*fitted, *overrides])

    def notes(self, made: Iterable[Recipe]) -> list[str]:
        """What people have to know of recipes that `recipe` has made."""
        without = [r.protocol for r in made if self._without_layer_decay(r)]
        if not without:
            return []
        plugin = self.source is not None and isinstance(self.source.architecture, Plugin)
        reason = (
            "does not say its layers in order (layers of Encoder.wrap)" if plugin else "has no layers that timm groups"
        )
        return [f"{self.arch} {reason}: {', '.join(dict.fromkeys(without))} without layer-wise learning-rate decay"]

    def _without_layer_decay(self, recipe: Recipe) -> bool:
        if self._plain or self._outline.layer_count > 1 or recipe.optimizer.layer_decay is not None:
            return False
        return recipe_for(recipe.protocol, recipe.data.name, self.facts).optimizer.layer_decay is not None

    @property
    def _plain(self) -> bool:
        return not self.arch.startswith(PREFIX) if self.source is None else self.source.plain is not None

    @cached_property
    def _outline(self) -> Encoder:
        return self._opened(None)

    def _opened(self, size: int | None) -> Encoder:
        """The net without weights, for every size that it takes and first for `size`; a plug-in as it is."""
        architecture: Any = self.source.architecture if self.source else registered(self.arch.removeprefix(PREFIX))
        if isinstance(architecture, Plugin):
            return architecture.open()
        assert isinstance(architecture, TimmModel)
        wanted = architecture.img_size if size is None else (size, size)
        with torch.device("meta"):
            net = architecture.open(None, wanted, drop_path=0.0, dynamic=True)
            return Encoder(net, architecture.preprocessing(), arch=self.arch, img_size=wanted)

    @cached_property
    def _gives_patches(self) -> bool:
        """Whether there are features of patches to take the mean of: PiT gives its class token alone."""
        net = self._outline.eval()
        if not net.class_token:
            return True
        with torch.no_grad():
            features = net.forward_features(_blank(net, net.img_size))
        return features.ndim == 4 or features.shape[1] > net.prefix_tokens

    def _takes(self, size: int) -> bool:
        try:
            opened = self._opened(size)
            with torch.no_grad():
                opened.eval().maps(_blank(opened, (size, size)))
        except Exception:  # nets refuse in any way
            return False
        return True

    @cached_property
    def _takes_any_size(self) -> bool:
        strides = max(stage.stride for stage in self._outline.stages)
        try:
            with torch.no_grad():
                for height, width in _PROBE_SIZES:
                    size = (-(-height // strides) * strides, -(-width // strides) * strides)
                    self._outline.eval().maps(_blank(self._outline, size))
        except Exception:  # as above
            return False
        return True

    def _of_plain(self, recipe: Any) -> Iterator[str]:
        """A ViT that is known by its tensors may lack a class token, and have BEiT's bias."""
        architecture = self.source.plain if self.source else None
        if architecture is None:
            return
        if recipe.task in ("classification", "probing"):
            yield from _pooling(recipe, class_token=architecture.class_token, norm=True)
        if recipe.task == "detection" and architecture.relative_bias and recipe.detection.rel_pos:
            yield "detection.rel_pos=false"

    def _of_any(self, recipe: Any) -> Iterator[str]:
        net = self._outline
        native = max(net.preprocessing.img_size)
        if recipe.task in ("classification", "probing"):
            yield from _pooling(recipe, class_token=net.class_token, norm=False, patches=self._gives_patches)
        if recipe.optimizer.layer_decay is not None and net.layer_count == 1:
            yield "optimizer.layer_decay=null"
        if recipe.task != "detection" and not self._takes(recipe.encoder.img_size):
            yield f"encoder.img_size={native}"
        if recipe.task == "detection":
            yield from self._of_detection(recipe, native)
        if recipe.task == "segmentation":
            yield from self._of_segmentation(recipe)

    def _of_detection(self, recipe: Any, native: int) -> Iterator[str]:
        net = self._outline
        if net.hierarchical and recipe.detection.pyramid == "fpn":
            raise UserError(
                f"{recipe.protocol} makes a pyramid of maps of one stride, {self.arch} has stages of its own: "
                "give --tasks detection"
            )
        if net.hierarchical:
            pyramid_stages(net)  # refuses nets of other strides
            yield "detection.pyramid=stages"
        if windowed(net) is None:
            yield "detection.patch_size=null"
            if not self._takes(recipe.detection.img_size):
                yield f"detection.img_size={native}"

    def _of_segmentation(self, recipe: Any) -> Iterator[str]:
        net, config = self._outline, recipe.segmentation
        if net.hierarchical and config.head == "upernet":
            yield f"segmentation.out_blocks={pyramid_stages(net)}"
        if windowed(net) is None and config.inference == "whole" and not self._takes_any_size:
            crop = recipe.encoder.img_size if self._takes(recipe.encoder.img_size) else max(net.preprocessing.img_size)
            yield "segmentation.inference=slide"
            yield f"segmentation.slide_stride={crop * 2 // 3}"


def _blank(encoder: Encoder, size: tuple[int, int]) -> torch.Tensor:
    return torch.zeros(1, 3, *size, device=next(encoder.parameters()).device)


def _pooling(recipe: Any, *, class_token: bool, norm: bool, patches: bool = True) -> Iterator[str]:
    """Without a class token as the encoder itself pools; of inner layers, where it does not, the mean of the patches.

    Without patches the class token.
    """
    if recipe.task == "classification":
        if recipe.head.pool == "avg" and not patches:
            yield "head.pool=token"
        if recipe.head.pool == "token" and not class_token:
            yield "head.pool=own"
        return
    features = recipe.features
    if "token" in features.pools and not class_token:
        own = "own" if features.layers == [-1] and features.norm != "none" else "avg"
        pools = dict.fromkeys(own if pool == "token" else pool for pool in features.pools)
        yield f"features.pools=[{','.join(pools)}]"
    if features.norm == "all" and not norm:
        yield "features.norm=last"


def with_published_crop(job: PlannedJob) -> PlannedJob:
    """A recipe that reproduces a published figure evaluates on the official crop (util/datasets.py), not on the encoder's own.

    That is said in the recipe where it makes a difference, and so is part of the job's identity.
    """
    recipe: Any = job.recipe
    section = getattr(recipe, "augmentation" if recipe.task == "classification" else "features", None)
    if job.checkpoint is None or job.checkpoint.preprocessing.is_imagenet or not recipe.published or section is None:
        return job
    told = (recipe.encoder.interpolation, recipe.encoder.crop_pct, getattr(section, "eval_crop_ratio", 1.0))
    if any(value is not None for value in told):
        return job
    official = family_default((recipe.encoder.img_size, recipe.encoder.img_size), "")
    recipe = deepcopy(recipe)
    recipe.encoder.interpolation = official.interpolation
    getattr(
        recipe, "augmentation" if recipe.task == "classification" else "features"
    ).eval_crop_ratio = official.crop_pct
    return replace(job, recipe=recipe)


def check_arch(arch: str) -> None:
    """A UserError unless ``--scratch ARCH`` names a plain ViT or a model of timm's."""
    from backbones.vit.arch import parse_arch

    registered(arch.removeprefix(PREFIX)) if arch.startswith(PREFIX) else parse_arch(arch)
