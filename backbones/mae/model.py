"""The masked autoencoder (He et al., CVPR 2022): timm's ViT as the encoder, a light decoder, loss on masked patches.

No training, no checkpoints; which patches are masked is `backbones.mae.masking`'s, what is predicted
`backbones.mae.targets`'. Shapes:
N images, L patches, V visible ones, D encoder width, E decoder width, P = patch_size**2 * 3 pixel values of a patch.
"""

from __future__ import annotations

from functools import partial

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from backbones.mae.masking import Masking, draw_masking
from backbones.mae.patches import patchify, take
from backbones.mae.targets import Target, create_target
from backbones.vit.encoder import initialise_linear
from backbones.vit.pos_embed import sincos_2d


class MaskedAutoencoder(nn.Module):
    """MAE around an encoder made by `backbones.vit.encoder.create_encoder`.

    Submodules but `encoder` bear the official names (`decoder_embed`, `mask_token`, `decoder_blocks`, …), so that stripping
    ``encoder.`` from the state gives the official layout.

    Args:
        mask_sampling: ``random``, ``block`` or ``grid`` (Table 1f).
        encoder_mask_tokens: whether mask tokens go through the encoder at the masked positions, as in BEiT, instead of only
            through the decoder (Table 1c). `mask_token` is then of the encoder's width.
        target: what is predicted (Table 1d), by name or made by `backbones.mae.targets.create_target`. A target
        with buffers keeps
            them in the state under ``decoder_target.``.
    """

    def __init__(
        self,
        encoder: VisionTransformer,
        *,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        mask_ratio: float = 0.75,
        mask_sampling: str = "random",
        encoder_mask_tokens: bool = False,
        target: Target | str = "pixels_norm",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.patch_size: int = encoder.patch_embed.patch_size[0]
        self.grid: tuple[int, int] = encoder.patch_embed.grid_size
        self.mask_ratio = mask_ratio
        self.mask_sampling = mask_sampling
        self.encoder_mask_tokens = encoder_mask_tokens
        decoder_target = create_target(target, self.patch_size) if isinstance(target, str) else target
        # Fixed sin-cos positions in pre-training (paper App. A.1); fine-tuning trains them.
        encoder.pos_embed.requires_grad_(False)

        # The encoder's own: 1e-6, but 1e-12 in weights that Hugging Face's default configuration trained.
        norm_layer = partial(nn.LayerNorm, eps=encoder.norm.eps)
        self.decoder_embed = nn.Linear(encoder.embed_dim, decoder_embed_dim)
        mask_token_dim = encoder.embed_dim if encoder_mask_tokens else decoder_embed_dim
        self.mask_token = nn.Parameter(torch.zeros(1, 1, mask_token_dim))
        self.decoder_pos_embed = nn.Parameter(
            sincos_2d(decoder_embed_dim, self.grid, prefix_tokens=1), requires_grad=False
        )
        self.decoder_blocks = nn.ModuleList(
            Block(decoder_embed_dim, decoder_num_heads, qkv_bias=True, norm_layer=norm_layer)
            for _ in range(decoder_depth)
        )
        self.decoder_norm = norm_layer(decoder_embed_dim)
        self.decoder_pred = nn.Linear(decoder_embed_dim, decoder_target.outputs)
        for name, module in self.named_children():
            if name != "encoder":
                module.apply(initialise_linear)
        nn.init.normal_(self.mask_token, std=0.02)
        self.decoder_target: Target = decoder_target  # after the initialisation, which is not for a tokenizer's weights

    def embed_patches(self, patches: Tensor) -> Tensor:
        """Patch embedding of pixel patches (N, K, P) -> (N, K, D): the convolution as the matrix product that it is."""
        projection = self.encoder.patch_embed.proj
        weight = projection.weight.permute(0, 2, 3, 1).flatten(1)  # (D, P), pixels as in `patchify`
        return nn.functional.linear(patches, weight, projection.bias)

    def draw_masking(self, batch: int, device: torch.device | str = "cpu") -> Masking:
        """Masks for a batch by this model's sampling and ratio, from the global generators."""
        return draw_masking(self.mask_sampling, batch, self.grid, self.mask_ratio, device)

    def forward_encoder(self, patches: Tensor, masking: Masking) -> Tensor:
        """Latents, class token first: of the visible patches (N, 1 + V, D), in the order of `masking.ids_keep`.

        With `encoder_mask_tokens` of all patches (N, 1 + L, D), in the image's order. Masked pixels are never embedded.
        """
        encoder = self.encoder
        x = self.embed_patches(take(patches, masking.ids_keep))
        positions = encoder.pos_embed[:, 1:]
        if self.encoder_mask_tokens:
            x = self._insert_mask_tokens(x, masking) + positions
        else:
            x = x + take(positions.expand(len(x), -1, -1), masking.ids_keep)
        cls = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([cls, x], dim=1)
        for block in encoder.blocks:
            x = block(x)
        return encoder.norm(x)

    def _insert_mask_tokens(self, visible: Tensor, masking: Masking) -> Tensor:
        """(N, V, C) -> (N, L, C) in the image's order, the mask token where a patch is masked."""
        mask_tokens = self.mask_token.to(visible.dtype).expand(len(visible), masking.ids_masked.shape[1], -1)
        return take(torch.cat([visible, mask_tokens], dim=1), masking.ids_restore)

    def forward_decoder(self, latent: Tensor, masking: Masking) -> Tensor:
        """Decoder states of all tokens (N, 1 + L, E), in the image's order, before the prediction layer."""
        x = self.decoder_embed(latent)
        if not self.encoder_mask_tokens:
            x = torch.cat([x[:, :1], self._insert_mask_tokens(x[:, 1:], masking)], dim=1)
        x = x + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_norm(x)

    def forward(self, images: Tensor, masking: Masking | None = None) -> Tensor:
        """The target's loss over the masked patches of (N, 3, H, W) normalised images, a scalar.

        Predictions and targets are made for masked patches only; the mean equals the official masked mean, since every
        image has the same number of them.
        """
        patches = patchify(images, self.patch_size)
        if masking is None:
            masking = self.draw_masking(len(images), images.device)
        decoded = self.forward_decoder(self.forward_encoder(patches, masking), masking)
        prediction = self.decoder_pred(take(decoded[:, 1:], masking.ids_masked))
        target = self.decoder_target(images, patches, masking.ids_masked)
        return self.decoder_target.loss(prediction, target)

    @torch.no_grad()
    def predict(self, images: Tensor, masking: Masking) -> Tensor:
        """Predictions for all patches (N, L, target.outputs), in target space; `decoder_target.to_pixels` leads out of it."""
        latent = self.forward_encoder(patchify(images, self.patch_size), masking)
        return self.decoder_pred(self.forward_decoder(latent, masking)[:, 1:])
