"""The masked autoencoder (He et al., CVPR 2022): timm's ViT as the encoder, a light decoder, loss on masked patches.

No training, no checkpoints. Shapes: N images, L patches, V visible ones, D encoder width, E decoder width,
P = patch_size**2 * 3 pixel values of a patch.
"""

from __future__ import annotations

from functools import partial

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from backbones.encoder import initialise_linear
from backbones.masking import Masking, random_masking
from backbones.pos_embed import sincos_2d


def patchify(images: Tensor, patch: int) -> Tensor:
    """(N, 3, H, W) -> (N, L, P): patches in row-major order, pixels as (row, column, channel)."""
    n, c, h, w = images.shape
    x = images.reshape(n, c, h // patch, patch, w // patch, patch)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(n, (h // patch) * (w // patch), patch * patch * c)


def unpatchify(patches: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """(N, L, P) -> (N, 3, H, W): the inverse of `patchify` for a grid of (rows, columns)."""
    n, _, p = patches.shape
    x = patches.reshape(n, *grid, patch, patch, p // patch**2)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(n, -1, grid[0] * patch, grid[1] * patch)


def normalise_patches(patches: Tensor) -> Tensor:
    """Each patch (last dimension) to zero mean and unit (unbiased) variance: the paper's normalised-pixel target."""
    mean = patches.mean(dim=-1, keepdim=True)
    var = patches.var(dim=-1, keepdim=True)
    return (patches - mean) / (var + 1e-6).sqrt()


def take(tokens: Tensor, ids: Tensor) -> Tensor:
    """(N, L, C) at indices (N, K) -> (N, K, C)."""
    return tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


_layer_norm = partial(nn.LayerNorm, eps=1e-6)


class MaskedAutoencoder(nn.Module):
    """MAE around an encoder made by `backbones.encoder.create_encoder`.

    Submodules but `encoder` bear the official names (`decoder_embed`, `mask_token`, `decoder_blocks`, …), so that stripping
    ``encoder.`` from the state gives the official layout.
    """

    def __init__(
        self,
        encoder: VisionTransformer,
        *,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        mask_ratio: float = 0.75,
        norm_pix_loss: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.patch_size: int = encoder.patch_embed.patch_size[0]
        self.grid: tuple[int, int] = encoder.patch_embed.grid_size
        self.mask_ratio = mask_ratio
        self.norm_pix_loss = norm_pix_loss
        # Fixed sin-cos positions in pre-training (paper App. A.1); fine-tuning trains them.
        encoder.pos_embed.requires_grad_(False)

        self.decoder_embed = nn.Linear(encoder.embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.decoder_pos_embed = nn.Parameter(
            sincos_2d(decoder_embed_dim, self.grid, prefix_tokens=1), requires_grad=False
        )
        self.decoder_blocks = nn.ModuleList(
            Block(decoder_embed_dim, decoder_num_heads, qkv_bias=True, norm_layer=_layer_norm)
            for _ in range(decoder_depth)
        )
        self.decoder_norm = _layer_norm(decoder_embed_dim)
        self.decoder_pred = nn.Linear(decoder_embed_dim, self.patch_size**2 * 3)
        for name, module in self.named_children():
            if name != "encoder":
                module.apply(initialise_linear)
        nn.init.normal_(self.mask_token, std=0.02)

    def embed_patches(self, patches: Tensor) -> Tensor:
        """Patch embedding of pixel patches (N, K, P) -> (N, K, D): the convolution as the matrix product that it is."""
        projection = self.encoder.patch_embed.proj
        weight = projection.weight.permute(0, 2, 3, 1).flatten(1)  # (D, P), pixels as in `patchify`
        return nn.functional.linear(patches, weight, projection.bias)

    def forward_encoder(self, patches: Tensor, masking: Masking) -> Tensor:
        """Latents of the visible patches (N, 1 + V, D), class token first. What is masked is never embedded."""
        encoder = self.encoder
        x = self.embed_patches(take(patches, masking.ids_keep))
        x = x + take(encoder.pos_embed[:, 1:].expand(len(x), -1, -1), masking.ids_keep)
        cls = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([cls, x], dim=1)
        for block in encoder.blocks:
            x = block(x)
        return encoder.norm(x)

    def forward_decoder(self, latent: Tensor, masking: Masking) -> Tensor:
        """Decoder states of all tokens (N, 1 + L, E), in the image's order, before the prediction layer."""
        x = self.decoder_embed(latent)
        mask_tokens = self.mask_token.to(x.dtype).expand(len(x), masking.ids_masked.shape[1], -1)
        tokens = take(torch.cat([x[:, 1:], mask_tokens], dim=1), masking.ids_restore)
        x = torch.cat([x[:, :1], tokens], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_norm(x)

    def targets(self, patches: Tensor) -> Tensor:
        """What the decoder has to predict for pixel patches (N, K, P)."""
        return normalise_patches(patches) if self.norm_pix_loss else patches

    def forward(self, images: Tensor, masking: Masking | None = None) -> Tensor:
        """Mean squared error over the masked patches of (N, 3, H, W) normalised images, a scalar.

        Predictions and targets are made for masked patches only; the mean equals the official masked mean, since every
        image has the same number of them.
        """
        patches = patchify(images, self.patch_size)
        if masking is None:
            masking = random_masking(len(images), patches.shape[1], self.mask_ratio, images.device)
        decoded = self.forward_decoder(self.forward_encoder(patches, masking), masking)
        prediction = self.decoder_pred(take(decoded[:, 1:], masking.ids_masked))
        target = self.targets(take(patches, masking.ids_masked))
        return (prediction.float() - target.float()).square().mean()

    @torch.no_grad()
    def predict(self, images: Tensor, masking: Masking) -> Tensor:
        """Predictions for all patches (N, L, P), in target space (per-patch normalised when `norm_pix_loss`)."""
        latent = self.forward_encoder(patchify(images, self.patch_size), masking)
        return self.decoder_pred(self.forward_decoder(latent, masking)[:, 1:])
