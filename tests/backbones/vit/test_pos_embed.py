"""Fixed sin-cos positions equal the official ones; learnt ones are resampled without moving or scaling them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones.vit.pos_embed import resample_grid, sincos_2d
from tests.golden.figures import arrays

grids = st.tuples(st.integers(1, 9), st.integers(1, 9))


@pytest.mark.parametrize("key", sorted(arrays("pos_embed")))
def test_equals_official(key: str) -> None:
    width, grid, every = (int(part.lstrip("wgevry")) for part in key.split("_"))
    ours = sincos_2d(width, (grid, grid), prefix_tokens=1)
    assert ours.shape == (1, 1 + grid * grid, width)
    torch.testing.assert_close(ours[0, ::every], torch.from_numpy(arrays("pos_embed")[key]), rtol=1e-6, atol=1e-6)


def test_first_half_of_the_channels_is_the_column() -> None:
    pos = sincos_2d(16, (3, 5)).reshape(3, 5, 16)
    assert torch.equal(pos[0, :, :8], pos[2, :, :8])
    assert torch.equal(pos[:, 0, 8:], pos[:, 4, 8:])
    assert not torch.equal(pos[:, 0, :8], pos[:, 4, :8])


@given(grids, st.sampled_from([4, 12, 64]))
@settings(max_examples=30)
def test_positions_differ_from_each_other_and_prefix_is_zero(grid: tuple[int, int], width: int) -> None:
    pos = sincos_2d(width, grid, prefix_tokens=2)
    assert pos[:, :2].abs().sum() == 0
    patches = pos[0, 2:]
    assert len(torch.unique(patches, dim=0)) == grid[0] * grid[1]


def test_width_must_be_a_multiple_of_four() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_2d(6, (2, 2))


@given(grids)
@settings(max_examples=20)
def test_resampling_to_the_same_grid_changes_nothing(grid: tuple[int, int]) -> None:
    pos = torch.randn(1, grid[0] * grid[1], 5)
    assert torch.equal(resample_grid(pos, grid, grid), pos)


@given(grids, grids)
@settings(max_examples=30)
def test_resampling_keeps_constants_and_orientation(old: tuple[int, int], new: tuple[int, int]) -> None:
    value = torch.randn(7)
    constant = value.expand(1, old[0] * old[1], 7)
    torch.testing.assert_close(
        resample_grid(constant, old, new), value.expand(1, new[0] * new[1], 7), rtol=1e-5, atol=1e-5
    )
    rows = torch.arange(old[0]).float().repeat_interleave(old[1]).reshape(1, -1, 1)
    resampled = resample_grid(rows, old, new).reshape(new)
    torch.testing.assert_close(resampled, resampled[:, :1].expand(new), rtol=1e-5, atol=1e-5)
