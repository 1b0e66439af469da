"""Hugging Face's ``preprocessor_config.json`` as `Preprocessing`, and what families have where it is absent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from backbones.encoders.preprocessing import Preprocessing, family_default, not_told
from backbones.errors import UserError

FILE = "preprocessor_config.json"
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # PIL's numbers
_CONVNEXT_SQUASH = 384  # from this size on ConvNeXt's processor makes the whole image square

_IMAGENET = ("vit_mae", "deit", "dinov2", "dinov2_with_registers", "swin", "convnext", "convnextv2", "hiera")
_OPENAI_MEAN, _OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_SIGLIP = ("siglip", "siglip_vision_model", "siglip2", "siglip2_vision_model")


def of_processor(config: Mapping[str, Any], img_size: tuple[int, int], path: object) -> Preprocessing:
    """What a processor's configuration says.

    Args:
        img_size: pixels, of the model.

    Raises:
        UserError: values that are none.
    """
    try:
        mean, std = _statistics(config)
        crop_pct, crop_mode = _crop(config)
        interpolation = _RESAMPLE[int(config.get("resample", 2))]
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as e:
        raise UserError(f"{path}: {FILE}: {type(e).__name__} {e}: not as transformers writes it") from e
    told = {
        "mean": "image_mean",
        "std": "image_std",
        "interpolation": "resample",
        "crop_pct": "size",
        "crop_mode": "size",
    }
    default = "the default of transformers' processors"
    source = {fact: FILE if key in config else default for fact, key in told.items()}
    source |= {
        fact: f"not told: {FILE} says nothing" for fact, value in (("mean", mean), ("std", std)) if value is None
    }
    return Preprocessing(mean, std, interpolation, crop_pct, img_size, crop_mode, {**source, "img_size": "config.json"})


def of_family(model_type: str, img_size: tuple[int, int]) -> Preprocessing:
    """What all published files of a family have, and said so; left open for a family whose files differ."""
    why = f"{FILE} is not there, published {model_type} files have it"
    default = family_default(img_size, why)
    if model_type in _IMAGENET:
        return default
    if model_type.startswith("clip"):
        return replace(default, mean=_OPENAI_MEAN, std=_OPENAI_STD, crop_pct=1.0)
    if model_type in _SIGLIP:
        return replace(default, mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0, crop_mode="squash")
    return not_told(img_size, f"{FILE} is not there, and published {model_type} files differ")


def as_processor(preprocessing: Preprocessing) -> dict[str, Any]:
    """The ``preprocessor_config.json`` that says the same, for transformers' ``CLIPImageProcessor``, which all of it fits.

    Raises:
        UserError: mean and deviation are not known.
    """
    known = preprocessing.known("the checkpoint")
    height, width = known.img_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": round(min(height, width) / known.crop_pct)},
        "resample": next(number for number, name in _RESAMPLE.items() if name == known.interpolation),
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(known.mean or ()),
        "image_std": list(known.std or ()),
    }


def _statistics(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Mean and deviation of pixels in 0..1, whatever the processor's own scale; None where it says nothing."""
    scale = 255 * (float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0)
    if not config.get("do_normalize", True):
        return (0.0,) * 3, (1 / scale,) * 3
    mean, std = (config.get(key) for key in ("image_mean", "image_std"))
    if abs(scale - 1) < 1e-6:
        scale = 1.0  # 0.00392156862745098 is meant as 1 / 255
    return tuple(None if values is None else tuple(v / scale for v in _three(values)) for values in (mean, std))  # type: ignore[return-value]


def _three(values: Any) -> list[float]:
    return [float(values)] * 3 if isinstance(values, (int, float)) else [float(v) for v in values]


def _crop(config: Mapping[str, Any]) -> tuple[float, str]:
    """(share of the resized image, how it is made square), as timm calls them."""
    size = config.get("size", config.get("crop_size", {}))
    resized = size.get("shortest_edge") if isinstance(size, Mapping) else size
    if config.get("crop_pct"):  # ConvNeXt's
        if resized and resized >= _CONVNEXT_SQUASH:
            return 1.0, "squash"
        return float(config["crop_pct"]), "center"
    if resized is None or not config.get("do_resize", True):
        return 1.0, "squash"
    if not config.get("do_center_crop", False):
        # Processors of before 2022 say a number for a square.
        return (1.0, "center") if isinstance(size, Mapping) else (1.0, "squash")
    crop = config.get("crop_size", resized)
    crop = crop["height"] if isinstance(crop, Mapping) else crop
    return crop / resized, "center"
