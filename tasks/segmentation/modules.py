"""What we add to mmseg's registry: our encoder as a backbone, a linear head, inference on images of any size.

Shapes: N images, C channels, H x W pixels, h x w patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.encoders.contract import Encoder
from backbones.encoders.maps import EncoderMaps
from backbones.vit.dense import DenseEncoder
from tasks.segmentation.mm import MODELS, BaseDecodeHead, EncoderDecoder, SegDataPreProcessor


class _Freezable:
    """mmseg's contract for backbones, (N, 3, H, W) -> a tuple of feature maps (N, C, h, w), on a net that may be frozen."""

    frozen: bool = False

    def train(self, mode: bool = True) -> Any:
        """A frozen encoder stays in evaluation mode."""
        return super().train(mode and not self.frozen)  # type: ignore[misc]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad() if self.frozen else nullcontext():
            return tuple(self._normed(features) for features in super().forward(images))  # type: ignore[misc]

    def _normed(self, features: Tensor) -> Tensor:
        return features


@MODELS.register_module()
class DenseMaps(_Freezable, EncoderMaps):  # type: ignore[misc]
    """`EncoderMaps` under mmseg's contract.

    Args:
        frozen: no gradients, and always in evaluation mode.
        settings: of `EncoderMaps`.
    """

    def __init__(self, encoder: Encoder, *, frozen: bool = False, **settings: Any) -> None:
        super().__init__(encoder, **settings)
        self.frozen = frozen
        if frozen:
            self.requires_grad_(False)


@MODELS.register_module()
class DenseViT(_Freezable, DenseEncoder):  # type: ignore[misc]
    """`DenseEncoder` under mmseg's contract.

    Args:
        frozen: no gradients, and always in evaluation mode, so that neither drop path nor training changes a feature.
        final_norm: put every map through the encoder's last norm, as DINOv2's `get_intermediate_layers` does.
        settings: of `DenseEncoder`.
    """

    def __init__(self, encoder: Any, *, frozen: bool = False, final_norm: bool = False, **settings: Any):
        norm = encoder.norm  # DenseEncoder takes it off
        super().__init__(encoder, **settings)
        self.norm = norm if final_norm else nn.Identity()
        self.frozen = frozen
        if frozen:
            self.requires_grad_(False)

    def _normed(self, features: Tensor) -> Tensor:
        if isinstance(self.norm, nn.Identity):
            return features
        normed: Tensor = self.norm(features.movedim(1, -1)).movedim(-1, 1)
        return normed


@MODELS.register_module()
class OwnColours(SegDataPreProcessor):
    """mmseg's preprocessor with the arithmetic of `tasks.datasets.transforms.normalise`, as encoders' own libraries have it."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], **settings: Any) -> None:
        super().__init__(mean=[m / 255 for m in mean], std=[s / 255 for s in std], **settings)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """As mmseg's, of pixels in 0..1."""
        cast = self.cast_data(data)
        prepared: dict[str, Any] = super().forward(
            {**cast, "inputs": [image.float() / 255 for image in cast["inputs"]]}, training
        )
        return prepared


@MODELS.register_module()
class LinearHead(BaseDecodeHead):
    """BatchNorm and a 1x1 convolution on the concatenated maps, upsampled by mmseg to the image.

    DINOv2's linear segmentation (dinov2/eval/segmentation/models/decode_heads/linear_head.py).
    """

    def __init__(self, in_channels: Sequence[int], **settings: Any) -> None:
        super().__init__(
            in_channels=list(in_channels),
            in_index=list(range(len(in_channels))),
            channels=sum(in_channels),
            input_transform="resize_concat",
            dropout_ratio=0.0,
            **settings,
        )
        synchronised = self.norm_cfg["type"] == "SyncBN"
        self.bn = (nn.SyncBatchNorm if synchronised else nn.BatchNorm2d)(self.channels)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Maps (N, C, h, w) -> logits (N, classes, h, w)."""
        logits: Tensor = self.cls_seg(self.bn(self._transform_inputs(inputs)))
        return logits


@MODELS.register_module()
class PatchwiseEncoderDecoder(EncoderDecoder):
    """mmseg's `EncoderDecoder` whose logits lie where they belong for images and windows of partial patches.

    mmseg stretches the map of ceil(H / patch) patches over H pixels; here the padding is stretched too, and cut off again.

    Args:
        least_patches: along each side that neck and head need; smaller images are padded to it.
        least_pixels: likewise of an encoder that takes windows of one size alone.
        settings: of `EncoderDecoder`.
    """

    def __init__(self, *, least_patches: int = 1, least_pixels: int = 1, **settings: Any) -> None:
        super().__init__(**settings)
        self.least_patches, self.least_pixels = least_patches, least_pixels

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict[str, Any]]) -> Tensor:
        """Normalised images (N, 3, H, W) -> logits (N, classes, H, W)."""
        height, width = inputs.shape[-2:]
        padded = F.pad(inputs, (0, self._padding(width), 0, self._padding(height)))
        # A torch.Size is what mmseg's heads resize their logits to.
        logits: Tensor = super().encode_decode(padded, [{**batch_img_metas[0], "img_shape": padded.shape[-2:]}])
        return logits[..., :height, :width]

    def _padding(self, pixels: int) -> int:
        patch = self.backbone.patch_size
        return max(self.least_patches, -(-max(pixels, self.least_pixels) // patch)) * patch - pixels
