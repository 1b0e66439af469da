"""The codebook that stands in for a dVAE: nearest entries, k-means, and its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from backbones.errors import UserError
from backbones.files.tensor_files import save_tensors
from backbones.mae.patches import patchify
from backbones.mae.tokenizer import PatchCodebook, Tokenizer, load_tokenizer


def clusters(count: int, each: int) -> tuple[Tensor, Tensor]:
    """(count * each, 12) patches about `count` centres (count, 12) that lie far apart."""
    generator = torch.Generator().manual_seed(1)
    centres = 5 * torch.randn(count, 12, generator=generator)
    return (centres.repeat(each, 1) + 0.05 * torch.randn(count * each, 12, generator=generator)), centres


def test_ids_are_the_nearest_entries() -> None:
    tokenizer = PatchCodebook(2, 7)
    tokenizer.codebook.copy_(torch.randn(7, 12))
    images = torch.randn(3, 3, 6, 8)
    distances = torch.cdist(patchify(images, 2), tokenizer.codebook.expand(3, -1, -1))
    ids = tokenizer(images)
    assert ids.shape == (3, 12)
    assert torch.equal(ids, distances.argmin(-1))
    assert torch.equal(tokenizer.decode(ids), tokenizer.codebook[ids])


def test_k_means_finds_clusters() -> None:
    patches, centres = clusters(8, 50)
    tokenizer = PatchCodebook(2, 8)
    tokenizer.fit(patches)
    nearest = torch.cdist(centres, tokenizer.codebook).min(dim=1)
    assert sorted(nearest.indices.tolist()) == list(range(8))
    assert nearest.values.max() < 0.1


def test_fitted_codebook_uses_its_vocabulary_and_beats_the_mean() -> None:
    torch.manual_seed(0)
    images = torch.randn(64, 3, 4, 4).cumsum(-1).cumsum(-2)
    patches = patchify(images, 2)
    tokenizer = PatchCodebook(2, 32)
    tokenizer.fit(patches.flatten(0, 1))
    ids = tokenizer(images)
    assert len(ids.unique()) == 32
    error = (tokenizer.decode(ids) - patches).square().mean()
    assert error < 0.3 * (patches - patches.mean(dim=(0, 1))).square().mean()


def test_fewer_patches_than_tokens_are_refused() -> None:
    with pytest.raises(UserError, match=r"mae\.vocabulary=9 tokens cannot be fitted to 8 patches"):
        PatchCodebook(2, 9).fit(torch.randn(8, 12))


def test_codebook_is_a_tokenizer_and_other_modules_are_not() -> None:
    assert isinstance(PatchCodebook(2, 3), Tokenizer)
    assert not isinstance(torch.nn.Linear(3, 3), Tokenizer)


def test_file_out_and_in_again_is_identical(tmp_path: Path) -> None:
    tokenizer = PatchCodebook(2, 5)
    tokenizer.codebook.copy_(torch.randn(5, 12))
    save_tensors(tmp_path / "t.safetensors", tokenizer.state_dict())
    loaded = load_tokenizer(tmp_path / "t.safetensors", 2)
    assert torch.equal(loaded.codebook, tokenizer.codebook)
    assert loaded.vocabulary == 5


@pytest.mark.parametrize(
    ("tensors", "part"),
    [
        ({"codebook": torch.randn(5, 48)}, "patches of 2 px have 12"),
        ({"codebook": torch.full((5, 12), torch.nan)}, "no finite codebook"),
        ({"blocks.0.weight": torch.randn(5, 12)}, "no finite codebook"),
        (None, "not readable as safetensors"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, tensors: dict[str, Tensor] | None, part: str) -> None:
    path = tmp_path / "t.safetensors"
    if tensors is None:
        path.write_bytes(b"\x08")
    else:
        save_tensors(path, tensors)
    with pytest.raises(UserError) as caught:
        load_tokenizer(path, 2)
    message = str(caught.value)
    assert part in message
    assert f"mae.tokenizer={path}" in message
    assert "\n" not in message
