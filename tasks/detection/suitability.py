"""Which encoders detection can start from."""

from __future__ import annotations

from backbones.checkpoints.architecture import Architecture


def why_not(architecture: Architecture) -> str:
    """ViTDet's pyramid scales the patches by powers of 2."""
    patch = architecture.patch
    if patch < 4 or patch & (patch - 1):
        return f"the pyramid needs a patch size that is a power of 2 from 4 on, not {patch}"
    return ""
