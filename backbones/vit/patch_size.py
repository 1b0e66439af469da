"""Another patch size for a pre-trained ViT: the embedding's kernel resampled in place. Positions are left as they are."""

from __future__ import annotations

from timm.layers.patch_embed import resample_patch_embed
from timm.models.vision_transformer import VisionTransformer
from torch import nn


def set_patch_size(encoder: VisionTransformer, patch: int) -> None:
    """Gives `encoder` patches of `patch` x `patch` pixels, as detection does with ViT-H/14, which has to be of a power of 2.

    The kernel (C, 3, P, P) is resampled so that an enlarged patch keeps its token (FlexiViT, Beyer et al. 2023, Sec. 3.4).
    The grid of the absolute positions stays that of pre-training: whoever uses the encoder resamples them to its input.
    """
    old: nn.Conv2d = encoder.patch_embed.proj
    if old.kernel_size == (patch, patch):
        return
    new = nn.Conv2d(
        old.in_channels, old.out_channels, patch, patch, bias=old.bias is not None, device=old.weight.device
    )
    if not old.weight.is_meta:
        new.weight.data = resample_patch_embed(old.weight.data, [patch, patch], verbose=False)
        if old.bias is not None and new.bias is not None:
            new.bias.data = old.bias.data.clone()
    encoder.patch_embed.proj = new
    encoder.patch_embed.patch_size = (patch, patch)
