"""What the decoder predicts (paper Table 1d): pixels, normalised pixels, PCA coefficients of patches, discrete tokens.

A target knows how many numbers are predicted for a patch, what they are to be, and the loss between the two. Shapes as in
`backbones.mae.patches`, with M masked patches an image.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from backbones.errors import UserError, unknown
from backbones.mae.patches import take
from backbones.mae.tokenizer import PatchCodebook, Tokenizer, load_tokenizer

TARGETS = ("pixels_norm", "pixels", "pca", "tokens")


def normalise_patches(patches: Tensor) -> Tensor:
    """Each patch (last dimension) to zero mean and unit (unbiased) variance: the paper's normalised-pixel target."""
    mean, deviation = _statistics(patches)
    return (patches - mean) / deviation


def _statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    return patches.mean(dim=-1, keepdim=True), (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()


def _full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Autocast off, since targets are made in float32; the meta device, on which FLOPs are counted, knows no autocast."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


class Target(nn.Module, ABC):
    """What is predicted for the masked patches.

    Attributes:
        name: value of ``mae.target`` in a recipe.
        outputs: numbers that the decoder predicts for a patch.
        needs_fit: whether `fit` has to come first, since neither it nor a state dict has been there.
    """

    name: str
    outputs: int
    needs_fit = False

    @abstractmethod
    def forward(self, images: Tensor, patches: Tensor, ids: Tensor) -> Tensor:
        """The targets of the patches at `ids` (N, M), from images (N, 3, H, W) or their patches (N, L, P)."""

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of predictions (N, M, outputs): the mean squared error."""
        return (prediction.float() - target.float()).square().mean()

    @abstractmethod
    def to_pixels(self, prediction: Tensor, patches: Tensor) -> Tensor:
        """Predictions (N, L, outputs) as pixel patches (N, L, P).

        Normalised pixels know neither brightness nor contrast: those of the true `patches` (N, L, P) are given back, as the
        paper's figures do.
        """

    def fit(self, patches: Tensor, seed: int = 0) -> None:
        """Learns what the target needs to know of training patches (M, P); nothing for most."""


class Pixels(Target):
    """The patch's pixels as the encoder takes them (ImageNet's mean and deviation taken off)."""

    name = "pixels"

    def __init__(self, patch_size: int) -> None:
        super().__init__()
        self.outputs = patch_size**2 * 3

    def forward(self, images: Tensor, patches: Tensor, ids: Tensor) -> Tensor:
        return take(patches, ids)

    def to_pixels(self, prediction: Tensor, patches: Tensor) -> Tensor:
        return prediction


class NormalisedPixels(Pixels):
    """Pixels of zero mean and unit variance in each patch."""

    name = "pixels_norm"

    def forward(self, images: Tensor, patches: Tensor, ids: Tensor) -> Tensor:
        return normalise_patches(take(patches, ids))

    def to_pixels(self, prediction: Tensor, patches: Tensor) -> Tensor:
        mean, deviation = _statistics(patches)
        return prediction * deviation + mean


class _Fitted(Target):
    """A target with buffers that `fit` or a state dict fills."""

    needs_fit = True

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.needs_fit = False

    def _check_fitted(self, images: Tensor) -> None:
        if self.needs_fit and not images.is_meta:  # shapes and FLOPs can be had without
            raise RuntimeError(f"target {self.name} was neither fitted to training patches nor loaded")


class PCACoefficients(_Fitted):
    """The largest principal components of pixel patches; the paper keeps 96 (Sec. 4.1).

    Coefficients are projections of the patch, less the mean patch, on orthonormal directions. They are not whitened: the paper
    says nothing of it, and so a component counts by its variance, as it does in the loss over pixels.
    """

    name = "pca"
    mean: Tensor
    components: Tensor

    def __init__(self, patch_size: int, components: int) -> None:
        super().__init__()
        pixels = patch_size**2 * 3
        if not 0 < components <= pixels:
            raise UserError(
                f"mae.pca_components={components}: a patch of {patch_size} px has {pixels}, give 1 to {pixels}"
            )
        self.outputs = components
        self.register_buffer("mean", torch.full((pixels,), math.nan))
        self.register_buffer("components", torch.full((components, pixels), math.nan))

    @torch.no_grad()
    def fit(self, patches: Tensor, seed: int = 0) -> None:
        """Mean and largest components of patches (M, P); exact, and signs fixed, so the same patches give the same buffers."""
        mean = patches.mean(dim=0, dtype=torch.float64)
        centred = (block.double() - mean for block in patches.split(8192))  # all at once in float64 would be large
        covariance = sum(x.T @ x for x in centred) / len(patches)
        _, vectors = torch.linalg.eigh(covariance)
        components = vectors.flip(1).T[: self.outputs]
        largest = components.abs().argmax(dim=1, keepdim=True)
        self.mean.copy_(mean)
        self.components.copy_(components * components.gather(1, largest).sign())
        self.needs_fit = False

    def forward(self, images: Tensor, patches: Tensor, ids: Tensor) -> Tensor:
        self._check_fitted(images)
        with _full_precision(patches.device):
            return (take(patches, ids).float() - self.mean) @ self.components.T

    def to_pixels(self, prediction: Tensor, patches: Tensor) -> Tensor:
        return prediction.float() @ self.components + self.mean


class TokenTarget(_Fitted):
    """Ids of a tokenizer, predicted as a distribution over its vocabulary; the loss is the cross-entropy (as in BEiT)."""

    name = "tokens"

    def __init__(self, tokenizer: nn.Module, *, needs_fit: bool = False) -> None:
        super().__init__()
        if not isinstance(tokenizer, Tokenizer):
            raise TypeError(f"{type(tokenizer).__name__} has no `vocabulary`: see backbones.mae.tokenizer.Tokenizer")
        self.tokenizer = tokenizer.requires_grad_(False)
        self.outputs = tokenizer.vocabulary
        self.needs_fit = needs_fit

    def train(self, mode: bool = True) -> TokenTarget:
        super().train(mode)
        self.tokenizer.eval()
        return self

    def fit(self, patches: Tensor, seed: int = 0) -> None:
        self.tokenizer.fit(patches, seed)  # type: ignore[operator]
        self.needs_fit = False

    def forward(self, images: Tensor, patches: Tensor, ids: Tensor) -> Tensor:
        self._check_fitted(images)
        with torch.no_grad(), _full_precision(images.device):
            return self.tokenizer(images.float()).gather(1, ids)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(prediction.float().flatten(0, 1), target.flatten())

    def to_pixels(self, prediction: Tensor, patches: Tensor) -> Tensor:
        """The most probable token's pixels, for tokenizers that can `decode`."""
        return self.tokenizer.decode(prediction.argmax(dim=-1))  # type: ignore[operator]


def create_target(
    name: str,
    patch_size: int,
    *,
    pca_components: int = 96,
    vocabulary: int = 8192,
    tokenizer: str | None = None,
) -> Target:
    """The target of a recipe's ``mae:`` section.

    Args:
        tokenizer: a tokenizer file for ``tokens``; None makes a codebook of `vocabulary` entries that is to be fitted.

    Raises:
        UserError: unknown name, more components than pixels, or an unreadable tokenizer.
    """
    if name == "pixels":
        return Pixels(patch_size)
    if name == "pixels_norm":
        return NormalisedPixels(patch_size)
    if name == "pca":
        return PCACoefficients(patch_size, pca_components)
    if name == "tokens":
        if tokenizer is not None:
            return TokenTarget(load_tokenizer(tokenizer, patch_size))
        if vocabulary < 2:
            raise UserError(f"mae.vocabulary={vocabulary}: give at least 2 tokens")
        return TokenTarget(PatchCodebook(patch_size, vocabulary), needs_fit=True)
    raise unknown("target", name, TARGETS, where="mae.target")
