"""FLOPs of a pre-training step, counted by torch, against the sum that one can do by hand."""

from __future__ import annotations

import pytest
import torch

from backbones.mae.model import MaskedAutoencoder
from backbones.vit.encoder import create_encoder
from mae_bench.engine.flops import step_flops_per_image
from mae_bench.tables.definitions import published


def by_hand(encoder_tokens: int, decoder_tokens: int) -> int:
    """ViT-L/16 at 224 px with the default decoder, 147 masked patches predicted and 49 embedded; 2 FLOPs a multiply-add.

    A block costs 12 d² a token for its linear layers and 2 n d a token for attention's two products. A backward pass costs
    twice the forward one, but for the patch embedding, whose input needs no gradient.
    """
    width, decoder_width, pixels = 1024, 512, 768

    def blocks(tokens: int, d: int, depth: int) -> int:
        return depth * (12 * d * d * tokens + 2 * tokens * tokens * d)

    encoder = blocks(encoder_tokens, width, 24)
    decoder = blocks(decoder_tokens, decoder_width, 8) + width * decoder_width * encoder_tokens
    return 2 * (3 * (encoder + decoder + decoder_width * pixels * 147) + 2 * pixels * width * 49)


@pytest.fixture(scope="module")
def counted() -> dict[bool, int]:
    """ViT-L/16, the default decoder, with and without mask tokens in the encoder."""
    flops = {}
    for mask_tokens in (True, False):
        with torch.device("meta"):
            model = MaskedAutoencoder(create_encoder("vit_large_patch16"), encoder_mask_tokens=mask_tokens)
        flops[mask_tokens] = step_flops_per_image(model, 224)
    return flops


def test_counting_equals_the_sum_by_hand(counted: dict[bool, int]) -> None:
    assert counted == {True: by_hand(197, 197), False: by_hand(50, 197)}


def test_the_papers_ratio_is_that_without_the_class_token(counted: dict[bool, int]) -> None:
    """Table 1c prints 3.3x. The class token is a dummy in the paper (Sec. 3), and 24 blocks of it lower the ratio to 3.24."""
    table = published.load()["tables"]["mae_t1c"]
    paper = published.row(table, "encoder w/ [M]", {})["FLOPs"].value
    assert round(by_hand(196, 196) / by_hand(49, 196), 1) == paper
    assert counted[True] / counted[False] == pytest.approx(paper, abs=0.06)
    assert counted[True] / counted[False] == pytest.approx(3.2445, abs=1e-4)


def test_counting_leaves_the_model_and_the_random_numbers_as_they_were() -> None:
    model = MaskedAutoencoder(create_encoder("vit_micro_patch8", img_size=48), decoder_embed_dim=64, decoder_depth=1)
    before, generator = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    assert step_flops_per_image(model, 48) > 0
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("target", ["pixels", "pixels_norm", "pca", "tokens"])
def test_every_target_can_be_counted(target: str) -> None:
    model = MaskedAutoencoder(
        create_encoder("vit_micro_patch8", img_size=48), decoder_embed_dim=64, decoder_depth=1, target=target
    )
    assert step_flops_per_image(model, 48) > 0
