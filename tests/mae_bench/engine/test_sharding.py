"""Sharded models in a group of one process: what is gathered is what was shared out; all read checkpoints of both kinds.

The arithmetic among several processes is `tests/end_to_end/test_distributed.py`'s and `benchmarks/fsdp.py`'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from backbones.errors import RunFailed, UserError
from mae_bench.engine.batches import steps
from mae_bench.engine.checkpoints import checkpoints, clean, go_back, load_newest, read_checkpoint, save_sharded
from mae_bench.engine.loop import create_accelerator
from mae_bench.engine.sampler import BatchPlan
from mae_bench.engine.seeding import seed_all
from mae_bench.engine.sharded_checkpoint import STATE_FILE, ShardedState
from mae_bench.engine.sharding import check_parallel, likes_of, outline, shard, state_in_shards, whole
from mae_bench.engine.trainer import Trainer
from mae_bench.recipes.load import load_recipe
from tasks import create_task
from tests.mae_bench.engine.test_engine import recipe


class Net(nn.Module):
    """Blocks, a frozen weight and running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5)) for _ in range(2))
        self.norm = nn.BatchNorm1d(5)
        self.fixed = nn.Parameter(torch.randn(3, 5), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.norm(x) @ self.fixed.T


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def sharded() -> tuple[Net, nn.Module]:
    """A sharded net and its outline."""
    torch.manual_seed(0)
    net = Net()
    shape = outline(net)
    shard(net, ["blocks.0", "blocks.1"], torch.device("cpu"))
    return net, shape


def trained(net: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=0.1, fused=True)
    torch.manual_seed(1)
    net.train()(torch.randn(4, 5)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def state_of(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {
        "model": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "ema": None,
        "scaler": None,
        "progress": {"step": 7, "loss": float("nan")},
    }


def flat(state: dict[str, Any]) -> dict[str, Tensor]:
    """Whole tensors of a state by name."""
    found = {f"model.{k}": v for k, v in state["model"].items()}
    moments = state["optimizer"]["state"]
    found |= {f"optimizer.{i}.{k}": v for i, each in moments.items() for k, v in each.items()}
    return {k: v.full_tensor() if isinstance(v, DTensor) else v for k, v in found.items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.usefixtures("group")
def test_the_whole_model_is_the_one_that_was_sharded_and_holds_no_shards() -> None:
    net, shape = sharded()
    optimizer = trained(net)
    assert all(p.is_meta for p in shape.parameters())
    found = whole(shape, net)
    wanted = flat(state_of(net, optimizer))
    assert same({f"model.{k}": v for k, v in found.state_dict().items()}, {k: wanted[k] for k in wanted if k[0] == "m"})
    assert not any(isinstance(p, DTensor) for p in found.parameters())
    assert [p.requires_grad for p in found.parameters()] == [p.requires_grad for p in net.parameters()]
    torch.manual_seed(0)
    alone = Net()
    trained(alone)
    assert same(dict(alone.state_dict()), dict(found.state_dict()))  # one process: the same numbers without shards


@pytest.mark.usefixtures("group")
def test_a_folder_is_read_in_shards_and_whole_and_a_file_in_shards(tmp_path: Path) -> None:
    net, _ = sharded()
    optimizer = trained(net)
    written = state_of(net, optimizer)
    wanted = flat(written)
    path = save_sharded(tmp_path / "c", 7, written, 2, main=True)
    assert path.name == "step_00000007.dcp"
    assert sorted(p.suffix for p in path.iterdir()) == [".pt", ".safetensors"]  # no index, which would be a pickle
    found = read_checkpoint(path)
    assert isinstance(found, ShardedState)
    alone = found.load()
    assert same(flat(alone), wanted)
    assert not any(isinstance(v, DTensor) for v in alone["model"].values())
    assert str(alone["progress"]) == "{'step': 7, 'loss': nan}"
    assert alone["optimizer"]["param_groups"] == written["optimizer"]["param_groups"]
    likes = likes_of(net, None, optimizer)
    for shared in (found.load(likes), state_in_shards(alone, likes)):
        assert same(flat(shared), wanted)
        assert isinstance(shared["model"]["blocks.0.0.weight"], DTensor)
        assert isinstance(shared["optimizer"]["state"][0]["exp_avg"], DTensor)
        optimizer.load_state_dict(shared["optimizer"])
        net.load_state_dict(shared["model"])


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("damage", ["flipped", "gone", "torn state"])
def test_a_damaged_folder_is_set_aside_and_the_one_before_it_is_used(tmp_path: Path, damage: str) -> None:
    net, _ = sharded()
    state = state_of(net, trained(net))
    paths = [save_sharded(tmp_path, step, state, 3, main=True) for step in (1, 2)]
    shards = next(paths[1].glob("*.safetensors"))
    if damage == "flipped":
        content = bytearray(shards.read_bytes())
        content[-3] ^= 4
        shards.write_bytes(content)
    elif damage == "gone":
        shards.unlink()
    else:
        (paths[1] / STATE_FILE).write_bytes((paths[1] / STATE_FILE).read_bytes()[:-100])
    found, said = load_newest(tmp_path)
    assert isinstance(found, ShardedState)
    assert found.path == paths[0]
    assert len(said) == 1
    assert said[0].startswith(f"{paths[1]} is damaged (")
    assert (tmp_path / f"damaged_{paths[1].name}").is_dir()


@pytest.mark.usefixtures("group")
def test_a_step_that_is_saved_again_never_leaves_less_than_it_finds(tmp_path: Path) -> None:
    net, _ = sharded()
    state = state_of(net, trained(net))
    (tmp_path / "step_00000003.pt").write_bytes(b"of a run that was not sharded")
    for _ in range(3):
        save_sharded(tmp_path, 3, state, 1, main=True)
    assert [p.name for p in checkpoints(tmp_path)] == ["step_00000003.2.dcp"]
    assert [p.name for p in tmp_path.iterdir() if p.name != "group"] == ["step_00000003.2.dcp"]
    assert go_back(tmp_path, 2) is None
    assert checkpoints(tmp_path) == []


@pytest.mark.usefixtures("group")
def test_half_a_folder_is_no_checkpoint_and_is_swept(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    half = folder / f".step_00000003.{'0' * 32}.tmp.dcp"
    half.mkdir(parents=True)
    (half / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"half")
    assert checkpoints(folder) == []
    clean(tmp_path)
    assert not half.exists()


@pytest.mark.usefixtures("group")
def test_a_full_disk_leaves_the_old_checkpoint_and_no_half_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, _ = sharded()
    state = state_of(net, trained(net))
    save_sharded(tmp_path, 1, state, 2, main=True)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFailed, match=r"step_00000002\.dcp: cannot be written: No space left on device"):
        save_sharded(tmp_path, 2, state, 2, main=True)
    assert [p.name for p in tmp_path.iterdir() if p.name != "group"] == ["step_00000001.dcp"]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detection", "segmentation"])
@pytest.mark.usefixtures("group")
def test_dense_tasks_take_the_same_steps_in_shards(task: str) -> None:
    """To the bit: batch norms, clipping and all. Among several processes they do for some steps (docs/launchers.md)."""
    pytest.importorskip({"detection": "detectron2", "segmentation": "mmseg"}[task])
    found = []
    for parallel in ("ddp", "fsdp"):
        few = ("scene_train_count=12", "scene_val_count=5", "train_count=80", "val_count=21", "pretrain_count=200")
        asked = load_recipe(f"{task}/vit_micro_patch8_embedded", [f"data.options.{each}" for each in few])
        accelerator = create_accelerator(asked)
        asked.train.parallel, asked.train.ema = parallel, 0.9
        seed_all(asked.seed, "init")
        images: Any = (made := create_task(asked)).train_dataset()
        trainer = Trainer(made, BatchPlan.make(len(images), 4, None, 0, 1, asked.seed), accelerator)
        for step, batches in steps(trainer, images, 0, 3):
            trainer.step(step, batches)
        found.append({**whole_state(trainer), **dict(trainer.eval_model().state_dict())})
    assert same(*found)


def whole_state(trainer: Trainer) -> dict[str, Tensor]:
    return flat({"model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()})


def test_what_only_evaluates_is_not_sharded() -> None:
    alone = recipe(parallel="fsdp")
    alone.schedule.iterations = 0
    check_parallel(alone, 1)


def test_one_process_and_fp16_are_refused_in_one_line() -> None:
    alone = r"^train\.parallel=fsdp shares a model among processes, and there is one: start several by torchrun \("
    with pytest.raises(UserError, match=alone):
        create_accelerator(recipe(parallel="fsdp"))
    with pytest.raises(UserError, match=r"^train\.parallel=fsdp goes with train\.precision=bf16 or fp32"):
        check_parallel(recipe(parallel="fsdp", precision="fp16"), 2)
