"""`mae-bench inspect --images`: which share of the patch tokens' variance position, image and neither explain."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backbones.vit.encoder import create_encoder
from mae_bench.checkpoint_tools.variance import Sums

IMAGES, PLACES, WIDTH = 40, 9, 5


def shares(tokens: torch.Tensor, batch: int = 7) -> tuple[float, float, float]:
    sums = Sums()
    for part in tokens.split(batch):
        sums.add(part)
    found = sums.shares(0)
    return found.position, found.image, found.rest


@pytest.fixture
def draw() -> Callable[..., torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(*shape, generator=generator)


def test_tokens_that_hang_on_one_thing_alone(draw: Callable[..., torch.Tensor]) -> None:
    where = draw(1, PLACES, WIDTH).expand(IMAGES, -1, -1)
    which = draw(IMAGES, 1, WIDTH).expand(-1, PLACES, -1)
    assert shares(where) == pytest.approx((1, 0, 0), abs=1e-12)
    assert shares(which) == pytest.approx((0, 1, 0), abs=1e-12)
    assert shares(torch.ones(IMAGES, PLACES, WIDTH)) == (0, 0, 0)


def test_shares_are_those_of_an_analysis_of_variance(draw: Callable[..., torch.Tensor]) -> None:
    tokens = 3 * draw(1, PLACES, WIDTH) + 2 * draw(IMAGES, 1, WIDTH) + draw(IMAGES, PLACES, WIDTH) + 1000
    centred = tokens.double() - tokens.double().mean(dim=(0, 1))
    total = centred.square().sum()
    position = IMAGES * centred.mean(dim=0).square().sum() / total
    image = PLACES * centred.mean(dim=1).square().sum() / total
    assert shares(tokens) == pytest.approx((position.item(), image.item(), (1 - position - image).item()), abs=1e-9)


def test_noise_gives_what_is_called_chance(draw: Callable[..., torch.Tensor]) -> None:
    position, image, _ = shares(draw(IMAGES, PLACES, 2000))
    assert position == pytest.approx((PLACES - 1) / (IMAGES * PLACES - 1), rel=0.05)
    assert image == pytest.approx((IMAGES - 1) / (IMAGES * PLACES - 1), rel=0.05)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(create_encoder("vit_micro_patch8", img_size=32).state_dict(), tmp_path / "encoder.pth")
    return tmp_path / "encoder.pth"


def test_command_line(cli: Callable, checkpoint: Path, pictures: Path) -> None:
    result = cli("inspect", checkpoint, "--images", pictures, "--json")
    card = json.loads(result.out)
    variance = card["variance"]
    assert (variance["images"], variance["places"], variance["img_size"]) == (6, 16, [32, 32])
    assert [block["block"] for block in variance["blocks"]] == [0, 1, 2, 3]
    for block in variance["blocks"]:
        assert block["position"] + block["image"] + block["rest"] == pytest.approx(1)
    assert "block 3 " in cli("inspect", checkpoint, "--images", pictures, "--img-size", 48).out


def test_what_cannot_be_answered_is_refused(cli: Callable, checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    lonely = tmp_path / "lonely"
    lonely.mkdir()
    (pictures / "0.png").rename(lonely / "0.png")
    assert "give at least two" in cli("inspect", checkpoint, "--images", lonely).err
    assert "--img-size goes with --images" in cli("inspect", checkpoint, "--img-size", 48).err
    assert cli("inspect", checkpoint, "--images", tmp_path / "nowhere").code == 2
