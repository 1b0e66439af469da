"""Mixup and CutMix of the official fine-tuning: timm's, with CutMix boxes as in the release that the official code pins."""

from __future__ import annotations

import numpy as np
import timm.data
from torch import Tensor


class Mixup(timm.data.Mixup):
    """timm's `Mixup`, one draw a batch, with boxes as in timm 0.3.2: today's timm makes odd sides one pixel longer.

    The share of each image in the target follows from the box, so that targets would differ as well.
    """

    def _mix_batch(self, x: Tensor) -> float:
        """Mixes (N, C, H, W) with its reverse, in place; returns the share that each image keeps."""
        share, use_cutmix = self._params_per_batch()
        if use_cutmix:
            height, width = x.shape[-2:]
            top, bottom, left, right = random_box(height, width, share)
            x[:, :, top:bottom, left:right] = x.flip(0)[:, :, top:bottom, left:right]
            return 1.0 - (bottom - top) * (right - left) / (height * width)
        if share != 1.0:
            mixed_in = x.flip(0).mul_(1.0 - share)
            x.mul_(share).add_(mixed_in)
        return share


def random_box(height: int, width: int, share: float) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of a box around a uniformly drawn pixel that leaves `share` of the image, clipped to it.

    From numpy's global generator, as timm draws everything else.
    """
    half_height, half_width = (int(side * (1.0 - share) ** 0.5) // 2 for side in (height, width))
    y, x = np.random.randint(0, height), np.random.randint(0, width)
    top, bottom = np.clip([y - half_height, y + half_height], 0, height)
    left, right = np.clip([x - half_width, x + half_width], 0, width)
    return int(top), int(bottom), int(left), int(right)
