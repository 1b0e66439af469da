"""Masking: a per-sample permutation cut in two, with the indices to undo it; random equals the official random_masking."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from backbones.errors import UserError
from backbones.mae.masking import (
    SAMPLINGS,
    Masking,
    _draw_sizes,
    block_masking,
    draw_masking,
    grid_masking,
    mask_from_noise,
    random_masking,
    visible_count,
)
from backbones.mae.patches import take
from tests.golden.figures import arrays

sizes = st.tuples(st.integers(1, 4), st.integers(1, 60), st.floats(0.0, 0.99))


@given(sizes)
@settings(max_examples=60)
def test_kept_and_masked_are_a_permutation_that_ids_restore_undoes(size: tuple[int, int, float]) -> None:
    batch, patches, ratio = size
    masking = random_masking(batch, patches, ratio)
    shuffled = torch.cat([masking.ids_keep, masking.ids_masked], dim=1)
    everything = torch.arange(patches).expand(batch, -1)
    assert torch.equal(shuffled.sort(dim=1).values, everything)
    assert torch.equal(shuffled.gather(1, masking.ids_restore), everything)
    tokens = torch.randn(batch, patches, 3)
    assert torch.equal(take(take(tokens, shuffled), masking.ids_restore), tokens)


@given(sizes)
@settings(max_examples=60)
def test_mask_is_one_on_the_masked_patches_and_the_same_number_in_every_image(size: tuple[int, int, float]) -> None:
    batch, patches, ratio = size
    masking = random_masking(batch, patches, ratio)
    visible = int(patches * (1 - ratio))
    assert masking.ids_keep.shape == (batch, visible)
    assert masking.ids_masked.shape == (batch, patches - visible)
    assert masking.mask.sum(dim=1).tolist() == [patches - visible] * batch
    assert masking.mask.gather(1, masking.ids_keep).sum() == 0
    assert masking.mask.gather(1, masking.ids_masked).sum() == batch * (patches - visible)


def test_smallest_noise_stays_visible() -> None:
    masking = mask_from_noise(torch.tensor([[0.9, 0.1, 0.5, 0.3]]), 0.5)
    assert masking.ids_keep.tolist() == [[1, 3]]
    assert masking.ids_masked.tolist() == [[2, 0]]
    assert masking.mask.tolist() == [[1, 0, 1, 0]]


@pytest.mark.parametrize("ratio", [0.4, 0.5, 0.6, 0.75, 0.85, 0.9])
def test_equals_official(ratio: float) -> None:
    golden = arrays("masking")
    masking = mask_from_noise(torch.from_numpy(golden["noise"]), ratio)
    assert masking.ids_keep.tolist() == golden[f"kept_{ratio}"].tolist()
    assert masking.mask.tolist() == golden[f"mask_{ratio}"].tolist()
    assert masking.ids_restore.tolist() == golden["ids_restore"].tolist()


def test_images_are_masked_independently_and_evenly() -> None:
    torch.manual_seed(0)
    masking = random_masking(4000, 16, 0.75)
    share = masking.mask.mean(dim=0)
    # 4000 draws of probability 0.75: standard deviation 0.0068, bound at 5 of them.
    assert (share - 0.75).abs().max() < 0.035
    assert len({tuple(row) for row in masking.ids_keep.tolist()}) > 3000


@pytest.mark.parametrize(
    ("patches", "ratio", "visible"), [(196, 0.75, 49), (256, 0.75, 64), (25, 0.75, 6), (196, 0.9, 19)]
)
def test_visible_count_is_rounded_down(patches: int, ratio: float, visible: int) -> None:
    assert visible_count(patches, ratio) == visible


# --- Block-wise and grid-wise sampling (Table 1f).

grids = st.tuples(st.integers(1, 14), st.integers(1, 14))


@given(st.integers(1, 4), grids, st.floats(0.01, 0.99))
@settings(max_examples=80)
def test_blocks_mask_the_same_number_in_every_image_and_lose_no_patch(
    batch: int, grid: tuple[int, int], ratio: float
) -> None:
    patches = grid[0] * grid[1]
    masking = block_masking(batch, grid, ratio)
    visible = visible_count(patches, ratio)
    assert masking.ids_keep.shape == (batch, visible)
    assert masking.mask.sum(dim=1).tolist() == [patches - visible] * batch
    shuffled = torch.cat([masking.ids_keep, masking.ids_masked], dim=1)
    assert torch.equal(shuffled.gather(1, masking.ids_restore), torch.arange(patches).expand(batch, -1))


def as_grids(masking: Masking, grid: tuple[int, int]) -> Tensor:
    """(N, rows, columns) bool, True where masked."""
    return masking.mask.bool().unflatten(1, grid)


def share_of_masked_neighbours(masked: Tensor) -> float:
    """How often the right neighbour of a masked patch is masked too."""
    return (masked[..., :-1] & masked[..., 1:]).sum().item() / masked[..., :-1].sum().item()


def test_blocks_are_contiguous_where_random_patches_are_not() -> None:
    torch.manual_seed(0)
    blocks = share_of_masked_neighbours(as_grids(block_masking(500, (14, 14), 0.5), (14, 14)))
    alone = share_of_masked_neighbours(as_grids(random_masking(500, 196, 0.5), (14, 14)))
    assert alone == pytest.approx(0.5, abs=0.02)
    assert blocks > 0.8


def test_blocks_have_beits_aspect_ratios() -> None:
    torch.manual_seed(0)
    sizes = _draw_sizes(torch.full((4000,), 40000.0))
    aspects = sizes[:, 0] / sizes[:, 1]
    torch.testing.assert_close(sizes.prod(dim=1).float(), torch.full((4000,), 40000.0), rtol=0.02, atol=0)
    assert 0.3 * 0.98 < aspects.min() < 0.31
    assert 1 / 0.31 < aspects.max() < 1 / 0.3 * 1.02
    # Log-uniform, so that tall blocks are as frequent as wide ones and half lie between 0.3**0.5 and its inverse; bounds at
    # 5 standard deviations.
    assert abs((aspects > 1).float().mean() - 0.5) < 0.04
    assert abs((aspects.log().abs() < 0.5 * math.log(1 / 0.3)).float().mean() - 0.5) < 0.04


@pytest.mark.parametrize(("grid", "smallest"), [((14, 14), 16), ((28, 28), 64), ((6, 6), 3), ((2, 2), 1)])
def test_blocks_are_drawn_between_beits_smallest_and_what_is_left(
    grid: tuple[int, int], smallest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Tensor] = []
    monkeypatch.setattr(
        "backbones.mae.masking._draw_sizes", lambda area: (drawn.append(area.clone()), _draw_sizes(area))[1]
    )
    torch.manual_seed(0)
    masked = block_masking(300, grid, 0.5).ids_masked.shape[1]
    assert torch.cat(drawn).min() == pytest.approx(smallest, rel=0.05)
    assert masked * 0.95 < drawn[0].max() <= max(masked, smallest)
    # Uniform between the two at first.
    assert drawn[0].mean() == pytest.approx((smallest + masked) / 2, rel=0.12)


def test_every_image_gets_blocks_of_its_own_spread_over_all_positions() -> None:
    torch.manual_seed(0)
    masked = as_grids(block_masking(4000, (14, 14), 0.5), (14, 14))
    assert len({row.numpy().tobytes() for row in masked}) > 3900
    share = masked.float().mean(dim=0)
    # The middle is in more rectangles than the corners; left and right, top and bottom are alike. Standard deviation of a
    # share: 0.008 at most, and so 0.011 of a difference of two; bound at 5 of them.
    assert (share - share.flip(1)).abs().max() < 0.056
    assert (share - share.flip(0)).abs().max() < 0.056
    assert share[6:8, 6:8].min() > share[0, 0] > 0.05


@pytest.mark.parametrize("ratio", [0.5, 0.75])
def test_random_masking_is_uniform_over_positions(ratio: float) -> None:
    torch.manual_seed(0)
    images, patches = 5000, 196
    counts = random_masking(images, patches, ratio).mask.sum(dim=0)
    expected, variance = images * ratio, images * ratio * (1 - ratio)
    # Pearson's statistic of draws without replacement: a sum of L squared normals less one constraint.
    statistic = ((counts - expected).square() / variance).sum().item() * (patches - 1) / patches
    assert abs(statistic - (patches - 1)) < 5 * (2 * (patches - 1)) ** 0.5


@pytest.mark.parametrize(("grid", "ratio", "k"), [((14, 14), 0.75, 2), ((6, 4), 0.75, 2), ((6, 9), 0.8889, 3)])
def test_grid_keeps_one_patch_of_each_square(grid: tuple[int, int], ratio: float, k: int) -> None:
    masked = as_grids(grid_masking(3, grid, ratio), grid)
    wanted = torch.ones(grid, dtype=torch.bool)
    wanted[::k, ::k] = False
    assert torch.equal(masked, wanted.expand(3, -1, -1))


@pytest.mark.parametrize(
    ("grid", "ratio", "part"),
    [
        ((14, 14), 0.6, "0.75 (2 x 2)"),
        ((14, 14), 0.5, "0.75"),
        ((7, 7), 0.75, "multiples of 2"),
        ((14, 14), 0.1, "0.75"),
    ],
)
def test_grid_of_another_ratio_or_size_is_refused(grid: tuple[int, int], ratio: float, part: str) -> None:
    with pytest.raises(UserError, match=re.escape(part)) as caught:
        grid_masking(1, grid, ratio)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_samplings_are_drawn_from_the_global_generator(sampling: str) -> None:
    def draw(seed: int) -> Masking:
        torch.manual_seed(seed)
        return draw_masking(sampling, 2, (6, 6), 0.75)

    assert torch.equal(draw(0).ids_restore, draw(0).ids_restore)
    assert torch.equal(draw(0).ids_restore, draw(1).ids_restore) == (sampling == "grid")


def test_random_is_what_it_was_before_there_were_others() -> None:
    torch.manual_seed(3)
    drawn = draw_masking("random", 2, (5, 5), 0.75)
    torch.manual_seed(3)
    assert torch.equal(drawn.ids_restore, mask_from_noise(torch.rand(2, 25), 0.75).ids_restore)


def test_unknown_sampling_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match='did you mean "block"'):
        draw_masking("blok", 1, (4, 4), 0.75)
