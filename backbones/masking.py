"""Random masking: which patches the encoder sees, and how to put the sequence back in order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Masking:
    """Per-sample choice of visible patches, for N images of L patches of which V are visible.

    Attributes:
        ids_keep: (N, V) indices of the visible patches, in the shuffled order in which the encoder sees them.
        ids_masked: (N, L - V) indices of the masked patches, in shuffled order.
        ids_restore: (N, L); position of each patch in [visible, masked], so that gathering by it restores the order.
    """

    ids_keep: Tensor
    ids_masked: Tensor
    ids_restore: Tensor

    @property
    def mask(self) -> Tensor:
        """(N, L) float: 1 where a patch is masked, 0 where it is visible."""
        return (self.ids_restore >= self.ids_keep.shape[1]).float()


def visible_count(patches: int, mask_ratio: float) -> int:
    """Number of visible patches: ``patches * (1 - mask_ratio)`` rounded down, as in the official code."""
    return int(patches * (1 - mask_ratio))


def mask_from_noise(noise: Tensor, mask_ratio: float) -> Masking:
    """The patches with the smallest `noise` (N, L) stay visible (paper Sec. 3: random sampling without replacement)."""
    ids_shuffle = noise.argsort(dim=1)
    visible = visible_count(noise.shape[1], mask_ratio)
    return Masking(ids_shuffle[:, :visible], ids_shuffle[:, visible:], ids_shuffle.argsort(dim=1))


def random_masking(batch: int, patches: int, mask_ratio: float, device: torch.device | str = "cpu") -> Masking:
    """Uniform random masking, drawn from the global generator of `device`."""
    return mask_from_noise(torch.rand(batch, patches, device=device), mask_ratio)
