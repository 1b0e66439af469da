"""What a stranger's checkpoint says of itself has the types and sizes that it should, or is refused by name of the key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from backbones.errors import UserError
from backbones.files.tensor_files import read_tensors

STATE = {"a": torch.ones(2)}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_attention_heads", "four"),
        ("num_attention_heads", 10**12),
        ("image_size", {"a": 1}),
        ("image_size", 10**9),
        ("layer_norm_eps", "x"),
        ("model_type", ["x"]),
        ("decoder_num_attention_heads", []),
        ("model_args", {"checkpoint_path": "/tmp/evil.pth"}),
        ("model_args", {"depth": 10**9}),
        ("pretrained_cfg", {"input_size": [3, 10**9, 10**9]}),
        ("pretrained_cfg", {"mean": "x"}),
    ],
)
def test_a_config_of_other_types_is_refused_by_its_key(tmp_path: Path, key: str, value: Any) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "architecture": "vit_tiny", key: value}))
    with pytest.raises(UserError, match=rf"config\.json: {key}"):
        read_tensors(tmp_path)


@pytest.mark.parametrize(
    ("metadata", "place"),
    [
        ({"arch": 5}, "arch"),
        ({"img_size": [10**9, 10**9]}, "img_size"),
        ({"method": {"a": 1}}, "method"),
        ({"pretraining": {"settings": {"mae.decoder_num_heads": "zz"}}}, "pretraining.settings.mae.decoder_num_heads"),
        ({"pretraining": {"settings": {"mae.mask_ratio": "x"}}}, "pretraining.settings.mae.mask_ratio"),
    ],
)
def test_metadata_of_other_types_is_refused_by_its_key(tmp_path: Path, metadata: dict[str, Any], place: str) -> None:
    path = tmp_path / "encoder.safetensors"
    safetensors.torch.save_file(STATE, path, metadata={"mae_bench": json.dumps(metadata)})
    with pytest.raises(UserError, match=re.escape(place)):
        read_tensors(path)


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 150 + "]" * 150], ids=["endless", "deep"])
def test_json_that_is_nested_too_deeply_is_refused(tmp_path: Path, text: str) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match="nested too deeply"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("index", [["a"], {"a": {"x": 1}}, {"a": 5}, {}])
def test_an_index_that_names_no_files_is_refused(tmp_path: Path, index: Any) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(UserError, match="names no files"):
        read_tensors(tmp_path)
