"""Masking: a per-sample permutation cut in two, with the indices to undo it; equal to the official random_masking."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones.masking import mask_from_noise, random_masking, visible_count
from backbones.patches import take
from tests.golden.figures import arrays

sizes = st.tuples(st.integers(1, 4), st.integers(1, 60), st.floats(0.0, 0.99))


@given(sizes)
@settings(deadline=None, max_examples=60)
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
@settings(deadline=None, max_examples=60)
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
