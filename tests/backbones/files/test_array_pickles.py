"""Pickles of numpy arrays, as detectron2 publishes its weights: read bit for bit, and nothing in them is run."""

from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backbones.checkpoints.checkpoint import load_checkpoint
from backbones.errors import UserError
from backbones.files.tensor_files import read_tensors
from backbones.vit.encoder import create_encoder

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.ones(2, dtype=np.float16),
    "count": np.array(7, dtype=np.int64),
    "big endian": np.arange(3, dtype=">f4"),
    "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
}


def pickled(path: Path, content: Any, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_are_read_bit_for_bit_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    content = {"model": collections.OrderedDict(ARRAYS), "__author__": "someone", "trainer": {"step": np.float32(1)}}
    file = read_tensors(pickled(tmp_path / "m.pkl", content, protocol))
    assert file.wrapper == "model"
    assert file.tensors.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert np.array_equal(file.tensors[name].numpy(), array)


def test_numpy_2s_own_names_are_known(tmp_path: Path) -> None:
    """Older numpy writes ``numpy.core``, numpy 2 ``numpy._core``."""
    old = pickle.dumps({"model": ARRAYS}, protocol=2).replace(b"numpy._core.", b"numpy.core.")
    (tmp_path / "m.pkl").write_bytes(old)
    assert read_tensors(tmp_path / "m.pkl").tensors.keys() == ARRAYS.keys()


@pytest.mark.parametrize("legacy", [True, False])
def test_files_of_torch_are_not_taken_for_such(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "m.pkl"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=not legacy)
    assert torch.equal(read_tensors(path).tensors["a"], torch.ones(2))


class Runs:
    """A pickle that makes a folder when it is loaded carelessly."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


class Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("suffix", ["pkl", "pth"])
def test_a_pickle_that_runs_code_does_not_run(tmp_path: Path, suffix: str) -> None:
    target = tmp_path / "touched"
    path = pickled(tmp_path / f"bad.{suffix}", {"model": ARRAYS, "x": Runs(target)})
    file = read_tensors(path)
    assert file.tensors.keys() == ARRAYS.keys()
    assert file.foreign == ("posix.mkdir",)
    assert not target.exists()
    pickle.loads(path.read_bytes())  # the file is what it claims to be
    assert target.exists()


@pytest.mark.parametrize("call", [Calls(eval, "1"), Calls(np.load, "x"), Calls(getattr, {}, "get")])
def test_nothing_is_called(tmp_path: Path, call: Calls) -> None:
    file = read_tensors(pickled(tmp_path / "bad.pkl", {"model": ARRAYS, "x": call}))
    assert file.foreign == (f"{call.call[0].__module__}.{call.call[0].__name__}".replace("builtins", "__builtin__"),)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_file_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    path = pickled(tmp_path / "cut.pkl", {"model": ARRAYS})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match="cut short"):
        read_tensors(path)


def test_arrays_of_texts_are_no_tensors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no named tensors"):
        read_tensors(pickled(tmp_path / "m.pkl", {"model": {"a": np.array(["x"]), "b": np.array([None, {}])}}))


def test_an_encoder_comes_out_of_it(tmp_path: Path) -> None:
    encoder = create_encoder("vit_micro_patch8", img_size=32)
    state = {k: v.numpy() for k, v in encoder.state_dict().items()}
    checkpoint = load_checkpoint(pickled(tmp_path / "m.pkl", {"model": state}))
    assert checkpoint.arch == "vit_micro_patch8"
    assert all(torch.equal(v, checkpoint.state[k]) for k, v in encoder.state_dict().items())
