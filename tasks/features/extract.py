"""Features of a data set's images, batch by batch, for whoever keeps them. What a feature is: `backbones.encoders.features`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from backbones.encoders.contract import Encoder
from backbones.encoders.features import Feature, image_features
from backbones.vit.attention import choose_attention
from tasks.datasets.loading import (
    CollateOrFail,
    SampleOrFailed,
    begin_worker,
    dead_workers_explained,
    raise_if_failed,
)
from tasks.datasets.transforms import normalise

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def feature_batches(
    encoder: Encoder,
    wanted: Sequence[Feature],
    images: Dataset[Any],
    rows: range,
    *,
    device: torch.device | None = None,
    batch_size: int,
    workers: int,
    precision: str = "fp32",
) -> Iterator[tuple[int, list[Tensor]]]:
    """(row of the first image, one (n, *shape) float32 tensor on the CPU a feature) of `rows` of `images`, in order.

    Memory holds a few batches at a time. `images` gives (uint8 (3, H, W), label), as `tasks.datasets.images.TransformedImages`.

    Args:
        device: by default the GPU, where there is one.
        precision: of the encoder's autocast: fp32, bf16 or fp16.

    Raises:
        UserError: an image cannot be read.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = DataLoader(
        SampleOrFailed(images),
        batch_size=batch_size,
        sampler=rows,
        collate_fn=CollateOrFail(default_collate),
        num_workers=workers,
        worker_init_fn=begin_worker,
        pin_memory=device.type == "cuda",
    )
    encoder.to(device).eval()
    choose_attention(encoder, device, bf16=precision == "bf16")
    done = rows.start
    with dead_workers_explained():
        for batch in loader:
            pixels = normalise(raise_if_failed(batch)[0].to(device, non_blocking=True), encoder.preprocessing)
            with torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32"):
                found = image_features(encoder, pixels, wanted)
            yield done, [feature.float().cpu() for feature in found]
            done += len(pixels)
