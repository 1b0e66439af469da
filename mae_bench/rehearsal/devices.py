"""Published peaks of the devices that jobs run on: data, with where each figure is from. Dense, without sparsity."""

from __future__ import annotations

from dataclasses import dataclass

from backbones.errors import UserError, unknown

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        half: operations a second in bf16, or fp16 where there is no bf16, with sums in fp32.
        single: in fp32, without TF32.
        memory: bytes.
        link: bytes a second that one GPU sends to others of its node.
        source: who says so.
    """

    half: float
    single: float
    memory: int
    link: float
    source: str
    bf16: bool = True


DEVICES = {
    "h100": Device(989.4e12, 66.9e12, 80 * GIB, 450e9, "NVIDIA H100 Tensor Core GPU architecture, H100 SXM5"),
    "h200": Device(989.4e12, 66.9e12, 141 * 10**9, 450e9, "NVIDIA H200 datasheet, H200 SXM"),
    "a100": Device(312e12, 19.5e12, 80 * GIB, 300e9, "NVIDIA A100 datasheet, A100 80GB SXM"),
    "v100": Device(125e12, 15.7e12, 32 * GIB, 150e9, "NVIDIA V100 datasheet, V100 SXM2 32 GB", bf16=False),
}

# What part of the peak published runs reached, by this project's count of operations and with their reading of data in it.
# V100 in fp16: MAE's FINETUNE.md (ViT-B 13 %, L 19 %, H 17 %; linear probe 12 %) and PRETRAIN.md (ViT-L 11 %). A100, an image
# each: detectron2's projects/ViTDet (ViT-B 6.4 %, L 6.7 %, H 6.2 %). Nobody has published hours of the segmenters: detection's.
SHARES = {"pretraining": 0.11, "classification": 0.15, "probing": 0.12, "detection": 0.065, "segmentation": 0.065}
OTHER_SHARE = 0.1  # of tasks from outside


def find(name: str) -> Device:
    """The device called `name`, or a UserError with the nearest name."""
    if name.lower() not in DEVICES:
        raise unknown("device", name, DEVICES, where="--device")
    return DEVICES[name.lower()]


def parse_bytes(flag: str, text: str) -> int:
    """``80GiB``, ``80GB``, ``512MiB`` as bytes."""
    units = {"gib": GIB, "gb": 10**9, "mib": 2**20, "mb": 10**6}
    number, unit = text.strip().lower(), ""
    for unit in units:
        if number.endswith(unit):
            number = number.removesuffix(unit).strip()
            break
    else:
        unit = ""
    try:
        value = float(number) * units[unit]
    except (KeyError, ValueError):
        raise UserError(f"{flag} {text}: give a number with its unit, such as 80GiB") from None
    if not 0 < value < 2**60:
        raise UserError(f"{flag} {text}: give a size above 0")
    return int(value)
