"""Discrete visual tokens (paper Table 1d): what a tokenizer is to MAE, and a small one that is fitted here.

The paper's tokens are those of DALL-E's dVAE, a network trained on 250 million images, whose weights cannot be had here.
`PatchCodebook` stands in for it: vector quantisation of single patches by k-means. Its tokens know nothing of a patch's
surroundings, so that figures obtained with it are not figures of the paper's row. Any other tokenizer takes its place as
a module: ``TokenTarget(module)`` of `backbones.mae.targets`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol, runtime_checkable

import safetensors.torch
import torch
from torch import Tensor, nn

from backbones.errors import UserError
from backbones.mae.patches import patchify
from backbones.plain_files import open_plain


@runtime_checkable
class Tokenizer(Protocol):
    """A torch module that maps images to ids.

    ``module(images)`` takes images (N, 3, H, W) as the encoder does, that is RGB in 0..1 with ImageNet's mean taken off and
    divided by its deviation, and returns int64 ids (N, L) below `vocabulary`, one for each patch in row-major order.
    """

    vocabulary: int

    def __call__(self, images: Tensor) -> Tensor: ...


class PatchCodebook(nn.Module):
    """Vector quantisation of patches: the id of a patch is its nearest entry (Euclidean, over its pixels).

    Attributes:
        codebook: (K, P) buffer, K entries in the pixels of `backbones.mae.patches.patchify`; NaN until fitted or loaded.
    """

    codebook: Tensor

    def __init__(self, patch_size: int, vocabulary: int) -> None:
        super().__init__()
        self.patch_size, self.vocabulary = patch_size, vocabulary
        self.register_buffer("codebook", torch.full((vocabulary, patch_size**2 * 3), math.nan))

    def forward(self, images: Tensor) -> Tensor:
        """Ids (N, L) of normalised images (N, 3, H, W)."""
        patches = patchify(images.float(), self.patch_size)
        # argmin |x - c|^2 = argmin |c|^2 / 2 - x c: the matrix product is all that is large.
        half_square = 0.5 * self.codebook.square().sum(dim=1)
        return (half_square - patches @ self.codebook.T).argmin(dim=-1)

    def decode(self, ids: Tensor) -> Tensor:
        """Ids (...) -> pixel patches (..., P): the entries themselves."""
        return self.codebook[ids]

    @torch.no_grad()
    def fit(self, patches: Tensor, seed: int = 0) -> None:
        """k-means (scikit-learn's mini-batch variant, k-means++ starts) over patches (M, P).

        Raises:
            UserError: fewer patches than entries.
        """
        from sklearn.cluster import MiniBatchKMeans  # a second to import, which only this needs

        if len(patches) < self.vocabulary:
            raise UserError(
                f"mae.vocabulary={self.vocabulary} tokens cannot be fitted to {len(patches)} patches: give a smaller one"
            )
        means = MiniBatchKMeans(
            self.vocabulary, batch_size=4096, max_iter=20, n_init=1, random_state=seed, reassignment_ratio=0.0
        )
        means.fit(patches.float().cpu().numpy())
        self.codebook.copy_(torch.from_numpy(means.cluster_centers_))


def load_tokenizer(path: str | Path, patch_size: int) -> PatchCodebook:
    """A codebook from the ``tokenizer.safetensors`` of a pre-training run with ``mae.target=tokens``.

    Raises:
        UserError: no such file, no codebook in it, or one for another patch size.
    """
    try:
        open_plain(Path(path).expanduser()).close()
        tensors = safetensors.torch.load_file(Path(path).expanduser())
    except Exception as e:  # safetensors raises errors of its own, the system others
        raise UserError(f"mae.tokenizer={path}: not readable as safetensors ({' '.join(str(e).split())[:120]})") from e
    codebook = tensors.get("codebook")
    if codebook is None or codebook.ndim != 2 or not torch.isfinite(codebook).all():
        raise UserError(f"mae.tokenizer={path}: holds no finite codebook (K, P): give a run's tokenizer.safetensors")
    if codebook.shape[1] != patch_size**2 * 3:
        raise UserError(
            f"mae.tokenizer={path}: entries of {codebook.shape[1]} values, patches of {patch_size} px have "
            f"{patch_size**2 * 3}: give a tokenizer for this patch size"
        )
    tokenizer = PatchCodebook(patch_size, len(codebook))
    tokenizer.codebook.copy_(codebook)
    return tokenizer
