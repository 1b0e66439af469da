"""What a checkpoint says of itself in JSON (``config.json``, the metadata of our own files): types and ranges, checked once.

A value here decides sizes of what is built; whoever reads one may take it for what this page says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema

from backbones.errors import UserError


def _number(kind: str, least: float, most: float) -> dict[str, Any]:
    return {"type": [kind, "null"], "minimum": least, "maximum": most}


_TEXT = {"type": ["string", "null"], "maxLength": 200}
_SWITCH = {"type": ["boolean", "null"]}
_HEADS = _number("integer", 1, 4096)
_PIXELS = {
    "anyOf": [
        _number("integer", 1, 1 << 16),
        {"type": "array", "items": _number("integer", 1, 1 << 16), "minItems": 2, "maxItems": 3},
    ]
}
_CHANNELS = {
    "type": "array",
    "items": {"type": "number", "minimum": -1000, "maximum": 1000},
    "minItems": 1,
    "maxItems": 16,
}
# Arguments of timm.create_model that make it fetch or load something else than the file at hand.
_NOT_ARCHITECTURE = ["checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"]
_ARGUMENT = {
    "anyOf": [
        _TEXT,
        _SWITCH,
        _number("number", -(1 << 17), 1 << 17),
        {"type": "array", "maxItems": 64, "items": _number("number", -(1 << 17), 1 << 17)},
    ]
}
_DEPTHS = {
    "anyOf": [_number("integer", 1, 1000), {"type": "array", "maxItems": 64, "items": _number("integer", 1, 1000)}]
}
_TIMM = {
    "architecture": _TEXT,
    "model_args": {
        "type": ["object", "null"],
        "propertyNames": {"not": {"enum": _NOT_ARCHITECTURE}},
        "properties": {**dict.fromkeys(("depth", "depths"), _DEPTHS), "num_classes": _number("integer", 0, 1 << 20)},
        "additionalProperties": _ARGUMENT,
    },
    "pretrained_cfg": {
        "type": ["object", "null"],
        "properties": {
            **dict.fromkeys(("mean", "std"), _CHANNELS),
            "input_size": {"type": "array", "items": _number("integer", 1, 1 << 16), "minItems": 3, "maxItems": 3},
            "crop_pct": _number("number", 0, 4),
            **dict.fromkeys(("interpolation", "crop_mode"), _TEXT),
        },
    },
}
# Hugging Face's and timm's; keys that are not here are not asked for.
_CONFIG = {
    "type": "object",
    "properties": {
        **dict.fromkeys(("num_attention_heads", "decoder_num_attention_heads"), _HEADS),
        "patch_size": _PIXELS,
        **dict.fromkeys(("hidden_size", "num_hidden_layers", "intermediate_size"), _number("integer", 1, 1 << 20)),
        **_TIMM,
        "model_type": _TEXT,
        "image_size": _PIXELS,
        "layer_norm_eps": _number("number", 0, 1),
        "norm_pix_loss": _SWITCH,
    },
}
_METADATA = {
    "type": "object",
    "properties": {
        **dict.fromkeys(("arch", "method", "recipe"), _TEXT),
        "img_size": _PIXELS,
        "pretraining": {
            "type": ["object", "null"],
            "properties": {
                "settings": {
                    "type": ["object", "null"],
                    "properties": {
                        "mae.decoder_num_heads": _HEADS,
                        "mae.mask_ratio": _number("number", 0, 1),
                        "mae.encoder_mask_tokens": _SWITCH,
                        **dict.fromkeys(("mae.mask_sampling", "mae.target"), _TEXT),
                    },
                }
            },
        },
    },
}


def check_config(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """A ``config.json`` as it is.

    Raises:
        UserError: a value of another type, or out of range; names file and key.
    """
    return _checked(str(path), content, _CONFIG)


def check_metadata(path: Path, content: Any) -> dict[str, Any] | None:
    """The metadata of a file of ours as it is, None where it is none of ours.

    Raises:
        UserError: a value of another type, or out of range; names file and key.
    """
    return _checked(f"{path} (its metadata)", content, _METADATA) if isinstance(content, dict) else None


def _checked(where: str, content: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(content))
    if error is not None:
        place = ".".join(str(part) for part in error.absolute_path) or "the whole"
        raise UserError(f"{where}: {place}: {' '.join(error.message.split())[:150]}")
    return content
