"""Checkpoints with objects of other people's code in them: the tensors are read, the rest is named, nothing is run."""

from __future__ import annotations

import argparse
import collections
import io
import json
import os
import pathlib
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from torch import Tensor, nn

from backbones.errors import UserError
from backbones.files.inert_pickle import MalformedPickle
from backbones.files.tensor_files import read_tensors, save_tensors
from backbones.files.torch_files import read_content

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1.5, 2.5, 3.5], dtype=torch.float16)}


class HistoryBuffer:
    """As mmengine's: an object with arrays in it, filled attribute by attribute."""

    def __init__(self) -> None:
        self._log_history = np.arange(3.0)


class Runs:
    """A pickle that makes a folder when it is loaded carelessly."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


class Wrapped(collections.OrderedDict[str, Any]):
    """A dict of another class, as configuration libraries have them."""


def assert_state(tensors: dict[str, Tensor]) -> None:
    assert tensors.keys() == STATE.keys()
    for name, tensor in STATE.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


CONTENTS: dict[str, dict[str, Any]] = {
    "numpy scalars": {"state_dict": STATE, "best": np.float64(3.5), "epoch": np.int64(4)},
    "a path": {"model": STATE, "out": pathlib.PurePosixPath("/tmp/x")},
    "a command line": {"model": STATE, "args": argparse.Namespace(out=pathlib.PurePosixPath("/x"), norm_pix_loss=True)},
    "mmengine's": {
        "meta": {"epoch": 1, "time": np.float32(2.0)},
        "message_hub": {"log_scalars": collections.OrderedDict(loss=HistoryBuffer())},
        "state_dict": collections.OrderedDict(STATE),
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
    },
    "random states": {
        "model": STATE,
        "rng": [random.getstate(), np.random.RandomState(1).get_state(), torch.get_rng_state()],
        "counts": collections.defaultdict(int, {"a": 1}),
        "seen": {1, 2, 3},
        "frozen": frozenset("ab"),
    },
    "Lightning's": {
        "state_dict": STATE,
        "hyper_parameters": {"path": pathlib.PurePosixPath("/x"), "activation": nn.functional.gelu},
        "callbacks": {"ModelCheckpoint{}": {"best_model_score": torch.tensor(1.0)}},
        "pytorch-lightning_version": "2.5.0",
    },
    "parameters": {"model": {name: nn.Parameter(tensor) for name, tensor in STATE.items()}},
    "a dict of another class": {"model": Wrapped(STATE)},
    "Storage shared": {"model": STATE, "twin": STATE},
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("content", CONTENTS)
def test_tensors_are_read_whatever_lies_beside_them(tmp_path: Path, content: str, legacy: bool) -> None:
    path = tmp_path / "epoch_1.pth"
    torch.save(CONTENTS[content], path, _use_new_zipfile_serialization=not legacy)
    file = read_tensors(path)
    assert_state(file.tensors)
    theirs = torch.load(path, weights_only=False)[file.wrapper]  # torch's own reader, which runs what it finds
    torch.testing.assert_close(file.tensors, {name: tensor.data for name, tensor in theirs.items()}, rtol=0, atol=0)


def test_a_file_that_mmengine_writes(tmp_path: Path) -> None:
    """Its runner's ``epoch_1.pth``: histories, a configuration and an optimiser's state beside the weights."""
    logging, runner = pytest.importorskip("mmengine.logging"), pytest.importorskip("mmengine.runner")
    hub = logging.MessageHub.get_instance("a test")
    hub.update_scalar("train/loss", np.float64(0.5))
    hub.update_info("epoch", 1)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {
        "meta": {"epoch": 1, "cfg": "model = dict()", "seed": np.int64(3), "time": pathlib.PurePosixPath("/x")},
        "state_dict": runner.weights_to_cpu(model.state_dict()),
        "message_hub": hub.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    runner.save_checkpoint(content, str(tmp_path / "epoch_1.pth"))
    file = read_tensors(tmp_path / "epoch_1.pth")
    torch.testing.assert_close(file.tensors, dict(model.state_dict()), rtol=0, atol=0)
    theirs = torch.load(tmp_path / "epoch_1.pth", weights_only=False)
    assert type(theirs["message_hub"]["log_scalars"]["train/loss"]).__name__ == "HistoryBuffer"


WRAPPERS = ("model_state_dict", "module", "net", "network", "encoder", "backbone", "target_encoder", "weights_of_mine")


@pytest.mark.parametrize("key", WRAPPERS)
def test_any_one_key_may_hold_the_weights(tmp_path: Path, key: str) -> None:
    torch.save({key: STATE, "epoch": 3, "loss": torch.ones(()).item()}, tmp_path / "w.pth")
    file = read_tensors(tmp_path / "w.pth")
    assert_state(file.tensors)
    assert file.wrapper == key


def test_of_two_unknown_keys_none_is_guessed(tmp_path: Path) -> None:
    torch.save({"first": STATE, "second": STATE}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="no named tensors"):
        read_tensors(tmp_path / "w.pth")


@pytest.mark.parametrize("wrapper", ["_checkpoint_wrapped_module", "_fsdp_wrapped_module"])
def test_wrappers_of_blocks_leave_the_names(tmp_path: Path, wrapper: str) -> None:
    torch.save({f"blocks.0.{wrapper}.attn.{wrapper}.w": STATE["a.weight"]}, tmp_path / "w.pth")
    assert list(read_tensors(tmp_path / "w.pth").tensors) == ["blocks.0.attn.w"]


def test_a_whole_pickled_model_gives_what_its_state_dict_would(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.BatchNorm1d(3)))
    model.register_buffer("passing", torch.ones(1), persistent=False)
    torch.save(model, tmp_path / "whole.pth")
    file = read_tensors(tmp_path / "whole.pth")
    assert file.tensors.keys() == model.state_dict().keys()
    assert all(torch.equal(file.tensors[k], v) for k, v in model.state_dict().items())
    assert "torch.nn.modules.linear.Linear" in file.foreign


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_what_would_run_code_is_named_and_not_run(tmp_path: Path, legacy: bool) -> None:
    target, path = tmp_path / "touched", tmp_path / "bad.pth"
    content = {"model": {**STATE, "x": {"y": [Runs(target)]}}, "args": argparse.Namespace(a=1)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    file = read_tensors(path)
    assert_state(file.tensors)
    assert "posix.mkdir" in file.foreign
    assert not target.exists()
    torch.load(path, weights_only=False)
    assert target.exists()  # the file is what it claims to be


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda path: torch.save({k: v.to("meta") for k, v in STATE.items()}, path), "_rebuild_meta_tensor_no_storage"),
        (lambda path: torch.save(Runs(Path("/x")), path), "posix.mkdir"),
        (lambda path: torch.save({"a": torch.eye(2).to_sparse()}, path), "_rebuild_sparse_tensor"),
    ],
    ids=["meta", "code", "sparse"],
)
def test_a_file_of_other_objects_alone_names_them(tmp_path: Path, make: Callable[[Path], None], named: str) -> None:
    make(tmp_path / "x.pth")
    with pytest.raises(UserError, match=f"holds no named tensors .*{named}"):
        read_tensors(tmp_path / "x.pth")


def torch_script(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({}))
        archive.writestr("x/constants.pkl", pickle.dumps(()))
        archive.writestr("x/code/x.py", "")


def npz(path: Path) -> None:
    with open(path, "wb") as file:
        np.savez(file, a=np.ones(2))


@pytest.mark.parametrize(
    ("write", "kind"),
    [
        (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n"), "Git LFS pointer"),
        (lambda p: p.write_text("\n<!DOCTYPE html><html>404"), "web page"),
        (lambda p: p.write_bytes(b"\x1f\x8b\x08\0"), "gzip"),
        (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n"), "HDF5"),
        (torch_script, "TorchScript"),
        (npz, "numpy archive"),
    ],
    ids=["lfs", "html", "gzip", "hdf5", "torchscript", "npz"],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_what_is_no_checkpoint_is_called_by_its_name(
    tmp_path: Path, write: Callable[[Path], Any], kind: str, suffix: str
) -> None:
    if suffix == "safetensors" and write in (torch_script, npz):
        pytest.skip("safetensors' own words")
    write(tmp_path / f"x.{suffix}")
    with pytest.raises(UserError, match=kind) as caught:
        read_tensors(tmp_path / f"x.{suffix}")
    assert "\n" not in str(caught.value)


def zipped(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """A file of torch.save, written anew member by member."""
    buffer = io.BytesIO()
    torch.save({"model": STATE}, buffer)
    source = zipfile.ZipFile(buffer)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name in source.namelist():
            archive.writestr(name, change(name, source.read(name)))
    return path


def test_a_flipped_bit_in_a_tensor_is_found_by_the_checksum(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.pth", lambda _, content: content)
    assert_state(read_tensors(path).tensors)
    content = bytearray(path.read_bytes())
    at = content.index(STATE["a.weight"].numpy().tobytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged: .*checksum"):
        read_tensors(path)


@pytest.mark.parametrize("metadata", [{"method": "MAE"}, None], ids=["ours", "timm's and Hugging Face's form"])
def test_a_flipped_bit_in_safetensors_of_ours_is_found(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "x.safetensors"
    save_tensors(path, STATE, metadata)
    read_tensors(path)
    content = bytearray(path.read_bytes())
    content[content.index(STATE["a.weight"].numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        read_tensors(path)


def test_the_same_tensors_give_the_same_bytes_that_other_libraries_read(tmp_path: Path) -> None:
    """safetensors itself writes the entries of metadata in any order."""
    paths = [tmp_path / f"{i}.safetensors" for i in range(8)]
    for path in paths:
        save_tensors(path, STATE)
    assert len({path.read_bytes() for path in paths}) == 1
    with safetensors.safe_open(paths[0], framework="pt") as file:
        assert file.metadata()["format"] == "pt"
        assert all(torch.equal(file.get_tensor(key), value) for key, value in STATE.items())


def test_more_tensors_than_any_net_has_are_refused(tmp_path: Path) -> None:
    header = {f"k{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(50_001)}
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(UserError, match="holds 50,001 tensors: no net has more than 50,000"):
        read_tensors(tmp_path / "x.safetensors")


def test_of_two_tensors_of_one_name_none_is_taken(tmp_path: Path) -> None:
    """The library takes the last."""
    entry = '"a":{{"dtype":"{}","shape":[1],"data_offsets":[0,4]}}'
    text = f"{{{entry.format('F32')},{entry.format('I32')}}}".encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"abcd")
    with pytest.raises(UserError, match="key 'a' is there twice"):
        read_tensors(tmp_path / "x.safetensors")


def test_of_two_members_of_one_name_none_is_taken(tmp_path: Path) -> None:
    """Readers of zips differ in which of them they take."""
    torch.save({"model": STATE}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth", "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(archive.namelist()[0], b"another")
    with pytest.raises(UserError, match=r"x/data\.pkl is there twice in it"):
        read_tensors(tmp_path / "x.pth")


def test_of_two_shards_with_one_name_none_is_taken(tmp_path: Path) -> None:
    for name in ("1", "2"):
        save_tensors(tmp_path / f"{name}.safetensors", STATE)
    places = {"a.weight": "1.safetensors", "a.bias": "2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(UserError, match=r"is in 2\.safetensors and in a file before it"):
        read_tensors(tmp_path)


def test_a_member_that_claims_more_than_the_file_has_is_refused(tmp_path: Path) -> None:
    torch.save({"model": STATE}, tmp_path / "x.pth")
    content = bytearray((tmp_path / "x.pth").read_bytes())
    entry = content.rindex(b"/byteorder") - len("x") - 46  # in the list of members (APPNOTE.TXT, 4.3.12)
    struct.pack_into("<II", content, entry + 20, 1 << 31, 1 << 31)
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(UserError, match="its members are larger than the file"):
        read_tensors(tmp_path / "x.pth")


def test_a_config_that_is_no_plain_file_is_not_passed_over(tmp_path: Path) -> None:
    save_tensors(tmp_path / "model.safetensors", STATE)
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(UserError, match=r"config\.json is a FIFO"):
        read_tensors(tmp_path / "model.safetensors")


def test_a_compressed_member_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.pth", lambda _, content: content, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        read_tensors(path)


def test_a_tensor_larger_than_what_is_stored_for_it_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(2**20, 2**20)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="a claims more numbers than the file holds"):
        read_tensors(tmp_path / "x.pth")


def test_many_views_of_the_same_bytes_are_refused(tmp_path: Path) -> None:
    shared = torch.zeros(2**20)
    torch.save({f"k{i}": shared for i in range(100)}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="times as large as the file"):
        read_tensors(tmp_path / "x.pth")


def holds_itself() -> dict[str, Any]:
    loop: dict[str, Any] = {}
    loop["model"] = loop
    return loop


def doubled(times: int) -> dict[str, Any]:
    content: Any = {"z": 1}
    for _ in range(times):
        content = {"a": content, "b": content}
    return {"model": content}


@pytest.mark.parametrize("content", [holds_itself(), doubled(45)], ids=["holds itself", "doubled 45 times"])
@pytest.mark.parametrize("write", [torch.save, lambda c, p: p.write_bytes(pickle.dumps(c, 4))], ids=["pth", "pkl"])
def test_a_checkpoint_without_end_is_refused_at_once(tmp_path: Path, content: Any, write: Callable[..., Any]) -> None:
    write(content, tmp_path / "x.bin")
    with pytest.raises(UserError):
        read_tensors(tmp_path / "x.bin")


def test_a_model_that_holds_itself_ends(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    model._modules["again"] = model
    torch.save(model, tmp_path / "x.pth")
    with pytest.raises(UserError, match="no named tensors"):
        read_tensors(tmp_path / "x.pth")


@pytest.mark.parametrize("make", [lambda p: os.mkfifo(p), lambda p: p.symlink_to("/dev/zero")], ids=["FIFO", "device"])
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_only_plain_files_are_opened(tmp_path: Path, make: Callable[[Path], None], name: str) -> None:
    make(tmp_path / name)
    with pytest.raises(UserError, match=name):
        read_tensors(tmp_path / name)


def test_a_whole_state_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "progress": {"step": 3, "loss": 0.5, "x": None},
    }
    torch.save(state, tmp_path / "step.pt")
    with open(tmp_path / "step.pt", "ab") as file:
        file.write(b"\nsha256:" + b"0" * 64 + b"\n")  # as a run's checkpoints end
    read, wanted = read_content(tmp_path / "step.pt"), torch.load(tmp_path / "step.pt", weights_only=True)
    torch.testing.assert_close(read, {**wanted, "model": dict(wanted["model"])}, rtol=0, atol=0)
    nn.Linear(3, 2).load_state_dict(read["model"])


@pytest.mark.parametrize("content", [{"a": Runs(Path("/x"))}, holds_itself(), [[[[[[[[[[[[[[1]]]]]]]]]]]]]]])
def test_a_whole_state_of_anything_else_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "step.pt")
    with pytest.raises((UserError, MalformedPickle, RecursionError)):
        read_content(tmp_path / "step.pt")
